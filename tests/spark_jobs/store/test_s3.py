"""Photos and store on S3, which moto's server replaces over HTTP on this machine."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pandas as pd
import pytest
from moto.server import ThreadedMotoServer

from fruits_assets.model.weights import find_weights
from resources.photo_folders import list_photos
from spark_jobs.errors import FruitsError
from spark_jobs.spark_model import read_components
from spark_jobs.store.csv_copies import csv_paths
from spark_jobs.store.leases import held_lease
from spark_jobs.store.pointers import current_by_class, current_one, new_directory, publish
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import PCA_MODEL
from spark_jobs.store.sweep import sweep_table, sweep_versions
from spark_jobs.store.versions import Version, class_key
from tests.conftest import CLASSES
from tests.docs.pages import PYTHON
from tests.spark_jobs.store.written import TABLE, commit_class, rows_of
from tests.support import REPOSITORY, current_files, publish_extractor

SECRET = "a-secret-that-nobody-may-print"
AWKWARD = [
    "=cmd()",
    "-rf",
    "a b",
    "100%",
    "%20",
    "a=b",
    "#1, \"2\" & '3'",
    "a+b?",
    "l'été",
    "日本",
    "😀" * 60,
]


@pytest.fixture(scope="module", autouse=True)
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of a local S3 server with the bucket `fruits`. AWS's variables point to this server."""
    logging.getLogger("werkzeug").disabled = True
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_REGION", "eu-west-3")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        none = str(tmp_path_factory.mktemp("aws") / "none")
        patch.setenv("AWS_CONFIG_FILE", none)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", none)
        open_root.cache_clear()
        client = boto3.client("s3", region_name="eu-west-3")
        client.create_bucket(Bucket="fruits", CreateBucketConfiguration={"LocationConstraint": "eu-west-3"})
        yield client
        open_root.cache_clear()
    server.stop()


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    """An empty prefix that only this test uses."""
    return f"s3://fruits/{tmp_path.name}"


# The store, in this process.


def test_a_prefix_whose_last_photo_is_gone_may_be_empty(prefix: str) -> None:
    assert list_photos(prefix, may_be_empty=True).classes == {}
    with pytest.raises(FruitsError, match=f"FRUITS_IMAGES={prefix} does not exist"):
        list_photos(prefix)
    with pytest.raises(FruitsError, match="FRUITS_IMAGES=s3://no-such-bucket/photos does not exist"):
        list_photos("s3://no-such-bucket/photos", may_be_empty=True)


def test_photos_of_any_name_are_listed_by_class(prefix: str) -> None:
    root = open_root(prefix)
    paths = [f"{label}/1.jpg" for label in AWKWARD] + ["deep/er/a b/2.jpg"]
    skipped = ["loose.jpg", ".cache/1.jpg", "a b/_old/1.jpg"]
    root.write_many((path, b"photo") for path in [*paths, *skipped, "a...b/1.jpg"])
    listing = list_photos(prefix)
    assert sorted(photo.path for photos in listing.classes.values() for photo in photos) == sorted(paths)
    assert sorted(listing.classes) == sorted(AWKWARD)
    assert sorted(listing.skipped) == [".cache", "a b/_old", "loose.jpg"]
    assert list(listing.refused) == ["a...b"]
    assert {photo.bytes for photos in listing.classes.values() for photo in photos} == {5}


def test_a_folder_object_of_the_s3_console_is_no_photo(prefix: str, s3: Any) -> None:
    root = open_root(prefix)
    root.write("Kiwi/1.jpg", b"photo")
    s3.put_object(Bucket="fruits", Key=f"{prefix.rpartition('/')[2]}/Banana/")
    assert list(list_photos(prefix).classes) == ["Kiwi"]


def test_a_key_with_an_empty_folder_name_hides_no_other_photo(prefix: str, s3: Any) -> None:
    open_root(prefix).write("Kiwi/1.jpg", b"photo")
    s3.put_object(Bucket="fruits", Key=f"{prefix.rpartition('/')[2]}//2.jpg")
    listing = list_photos(prefix)
    assert [photo.path for photo in listing.classes["Kiwi"]] == ["Kiwi/1.jpg"]
    assert list(listing.skipped.values()) == ["has a part without a name, or the part . or .., in its path"]


def test_a_photo_with_the_same_size_and_time_is_known_by_its_etag(prefix: str) -> None:
    root, listings = open_root(prefix), []
    for content in (b"photo", b"other", b"photo"):
        root.write("Kiwi/1.jpg", content)
        listings.append(list_photos(prefix))
    first, second, third = (listing.classes["Kiwi"][0].state for listing in listings)
    assert first == third != second
    assert listings[0].version("Kiwi") == listings[2].version("Kiwi") != listings[1].version("Kiwi")


def test_many_folders_are_listed_in_ranges_that_leave_no_photo_out(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resources.photo_folders._LEAST_FOLDERS", 2)
    paths = [f"{label}/{number}.jpg" for label in AWKWARD for number in range(3)]
    root = open_root(prefix)
    root.write_many((path, b"photo") for path in [*paths, "a.jpg", "zz.jpg", "😀.jpg"])
    listing = list_photos(prefix)
    assert sorted(photo.path for photos in listing.classes.values() for photo in photos) == sorted(paths)
    assert sorted(listing.skipped) == ["a.jpg", "zz.jpg", "😀.jpg"]


@pytest.mark.parametrize("uri", ["s3://fruits/no-such-prefix", "s3://no-such-bucket/photos"])
def test_a_missing_root_is_refused_with_the_remedy(uri: str) -> None:
    with pytest.raises(FruitsError, match=f"^FRUITS_IMAGES={uri} does not exist. Set it to"):
        list_photos(uri)


def test_files_of_any_name_are_written_read_and_copied(prefix: str) -> None:
    root = open_root(prefix)
    for label in AWKWARD:
        content = f"{label}\n".encode() * 100
        root.write(f"from/{label}/part.csv", content)
        root.copy(f"from/{label}/part.csv", f"to/{label}.csv")
        assert root.read(f"to/{label}.csv") == content
    assert sorted(info.path for info in root.list("to")) == sorted(f"to/{label}.csv" for label in AWKWARD)
    with pytest.raises(FileNotFoundError):
        root.read("to/none.csv")


def test_a_file_is_written_by_one_put(prefix: str, s3: Any) -> None:
    open_root(prefix).write("pointer.json", b"{}" * 100_000)
    etag = s3.head_object(Bucket="fruits", Key=f"{prefix.rpartition('/')[2]}/pointer.json")["ETag"]
    assert "-" not in etag  # the ETag of a multipart upload ends in "-" and the number of parts


def test_outputs_with_pointers_on_s3_are_published_read_and_removed(prefix: str) -> None:
    root = open_root(prefix)
    assert current_by_class(root, "raw") == {}
    assert current_one(root, "model") is None
    for _ in range(2):
        for label in AWKWARD:
            directory = f"{new_directory('raw', 'run')}/{class_key(label)}"
            root.write(f"{directory}/part.csv", label.encode())
            publish(root, "raw", [Version(label=label, directory=directory, data_version="v")])
    versions = current_by_class(root, "raw")
    assert list(versions) == sorted(AWKWARD)
    with held_lease(root, "sweeping") as lease:
        assert sweep_versions(root, "raw", timedelta(hours=1), lease) == 0
        assert sweep_versions(root, "raw", timedelta(seconds=-60), lease) == len(AWKWARD)
    left = [info.path for info in root.list("raw") if info.path.endswith(".csv")]
    assert sorted(left) == sorted(f"{version.directory}/part.csv" for version in versions.values())
    root.remove("raw/version=none")


def test_tables_on_s3_are_committed_read_and_swept(prefix: str) -> None:
    root = open_root(prefix)
    assert rows_of(root) == {}
    for label in AWKWARD:
        commit_class(root, label, ["a", "b"])
    old = commit_class(root, "Kiwi", ["a"], "first")
    commit_class(root, "Kiwi", ["a", "b", "c"], "second")
    assert rows_of(root) == dict.fromkeys(sorted({*AWKWARD, "Kiwi"}), 2) | {"Kiwi": 3}
    with held_lease(root, "sweeping") as lease:
        assert sweep_table(root, TABLE, timedelta(hours=1), lease) == 0
        assert sweep_table(root, TABLE, timedelta(seconds=-60), lease) == 1
    assert not root.has(old.path)
    assert rows_of(root, ["Kiwi"]) == {"Kiwi": 3}


def test_weights_on_s3_are_read_with_and_without_a_sha256(prefix: str) -> None:
    open_root(prefix).write("some weights.npz", b"weights")
    weights = find_weights(f"{prefix}/some weights.npz")
    assert weights.content == b"weights"
    assert find_weights(f"{prefix}/some weights.npz#sha256={weights.sha256}") == weights
    with pytest.raises(FruitsError, match="not the pinned hash"):
        find_weights(f"{prefix}/some weights.npz#sha256=00")
    with pytest.raises(FruitsError, match=f"^FRUITS_WEIGHTS={prefix}/none.npz cannot be read"):
        find_weights(f"{prefix}/none.npz")


# The jobs run with Spark's S3 jars, in their own process: the session of the suite has no such jars.

JOBS = """
import json, sys
from resources.local.session import start_session
from resources.settings import Settings, load_settings
from resources.photo_folders import list_photos
from tests.jobs import extract, fit, ingest, project

settings = load_settings(Settings)
spark = start_session(settings)
classes = list(list_photos(settings.images).classes)
failed = [ingest(spark, settings.images, settings.store, classes).failed]
failed.append(extract(spark, settings.store, classes).failed)
fit(spark, settings.store, 2)
failed.append(project(spark, settings.store, classes).failed)
exec(sys.argv[1].replace("/data/store", settings.store))  # the documentation's example
model = PCAModel.load(spark_model(settings.store))
tables = [[row.label for row in table.collect()] for table in (features, components, csvs)]
print(json.dumps({"failed": failed, "pc": model.pc.toArray().tolist(), "labels": tables}))
"""


def test_all_jobs_run_with_photos_and_store_on_s3(prefix: str, sample_photos: Path, extractor: Path) -> None:
    images, store = f"{prefix}/photos", f"{prefix}/store"
    labels = ["=cmd()", "100% #1, a=b", "l'été 😀"]
    for label, sample_class in zip(labels, CLASSES, strict=True):
        for path in sorted((sample_photos / sample_class).iterdir())[:3]:
            open_root(images).write(f"{label}/{path.name}", path.read_bytes())
    publish_extractor(store, extractor)
    [example] = [block for block in PYTHON.values() if "spark.read.parquet" in block]
    result = subprocess.run(
        [sys.executable, "-c", JOBS, example],
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "FRUITS_IMAGES": images,
            "FRUITS_STORE": store,
            "FRUITS_SPARK_CORES": "2",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    output = result.stdout + result.stderr
    assert SECRET not in output
    if "The jars of org.apache.hadoop:hadoop-aws" in output and "can't be downloaded" in output:
        pytest.skip("Spark's S3 jars are not in ~/.cache/fruits and cannot be downloaded from Maven Central")
    assert result.returncode == 0, output
    printed = json.loads(result.stdout.splitlines()[-1])
    assert printed["failed"] == [{}, {}, {}]
    for found in printed["labels"]:
        assert sorted(label.removeprefix("'") for label in found) == sorted(labels * 3)
    model = current_one(open_root(store), PCA_MODEL)
    assert model is not None
    assert printed["pc"] == read_components(store, model.directory).tolist()
    for label in labels:
        with open_root(store).fs.open_input_stream(csv_paths(labels)[label]) as stream:
            rows = pd.read_csv(stream)
        assert list(rows.columns) == ["path", "label", "pc1", "pc2"]
        assert [text.removeprefix("'") for text in rows["label"]] == [label] * 3
    assert all(file.startswith(f"{store}/raw_images/") for file in current_files(store, "raw_images"))
