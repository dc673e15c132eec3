"""A finished run on classes and photos with names from real folders."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from tests.jobs import run_jobs

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
