"""The calls of an erasure, judged by the policies of the template."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import boto3
import pytest

from resources.cluster_logs import find_cluster_logs, remove_cluster_logs
from resources.emr import residency
from resources.photo_folders import list_photos
from resources.s3_versions import (
    abort_uploads,
    count_old_versions,
    count_uploads,
    remove_objects,
    remove_old_versions,
)
from resources.settings import Settings
from resources.store_records import erase_records
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import open_root
from tests.emr_bootstrap.conftest import ERASURE, NODES, OPERATOR, REGION, Account

PHOTO = "Kiwi/1.jpg"


class Place(NamedTuple):
    """Settings, and a client that may do everything, of a bucket whose objects name a photo."""

    settings: Settings
    s3: Any
    bucket: str

    def naming(self) -> set[str]:
        """The keys with the path of the photo in a current or old version, or with an unfinished upload."""
        listed = self.s3.list_object_versions(Bucket=self.bucket)
        read = {
            (each["Key"], each["VersionId"]): self.s3.get_object(
                Bucket=self.bucket, Key=each["Key"], VersionId=each["VersionId"]
            )["Body"].read()
            for each in listed.get("Versions", ())
        }
        uploads = self.s3.list_multipart_uploads(Bucket=self.bucket).get("Uploads", ())
        naming = {key for (key, _), content in read.items() if PHOTO.encode() in content}
        return naming | {each["Key"] for each in uploads}


@pytest.fixture
def place(account: Account, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A store below the store's prefix, with a run's records, in the bucket with versions."""
    stack, s3 = account.stack, boto3.client("s3")
    # moto's CloudFormation makes a bucket without versions.
    s3.put_bucket_versioning(Bucket=stack.bucket, VersioningConfiguration={"Status": "Enabled"})
    monkeypatch.setenv("AWS_ENDPOINT_URL", account.endpoint)
    monkeypatch.setenv("AWS_REGION", REGION)
    for key in (
        *("store/erasure/in_hand/run/1", "store/erasure/spark-events/local-1"),
        *("logs/j-1/stderr", "photos/Kiwi/1.jpg"),
    ):
        for content in (b"old ", b"new "):
            s3.put_object(Bucket=stack.bucket, Key=key, Body=content + PHOTO.encode())
    for key in ("store/erasure/raw_images/dead/1.parquet", "photos/Kiwi/1.jpg"):
        upload = s3.create_multipart_upload(Bucket=stack.bucket, Key=key)["UploadId"]
        s3.upload_part(Bucket=stack.bucket, Key=key, UploadId=upload, PartNumber=1, Body=PHOTO.encode())
    settings = Settings(
        images=stack.images_uri, store=f"{stack.store_uri}/erasure", region=REGION, _env_file=None
    )
    yield Place(settings, s3, stack.bucket)
    open_root.cache_clear()


def act_as(account: Account, who: str, patch: pytest.MonkeyPatch) -> None:
    """From now on, this process has the policies of `who` alone."""
    for name, value in account.access[who].items():
        patch.setenv(name.upper(), value)
    patch.setattr(boto3, "DEFAULT_SESSION", None)  # it has the credentials before
    open_root.cache_clear()


def test_the_policy_for_erasure_allows_each_call_of_an_erasure(
    account: Account, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, judged = place.naming(), len(account.judge.decisions())
    assert len(before) == 5
    act_as(account, ERASURE, monkeypatch)
    settings, store = place.settings, open_root(place.settings.store)
    monkeypatch.setattr(residency, "_passed", set())
    residency.check_residency(settings.model_copy(update={"env": "emr"}))
    assert "Kiwi" in list_photos(settings.images).classes
    # A table is written anew: large files in parts, checkpoints and pointers whole.
    with store.create("raw_images/erase-1/part-0.parquet") as stream:
        stream.write(b"0" * 11_000_000)
    store.copy("raw_images/erase-1/part-0.parquet", "raw_images/erase-1/part-1.parquet")
    store.remove("raw_images/erase-1")
    assert erase_records(store, [PHOTO], []).files == {"in_hand": 1, "spark-events": 1}
    assert count_uploads(settings.store, lambda _: False) == 1
    assert abort_uploads(settings.store, lambda _: False) == 1
    assert count_old_versions(settings.store) > 2
    assert remove_old_versions(settings.store) > 2
    found = find_cluster_logs(settings, [PHOTO])
    removed = remove_cluster_logs(settings, [PHOTO])
    assert found is not None and removed is not None and found.files == removed.files == 1
    assert abort_uploads(settings.images, lambda path: path != PHOTO) == 1
    assert remove_objects(settings.images, [PHOTO]) == 1
    assert place.naming() == set()
    assert all(decision["allowed"] for decision in account.judge.decisions()[judged:])


REFUSED: dict[str, Callable[[Settings], Any]] = {
    "count old versions": lambda settings: count_old_versions(settings.store),
    "remove old versions": lambda settings: remove_old_versions(settings.store),
    "count uploads": lambda settings: count_uploads(settings.store, lambda _: False),
    "abort uploads": lambda settings: abort_uploads(settings.store, lambda _: False),
    "remove photos": lambda settings: remove_objects(settings.images, [PHOTO]),
    "remove logs": lambda settings: remove_cluster_logs(settings, [PHOTO]),
}


@pytest.mark.parametrize("call", REFUSED)
def test_an_operator_without_the_policy_erases_nothing_for_good(
    account: Account, place: Place, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    before = place.naming()
    act_as(account, OPERATOR, monkeypatch)
    with pytest.raises(FruitsError, match=r"AWS refused List.* \(AccessDenied\)"):
        REFUSED[call](place.settings)
    assert place.naming() == before


@pytest.mark.parametrize("who", [OPERATOR, NODES, ERASURE])
def test_old_versions_and_photos_are_deleted_by_the_policy_for_erasure_alone(
    account: Account, place: Place, who: str
) -> None:
    # Where somebody knows the ids of versions, as from a log of S3, without a listing.
    s3, may = account.client("s3", who), who == ERASURE
    for key in ("store/erasure/in_hand/run/1", "photos/Kiwi/1.jpg", "logs/j-1/stderr"):
        listed = place.s3.list_object_versions(Bucket=place.bucket, Prefix=key)["Versions"]
        names = [{"Key": key, "VersionId": each["VersionId"]} for each in listed]
        answer = s3.delete_objects(Bucket=place.bucket, Delete={"Objects": names})
        assert [error["Code"] for error in answer.get("Errors", ())] == (
            [] if may else ["AccessDenied"] * len(names)
        )


def test_the_policy_for_erasure_writes_no_photos_logs_or_packages(account: Account, place: Place) -> None:
    s3 = account.client("s3", ERASURE)
    for key in ("photos/Kiwi/2.jpg", "logs/j-1/stderr", "bootstrap/bootstrap.sh"):
        with pytest.raises(s3.exceptions.ClientError, match="s3:PutObject"):
            s3.put_object(Bucket=place.bucket, Key=key, Body=b"")
    with pytest.raises(s3.exceptions.ClientError, match="s3:GetObject"):
        s3.get_object(Bucket=place.bucket, Key="photos/Kiwi/1.jpg")
