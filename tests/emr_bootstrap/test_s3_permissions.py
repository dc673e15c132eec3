"""Calls of S3 that the roles and policies of the template allow."""

import json
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from resources.photo_folders import list_photos
from spark_jobs.store.root import open_root
from tests.emr_bootstrap.conftest import (
    DELETE,
    MAY,
    NODES,
    OPERATOR,
    PREFIXES,
    READ,
    WHO,
    WRITE,
    Account,
)


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
    for name, value in account.access[who].items():
        monkeypatch.setenv(name.upper(), value)
    open_root.cache_clear()
    try:
        assert list(list_photos(account.stack.images_uri).classes) == ["here"]
        # As after the last photo is gone: `fruits forget` takes the last class out.
        assert not list_photos(f"{account.stack.images_uri}/empty", may_be_empty=True).classes
        photos, store = open_root(account.stack.images_uri), open_root(account.stack.store_uri)
        if who == NODES:
            assert photos.read("here/1.jpg") == b"photo"
        else:
            with pytest.raises(OSError, match="ACCESS_DENIED"):
                photos.read("here/1.jpg")
        assert store.exists()
        assert [info.path for info in store.list("raw_images/here")] == ["raw_images/here/1.jpg"]
        folder = f"raw_images/{who}"
        store.write(f"{folder}/a", b"1")
        with store.create(f"{folder}/large") as stream:  # in parts
            stream.write(b"0" * 11_000_000)
        store.copy(f"{folder}/a", f"{folder}/b")
        names = ["a", "b", "large"]
        assert sorted(info.path for info in store.list(folder)) == [f"{folder}/{name}" for name in names]
        store.remove(folder)
        assert not store.list(folder)
        with pytest.raises(OSError, match="ACCESS_DENIED"):
            photos.write("here/2.jpg", b"")
        with pytest.raises(OSError, match="ACCESS_DENIED"):
            open_root(f"s3://{account.stack.bucket}").list("")
    finally:
        open_root.cache_clear()


def test_nodes_reach_s3_through_the_endpoint_of_their_network(account: Account) -> None:
    nodes = account.client("s3", NODES)
    photo = {"Bucket": account.stack.bucket, "Key": "photos/here/1.jpg"}
    assert _passes(nodes, READ, **photo)
    decision = account.judge.decisions()[-1]
    assert decision["context"]["aws:SourceVpce"] == account.way["aws:SourceVpce"]
    # The policy of the endpoint lets no call through to other buckets, whatever the role may do.
    everything = {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}
    iam, name = boto3.client("iam"), {"RoleName": account.stack.instance_profile, "PolicyName": "all"}
    iam.put_role_policy(**name, PolicyDocument=json.dumps(everything))
    with pytest.raises(ClientError, match="because no VPC endpoint policy allows the s3:GetObject action"):
        nodes.get_object(Bucket="other", Key="x")
    assert _passes(nodes, "list_objects_v2", Bucket=account.stack.bucket, Prefix="elsewhere/")
    iam.delete_role_policy(**name)
    assert not _passes(nodes, "list_objects_v2", Bucket=account.stack.bucket, Prefix="elsewhere/")


def _passes(s3: Any, call: str, **request: Any) -> bool:
    try:
        getattr(s3, call)(**request)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("AccessDenied", "403"):
            return False
        raise
    return True
