"""Logs that clusters have uploaded to S3, and that name an erased photo."""

import gzip
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from resources import cluster_logs
from resources.cluster_logs import ClusterLogs, find_cluster_logs, remove_cluster_logs
from resources.settings import Settings
from tests.s3_server import s3_bucket

PHOTO = "Training/Kiwi/1.jpg"
TEXTS = [PHOTO]


@pytest.fixture
def s3(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of a server with the bucket `fruits`, with versions, to which the stack's clusters log."""
    with s3_bucket(tmp_path_factory.mktemp("server")):
        client = boto3.client("s3")
        client.put_bucket_versioning(Bucket="fruits", VersioningConfiguration={"Status": "Enabled"})
        outputs = [{"OutputKey": "LogUri", "OutputValue": "s3://fruits/logs/"}]
        monkeypatch.setattr(cluster_logs, "describe_stack", lambda _: {"Outputs": outputs})
        yield client


def settings(store: str = "s3://fruits/store", **given: Any) -> Settings:
    return Settings(images="s3://fruits/photos", store=store, _env_file=None, **given)


def upload(s3: Any, key: str, *lines: str) -> None:
    text = "\n".join(lines).encode()
    s3.put_object(Bucket="fruits", Key=key, Body=gzip.compress(text) if key.endswith(".gz") else text)


def versions(s3: Any) -> list[str]:
    listed = s3.list_object_versions(Bucket="fruits")
    return sorted(each["Key"] for kind in ("Versions", "DeleteMarkers") for each in listed.get(kind, ()))


def test_logs_that_name_a_photo_go_with_their_old_versions(s3: Any) -> None:
    upload(s3, "logs/j-1/steps/s-1/stderr.gz", f"reading {PHOTO}")
    upload(s3, "logs/j-1/steps/s-1/stderr.gz", f"reading {PHOTO}", "done")
    upload(s3, "logs/j-1/steps/s-1/controller.gz", "started")
    upload(s3, "logs/j-1/steps/s-1/controller.gz", "started", "ended")
    upload(s3, "logs/j-2/node/i-1/bootstrap-actions/1/stdout", "installed", PHOTO)
    upload(s3, "store/raw_images/a", PHOTO)
    found = ClusterLogs(files=2, old_versions=2, recent=["j-1", "j-2"])
    assert find_cluster_logs(settings(), TEXTS) == found
    assert len(versions(s3)) == 6
    # The old version of the first log goes with it.
    assert remove_cluster_logs(settings(), TEXTS) == found._replace(old_versions=1)
    assert versions(s3) == ["logs/j-1/steps/s-1/controller.gz", "store/raw_images/a"]
    assert remove_cluster_logs(settings(), TEXTS) == ClusterLogs(0, 0, [])


def test_logs_are_searched_where_the_setting_names_them(s3: Any) -> None:
    upload(s3, "logs/team/j-1/stderr.gz", PHOTO)
    upload(s3, "logs/j-2/stderr.gz", PHOTO)
    found = remove_cluster_logs(settings(emr_logs="s3://fruits/logs/team/"), TEXTS)
    assert found == ClusterLogs(1, 0, ["j-1"])
    assert versions(s3) == ["logs/j-2/stderr.gz"]


def test_a_damaged_log_counts_as_a_log_that_names_a_photo(s3: Any) -> None:
    s3.put_object(Bucket="fruits", Key="logs/j-1/stderr.gz", Body=gzip.compress(b"text" * 999)[:-9])
    found = remove_cluster_logs(settings(), TEXTS)
    assert found is not None and found.files == 1 and versions(s3) == []


def test_a_store_on_disk_and_an_account_without_a_stack_have_no_logs_of_clusters(
    s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(s3, "logs/j-1/stderr.gz", PHOTO)
    assert remove_cluster_logs(settings("/store"), TEXTS) is None
    monkeypatch.setattr(cluster_logs, "describe_stack", lambda _: None)
    assert find_cluster_logs(settings(), TEXTS) is None
    assert remove_cluster_logs(settings(), TEXTS) is None
    assert versions(s3) == ["logs/j-1/stderr.gz"]
