"""A finished run on classes and photos with names from real folders."""

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest
from pyspark.sql import SparkSession

from spark_jobs.store.root import open_root
from tests.jobs import run_jobs
from tests.s3_server import s3_bucket

# A number, words that readers take for missing values, a formula, and what URIs and globs treat specially.
LABELS = ["001", "None", "NA", "-5 Kiwi", "P\u00eache d'\u00e9t\u00e9 #1? %2C=\u00e9", "[ab] 100% *"]
NAMES = [
    "IMG_0001.JPG",
    "photo (1).jpg",
    "2024-05-01 12.30.00.jpg",
    "=1+1.jpg",
    "\u00e9t\u00e9 #2.jpeg",
    "7",
]


@pytest.fixture(scope="package")
def real_names(sample_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos: 6 of each class of `LABELS`, and one bad photo of the first class."""
    root = tmp_path_factory.mktemp("real_names")
    photos = sorted(sample_photos.glob("*/*.jpg"))
    for number, label in enumerate(LABELS):
        (root / label).mkdir()
        for name, photo in zip(NAMES, photos[number * 4 % 18 :], strict=False):
            (root / label / name).write_bytes(photo.read_bytes())
    (root / LABELS[0] / "bad.jpg").write_text("no photo")
    return root


@pytest.fixture(scope="package")
def store_of_real_names(
    spark: SparkSession, extractor: Path, real_names: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The store of a run on `real_names`, which no test may change."""
    store = str(tmp_path_factory.mktemp("docs") / "store")
    run_jobs(spark, real_names, store, extractor, LABELS, max_bad_share=0.2)
    return store


@pytest.fixture(scope="package")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """A bucket, and the environment variables of its S3 server."""
    before = dict(os.environ)
    with s3_bucket(tmp_path_factory.mktemp("s3")) as uri:
        yield uri, {name: value for name, value in os.environ.items() if before.get(name) != value}


@pytest.fixture
def store_on_s3(
    bucket: tuple[str, dict[str, str]], store_of_real_names: str, monkeypatch: pytest.MonkeyPatch
) -> str:
    """A copy of the store on a local S3 server."""
    uri, environment = bucket
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")  # for readers without this project; AWS itself has TLS
    source, target = open_root(store_of_real_names), open_root(f"{uri}/store")
    if not target.exists():
        pafs.copy_files("", "", source_filesystem=source.fs, destination_filesystem=target.fs)
    return target.uri


@pytest.fixture(params=["disk", "S3"])
def store(request: pytest.FixtureRequest) -> str:
    uri: str = request.getfixturevalue("store_of_real_names" if request.param == "disk" else "store_on_s3")
    return uri
