"""Calls of S3 that the roles and policies of the template allow."""

from typing import Any

import pytest
from botocore.exceptions import ClientError

from resources.photo_folders import list_photos
from spark_jobs.store.root import open_root
from tests.emr_bootstrap.conftest import DELETE, MAY, NODES, OPERATOR, PREFIXES, READ, WHO, WRITE, Account

# moto's CloudFormation does not create bucket policies, and warns about it.
pytestmark = pytest.mark.filterwarnings("ignore:.*AWS..S3..BucketPolicy")


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("call", [READ, WRITE, DELETE])
def test_each_role_reaches_only_its_own_prefixes(account: Account, who: str, prefix: str, call: str) -> None:
    # Other tests read the first object, so calls that write or delete use another one.
    key = f"{prefix}/here/1.jpg" if call == READ else f"{prefix}/here/{who}.jpg"
    allowed = call in MAY[who].get(prefix, set())
    assert _passes(account.client("s3", who), call, Bucket=account.stack.bucket, Key=key) == allowed


@pytest.mark.parametrize("who", WHO)
def test_other_buckets_and_bucket_settings_are_denied(account: Account, who: str) -> None:
    bucket, s3 = account.stack.bucket, account.client("s3", who)
    for call in (READ, WRITE, DELETE):
        assert not _passes(s3, call, Bucket="other", Key="x")
    assert not _passes(s3, "list_objects_v2", Bucket="other")
    assert not _passes(s3, "delete_bucket", Bucket=bucket)
    assert not _passes(
        s3, "put_bucket_versioning", Bucket=bucket, VersioningConfiguration={"Status": "Suspended"}
    )
    assert not _passes(s3, "delete_bucket_policy", Bucket=bucket)
    assert not _passes(s3, "delete_bucket_lifecycle", Bucket=bucket)
    assert not _passes(s3, "create_bucket", Bucket="new")


@pytest.mark.parametrize("who", [NODES, OPERATOR])
def test_the_file_operations_of_a_run_are_allowed(
    account: Account, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", account.endpoint)
    for name, value in zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), account.keys[who], strict=True):
        monkeypatch.setenv(name, value)
    open_root.cache_clear()
    try:
        assert list(list_photos(account.stack.images_uri).classes) == ["here"]
        # As after the last photo is gone: `fruits forget` takes the last class out.
        assert not list_photos(f"{account.stack.images_uri}/empty", may_be_empty=True).classes
        photos, store = open_root(account.stack.images_uri), open_root(account.stack.store_uri)
        assert photos.read("here/1.jpg") == b"photo"
        assert store.exists()
        assert [info.path for info in store.list("here")] == ["here/1.jpg"]
        store.write(f"{who}/a", b"1")
        with store.create(f"{who}/large") as stream:  # in parts
            stream.write(b"0" * 11_000_000)
        store.copy(f"{who}/a", f"{who}/b")
        names = ["a", "b", "large"]
        assert sorted(info.path for info in store.list(who)) == [f"{who}/{name}" for name in names]
        store.remove(who)
        assert not store.list(who)
        with pytest.raises(OSError, match="ACCESS_DENIED"):
            photos.write("here/2.jpg", b"")
        with pytest.raises(OSError, match="ACCESS_DENIED"):
            open_root(f"s3://{account.stack.bucket}").list("")
    finally:
        open_root.cache_clear()


def _passes(s3: Any, call: str, **request: Any) -> bool:
    try:
        getattr(s3, call)(**request)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("AccessDenied", "403"):
            return False
        raise
    return True
