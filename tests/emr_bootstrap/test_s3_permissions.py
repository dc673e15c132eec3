"""Calls of S3 that the roles and policies of the template allow, enforced by moto."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto.core.authorization import enable_iam_authentication

from resources.photo_folders import list_photos
from spark_jobs.store.root import open_root
from tests.emr_bootstrap.conftest import DELETE, MAY, NODES, OPERATOR, PREFIXES, READ, WHO, WRITE, Account
from tests.emr_bootstrap.test_permissions import decides
from tests.s3_proxy import DENIED, Refusal, s3_proxy

# moto's CloudFormation does not create bucket policies, and warns about it.
pytestmark = pytest.mark.filterwarnings("ignore:.*AWS..S3..BucketPolicy")


@contextmanager
def _enforced(account: Account, who: str) -> Iterator[Any]:
    """An S3 client with the keys of a role or policy, whose permissions moto enforces."""
    key, secret = account.keys[who]
    s3 = boto3.client("s3", aws_access_key_id=key, aws_secret_access_key=secret)
    with enable_iam_authentication():
        yield s3


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("call", [READ, WRITE, DELETE])
def test_each_role_reaches_only_its_own_prefixes(account: Account, who: str, prefix: str, call: str) -> None:
    # Other tests read the first object, so calls that write or delete use another one.
    key = f"{prefix}/here/1.jpg" if call == READ else f"{prefix}/here/{who}.jpg"
    with _enforced(account, who) as s3:
        assert _passes(s3, call, Bucket=account.stack.bucket, Key=key) == (
            call in MAY[who].get(prefix, set())
        )


@pytest.mark.parametrize("who", WHO)
def test_other_buckets_and_bucket_settings_are_denied(account: Account, who: str) -> None:
    bucket = account.stack.bucket
    with _enforced(account, who) as s3:
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
        with enable_iam_authentication():
            assert list(list_photos(account.stack.images_uri).classes) == ["here"]
            photos, store = open_root(account.stack.images_uri), open_root(account.stack.store_uri)
            assert photos.read("here/1.jpg") == b"photo"
            assert store.exists()
            store.write(f"{who}/a", b"1")
            with store.create(f"{who}/large") as stream:  # in parts
                stream.write(b"0" * 11_000_000)
            store.copy(f"{who}/a", f"{who}/b")
            names = ["a", "b", "large"]
            assert sorted(info.path for info in store.list(who)) == [f"{who}/{name}" for name in names]
            for path in names:
                # Not `remove`: for the deletion of several objects, moto checks permissions of the bucket.
                store.fs.delete_file(f"{who}/{path}")
            with pytest.raises(OSError, match="ACCESS_DENIED"):
                photos.write("here/2.jpg", b"")
    finally:
        open_root.cache_clear()


@pytest.mark.parametrize("who", [NODES, OPERATOR])
def test_the_listings_of_a_run_stay_inside_the_prefixes_of_its_role(
    account: Account, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """moto knows no condition on a prefix, so the proxy judges each listing by the documents."""
    bucket = account.stack.bucket

    def judge(method: str, path: str, key: str) -> Refusal | None:
        # HeadBucket asks for s3:ListBucket too, and has no prefix:
        # https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadBucket.html
        listed, is_list, prefix = path.strip("/").partition("?")
        context = {"s3:prefix": prefix} if is_list else {}
        asks = is_list or (method == "HEAD" and listed == bucket)
        allowed = decides(account.policies[who], "s3:ListBucket", f"arn:aws:s3:::{listed}", context)
        return DENIED if asks and not allowed else None

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with s3_proxy(judge, account.endpoint) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        open_root.cache_clear()
        try:
            assert list(list_photos(account.stack.images_uri).classes) == ["here"]
            # As after the last photo is gone: `fruits forget` takes the last class out.
            assert not list_photos(f"{account.stack.images_uri}/empty", may_be_empty=True).classes
            store = open_root(account.stack.store_uri)
            assert [info.path for info in store.list("here")] == ["here/1.jpg"]
            with pytest.raises(OSError, match="ACCESS_DENIED"):
                open_root(f"s3://{bucket}").list("")
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
