"""What S3 keeps beside current objects, in a bucket with versions on a server of this machine."""

import uuid
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from resources import s3_versions
from resources.s3_client import s3_client
from resources.s3_versions import (
    abort_uploads,
    count_old_versions,
    count_uploads,
    remove_objects,
    remove_old_versions,
)
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import split_s3_uri
from tests.s3_server import s3_bucket


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of a server with the bucket `plain`, which has no versions."""
    with s3_bucket(tmp_path_factory.mktemp("server"), "plain"):
        yield boto3.client("s3")


@pytest.fixture
def store(s3: Any) -> str:
    """The URI of an empty store in a new bucket with versions."""
    bucket = uuid.uuid4().hex
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-3"})
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return f"s3://{bucket}/store"


def put(s3: Any, store: str, path: str, *contents: bytes) -> None:
    bucket, prefix = split_s3_uri(store)
    for content in contents:
        s3.put_object(Bucket=bucket, Key=f"{prefix}/{path}", Body=content)


def delete(s3: Any, store: str, path: str) -> None:
    bucket, prefix = split_s3_uri(store)
    s3.delete_object(Bucket=bucket, Key=f"{prefix}/{path}")


def kept(s3: Any, store: str) -> list[tuple[str, bytes]]:
    """The key and the content of every version in the bucket, and the key of every delete marker."""
    bucket, _ = split_s3_uri(store)
    listed = s3.list_object_versions(Bucket=bucket)
    versions = [
        (
            each["Key"],
            s3.get_object(Bucket=bucket, Key=each["Key"], VersionId=each["VersionId"])["Body"].read(),
        )
        for each in listed.get("Versions", ())
    ]
    return sorted(versions + [(each["Key"], b"(deleted)") for each in listed.get("DeleteMarkers", ())])


def test_current_objects_stay_and_old_versions_go(s3: Any, store: str) -> None:
    put(s3, store, "table/a", b"1", b"2", b"3")
    put(s3, store, "table/b", b"1")
    delete(s3, store, "table/b")
    put(s3, store, "table/c", b"1")
    delete(s3, store, "table/c")
    put(s3, store, "table/c", b"2")
    assert count_old_versions(store) == 6
    assert remove_old_versions(store) == 6
    assert kept(s3, store) == [("store/table/a", b"3"), ("store/table/c", b"2")]
    assert (count_old_versions(store), remove_old_versions(store)) == (0, 0)


def test_keys_beside_the_prefix_keep_their_versions(s3: Any, store: str) -> None:
    put(s3, f"{store}-2", "a", b"1", b"2")
    put(s3, store, "a", b"1", b"2")
    assert remove_old_versions(store) == 1
    assert kept(s3, store) == [("store-2/a", b"1"), ("store-2/a", b"2"), ("store/a", b"2")]


def test_more_versions_than_one_answer_or_one_deletion_holds_are_removed(
    s3: Any, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both hold 1,000: https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectVersions.html
    for path in "abc":
        put(s3, store, path, b"1", b"2", b"3")
        delete(s3, store, path)
    small = s3_client(split_s3_uri(store)[0])
    small.meta.events.register(
        "before-parameter-build.s3.ListObjectVersions", lambda params, **_: params.update(MaxKeys=2)
    )
    calls: list[str] = []
    small.meta.events.register("before-call.s3", lambda model, **_: calls.append(model.name))
    monkeypatch.setattr(s3_versions, "s3_client", lambda _: small)
    monkeypatch.setattr(s3_versions, "_BATCH", 2)
    assert remove_old_versions(store) == 12
    assert calls.count("ListObjectVersions") == 6
    # Nine versions, and then three delete markers.
    assert calls.count("DeleteObjects") == 5 + 2
    assert kept(s3, store) == []


def test_a_bucket_without_versions_has_nothing_old(s3: Any) -> None:
    put(s3, "s3://plain/store", "a", b"1", b"2")
    assert remove_old_versions("s3://plain/store") == 0
    assert kept(s3, "s3://plain/store") == [("store/a", b"2")]
    assert remove_objects("s3://plain/store", ["a", "missing"]) == 1
    assert kept(s3, "s3://plain/store") == []


def test_a_version_that_s3_keeps_is_named_and_stays_hidden(
    s3: Any, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(s3, store, "a", b"1")
    delete(s3, store, "a")
    sent: list[Any] = []

    class Refusing:
        """S3 refuses each old version in an answer with the status 200:

        https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html
        """

        def __getattr__(self, name: str) -> Any:
            return getattr(s3, name)

        def delete_objects(self, Bucket: str, Delete: Any) -> Any:
            sent.extend(Delete["Objects"])
            errors = [
                {"Key": each["Key"], "Code": "AccessDenied", "Message": "Access Denied"}
                for each in Delete["Objects"]
            ]
            return {"Errors": errors}

    monkeypatch.setattr(s3_versions, "s3_client", lambda _: Refusing())
    with pytest.raises(FruitsError, match=r"did not delete s3://.*/store/a \(AccessDenied: Access Denied\)"):
        remove_old_versions(store)
    # Without the delete marker, the photo would be an object again.
    [version] = s3.list_object_versions(Bucket=split_s3_uri(store)[0])["Versions"]
    assert sent == [{"Key": "store/a", "VersionId": version["VersionId"]}]
    assert kept(s3, store) == [("store/a", b"(deleted)"), ("store/a", b"1")]


def test_a_bucket_that_does_not_exist_is_named(s3: Any) -> None:
    with pytest.raises(FruitsError, match="AWS refused ListObjectVersions \\(NoSuchBucket\\)"):
        remove_old_versions("s3://missing/store")


def test_a_photo_goes_with_all_its_versions_and_its_neighbours_stay(s3: Any, store: str) -> None:
    put(s3, store, "Kiwi/1.jpg", b"1", b"2")
    delete(s3, store, "Kiwi/1.jpg")
    put(s3, store, "Kiwi/1.jpg", b"3")
    put(s3, store, "Kiwi/1.jpg.bak", b"neighbour")
    put(s3, store, "Kiwi/l'été #1+%20.jpg", b"4")
    assert remove_objects(store, ["Kiwi/1.jpg", "Kiwi/l'été #1+%20.jpg", "Kiwi/missing.jpg"]) == 2
    assert kept(s3, store) == [("store/Kiwi/1.jpg.bak", b"neighbour")]
    assert remove_objects(store, ["Kiwi/1.jpg"]) == 0


def test_unfinished_uploads_end_except_those_of_living_runs(s3: Any, store: str) -> None:
    bucket, _ = split_s3_uri(store)
    for key in ("store/raw_images/dead/1.parquet", "store/raw_images/living/1.parquet", "elsewhere/1"):
        upload = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        s3.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"photo")
    asked: list[str] = []

    def of_a_living_run(path: str) -> bool:
        asked.append(path)
        return "living" in path.split("/")

    assert count_uploads(store, of_a_living_run) == 1
    assert abort_uploads(store, of_a_living_run) == 1
    assert set(asked) == {"raw_images/dead/1.parquet", "raw_images/living/1.parquet"}
    left = s3.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert sorted(each["Key"] for each in left) == ["elsewhere/1", "store/raw_images/living/1.parquet"]
    assert abort_uploads(store, of_a_living_run) == 0
