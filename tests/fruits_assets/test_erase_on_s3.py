"""`fruits erase` on a store and photos in a bucket that keeps old versions."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from resources.settings import Settings
from spark_jobs.store.classes import holdings
from spark_jobs.store.root import open_root
from tests.every_byte import every_byte, files_below
from tests.fruits_assets.commands import fruits
from tests.fruits_assets.dagster_platform import CLASSES, IMAGES, Platform
from tests.report_page import ReportPage
from tests.s3_server import s3_bucket

NAME = "Kiwi/0_100.jpg"


@pytest.fixture
def on_s3(platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    """The finished platform, whose store and photos were copied to a bucket with versions."""
    monkeypatch.setenv("DAGSTER_HOME", str(platform.home))
    with s3_bucket(tmp_path, "fruits") as uri:
        client = boto3.client("s3")
        client.put_bucket_versioning(Bucket="fruits", VersioningConfiguration={"Status": "Enabled"})
        for _ in range(2):  # so each object has an old version
            for place, folder in {
                "store": platform.settings.store,
                "photos": platform.settings.images,
            }.items():
                for path, content in files_below(Path(folder)):
                    client.put_object(Bucket="fruits", Key=f"{place}/{path}", Body=content)
        unfinished = client.create_multipart_upload(
            Bucket="fruits", Key="store/raw_images/killed/part.parquet"
        )
        part = {name: unfinished[name] for name in ("Bucket", "Key", "UploadId")}
        client.upload_part(**part, PartNumber=1, Body=(platform.photos / NAME).read_bytes())
        changed = {"images": f"{uri}/photos", "store": f"{uri}/store"}
        platform.settings = Settings(**{**platform.settings.model_dump(), **changed}, _env_file=None)
        yield platform


def versions() -> Iterator[tuple[str, bytes]]:
    """The contents of all objects of the bucket, also of replaced and deleted ones."""
    client = boto3.client("s3")
    for page in client.get_paginator("list_object_versions").paginate(Bucket="fruits"):
        for entry in page.get("Versions", ()):
            key, version = entry["Key"], entry["VersionId"]
            yield key, client.get_object(Bucket="fruits", Key=key, VersionId=version)["Body"].read()


def test_no_version_of_any_object_has_a_byte_of_an_erased_photo(on_s3: Platform) -> None:
    content = (on_s3.photos / NAME).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    for _ in range(2):  # the report has an old version too
        assert fruits(on_s3, "report", "--no-open").exit_code == 0
    copy = on_s3.home / "report.html"
    picture = ReportPage(copy.read_bytes()).picture(NAME)
    middle = content[len(content) // 2 :][:200]
    needles = [NAME.encode(), digest.encode(), bytes.fromhex(digest), middle, picture]

    def places() -> set[str]:
        found = every_byte(versions())
        return {place.split("/")[1] for place, inside in found if any(needle in inside for needle in needles)}

    assert places() >= {"raw_images", "mobilenet_features", "pca_features_csv", "report", "Kiwi"}
    result = fruits(on_s3, "erase", "--source", NAME, "--yes")
    assert result.exit_code == 0, result.output
    assert places() == set()
    assert not copy.exists()
    client = boto3.client("s3")
    assert "Uploads" not in client.list_multipart_uploads(Bucket="fruits")
    assert NAME not in {photo[0] for photo in files_below(on_s3.home)}
    assert holdings(open_root(on_s3.settings.store))["Kiwi"].images == IMAGES - 1
    assert {f"photos/{NAME}"}.isdisjoint(place for place, _ in versions())


def test_without_source_the_photo_stays_in_its_bucket_alone(on_s3: Platform) -> None:
    assert fruits(on_s3, "erase", NAME, "--yes").exit_code == 0
    assert {place for place, _ in versions() if place.endswith(NAME)} == {f"photos/{NAME}"}
    result = fruits(on_s3, "run", "--dry-run")
    assert result.exit_code == 0, result.output
    # The copies of the other photos have other states on S3 than on disk.
    others = len(CLASSES) * IMAGES - 1
    assert f"photos  {others} changed in {len(CLASSES)} classes" in result.output
