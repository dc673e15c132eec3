"""The checks of a run with data on S3 before it reads any, against moto's S3 and EMR."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from dagster._core.errors import DagsterResourceFunctionError
from moto import mock_aws
from moto.core import DEFAULT_ACCOUNT_ID as ACCOUNT_ID

from fruits_assets.definitions import definitions_for
from resources.emr import residency
from resources.emr.residency import check_residency
from resources.s3_server import check_server
from resources.settings import EU_REGIONS, Settings
from spark_jobs.errors import FruitsError
from tests.resources.emr.commands import recorded_calls, refused, start_cluster

PARIS, VIRGINIA = "eu-west-3", "us-east-1"
ENCRYPTED = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(residency, "_passed", set())
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        for bucket, region in (("paris", PARIS), ("open", PARIS), ("virginia", VIRGINIA)):
            location: dict[str, Any] = (
                {} if region == VIRGINIA else {"CreateBucketConfiguration": {"LocationConstraint": region}}
            )
            boto3.client("s3", region_name=region).create_bucket(Bucket=bucket, **location)
        for bucket, region in (("paris", PARIS), ("virginia", VIRGINIA)):
            boto3.client("s3", region_name=region).put_bucket_encryption(
                Bucket=bucket, ServerSideEncryptionConfiguration=ENCRYPTED
            )
        yield


def settings(**given: Any) -> Settings:
    defaults = {"images": "s3://paris/photos", "store": "s3://paris/store", "emr_cluster": "j-NONE"}
    return Settings(**{"env": "emr", **defaults, **given}, _env_file=None)


def test_an_encrypted_store_in_paris_passes() -> None:
    check_residency(settings(emr_cluster=start_cluster()))


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"region": VIRGINIA}, f"FRUITS_REGION={VIRGINIA} is in"),
        ({"images": "s3://virginia/photos"}, "the bucket virginia of FRUITS_IMAGES is in"),
        ({"store": "s3://virginia/store"}, "the bucket virginia of FRUITS_STORE is in"),
    ],
)
def test_data_outside_the_allowed_regions_is_refused_by_name(given: dict[str, str], name: str) -> None:
    with pytest.raises(FruitsError, match=rf"{name} us-east-1, and photos may not leave eu-west-3.*FRUITS_A"):
        check_residency(settings(**given))


def test_a_region_in_the_allowed_regions_passes() -> None:
    allowed = settings(
        images="s3://virginia/x", allowed_regions=[PARIS, VIRGINIA], emr_cluster=start_cluster()
    )
    check_residency(allowed)


@pytest.mark.parametrize("root", ["images", "store"])
def test_a_bucket_without_default_encryption_is_refused(root: str) -> None:
    with pytest.raises(FruitsError, match=f"bucket open of FRUITS_{root.upper()} has no default encryption"):
        check_residency(settings(**{root: "s3://open/x"}, emr_cluster=start_cluster()))


def test_an_unknown_or_terminated_cluster_is_refused() -> None:
    with pytest.raises(FruitsError, match="FRUITS_EMR_CLUSTER=j-NONE: there is no such cluster in eu-west-3"):
        check_residency(settings())
    ended = start_cluster()
    boto3.client("emr", region_name=PARIS).terminate_job_flows(JobFlowIds=[ended])
    with pytest.raises(FruitsError, match=f"FRUITS_EMR_CLUSTER={ended} is TERMINAT"):
        check_residency(settings(emr_cluster=ended))


def test_a_cluster_that_an_operator_may_not_see_is_refused_with_the_tag() -> None:
    """The condition on the tag fails for a cluster that has none, and for one that does not exist:

    https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-fine-grained-cluster-access.html
    """
    with (
        refused("DescribeCluster", "AccessDeniedException", "not authorized"),
        pytest.raises(
            FruitsError, match=r"FRUITS_EMR_CLUSTER=j-1: there is no .* or it lacks the tag project="
        ),
    ):
        check_residency(settings(emr_cluster="j-1"))


def test_a_missing_bucket_is_reported() -> None:
    with pytest.raises(FruitsError, match=r"AWS refused GetBucketLocation \(NoSuchBucket\)"):
        check_residency(settings(images="s3://nowhere/photos"))


# Where Spark runs makes no difference to the buckets.

BOTH = pytest.mark.parametrize("env", ["local", "emr"])


def anywhere(env: str, **given: Any) -> Settings:
    """Settings with both roots in s3://paris, for a run that has a cluster where it needs one."""
    return settings(**{"env": env, "emr_cluster": start_cluster() if env == "emr" else None, **given})


@BOTH
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"images": "s3://virginia/photos"}, "the bucket virginia of FRUITS_IMAGES is in us-east-1"),
        ({"store": "s3://virginia/store"}, "the bucket virginia of FRUITS_STORE is in us-east-1"),
        ({"images": "s3://open/photos"}, "bucket open of FRUITS_IMAGES has no default encryption"),
        ({"store": "s3://open/store"}, "bucket open of FRUITS_STORE has no default encryption"),
    ],
)
def test_each_root_on_s3_is_checked_wherever_spark_runs(env: str, given: dict[str, str], words: str) -> None:
    with pytest.raises(FruitsError, match=words):
        check_residency(anywhere(env, **given))


def test_one_root_on_s3_is_checked_alone(tmp_path: Path) -> None:
    local = Settings(images=str(tmp_path), store="s3://virginia/store", _env_file=None)
    with pytest.raises(FruitsError, match="FRUITS_STORE is in us-east-1"):
        check_residency(local)
    with recorded_calls() as calls:
        check_residency(Settings(images=str(tmp_path), store="s3://paris/store", _env_file=None))
    assert sorted(calls) == [
        "GetBucketEncryption",
        "GetBucketLocation",
        "GetBucketReplication",
        "GetCallerIdentity",
    ]


def replicate(bucket: str, target: str, status: str = "Enabled") -> None:
    """Gives a bucket a rule that copies its objects into another bucket."""
    for name, region in ((bucket, PARIS), (target, VIRGINIA)):
        boto3.client("s3", region_name=region).put_bucket_versioning(
            Bucket=name, VersioningConfiguration={"Status": "Enabled"}
        )
    rule: dict[str, Any] = {
        "Status": status,
        "Priority": 1,
        "Filter": {},
        "DeleteMarkerReplication": {"Status": "Disabled"},
        "Destination": {"Bucket": f"arn:aws:s3:::{target}"},
    }
    boto3.client("s3", region_name=PARIS).put_bucket_replication(
        Bucket=bucket,
        ReplicationConfiguration={"Role": f"arn:aws:iam::{ACCOUNT_ID}:role/replication", "Rules": [rule]},
    )


@BOTH
def test_a_bucket_that_is_replicated_abroad_is_refused(env: str) -> None:
    replicate("paris", "virginia")
    with pytest.raises(
        FruitsError, match="the bucket virginia, to which paris of FRUITS_IMAGES is replicated, is in us-e"
    ):
        check_residency(anywhere(env))


def test_a_rule_of_replication_that_is_off_passes() -> None:
    replicate("paris", "virginia", "Disabled")
    check_residency(anywhere("local"))


def test_the_region_of_a_bucket_that_may_not_be_asked_is_told_by_its_refusal() -> None:
    """AWS's SDKs read the region from the header of a refused HEAD:

    https://docs.aws.amazon.com/sdk-for-go/api/service/s3/s3manager/#GetBucketRegion
    """
    replicate("paris", "virginia")
    with head_refused({"x-amz-bucket-region": PARIS}):
        check_residency(anywhere("local"))
    with (
        head_refused({}),
        pytest.raises(FruitsError, match=r"The region of the bucket virginia, .* is not known"),
    ):
        check_residency(anywhere("local", region="eu-west-1"))


@contextmanager
def head_refused(headers: dict[str, str]) -> Iterator[None]:
    """AWS refuses HeadBucket inside the block, with some headers in its answer."""
    real = BaseClient._make_api_call

    def refuse(self: Any, name: str, parameters: dict[str, Any]) -> Any:
        if name == "HeadBucket":
            answer: Any = {
                "Error": {"Code": "403", "Message": "Forbidden"},
                "ResponseMetadata": {"HTTPHeaders": headers},
            }
            raise ClientError(answer, name)
        return real(self, name, parameters)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", refuse)
        yield


@BOTH
def test_a_bucket_of_another_account_is_refused_until_its_account_is_named(env: str) -> None:
    """S3 answers 403: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucket-owner-condition.html"""
    with refused("GetBucketLocation", "AccessDenied", "Access Denied", ExpectedBucketOwner=ACCOUNT_ID):
        with pytest.raises(
            FruitsError,
            match=f"paris of FRUITS_IMAGES does not belong to the account {ACCOUNT_ID}.* FRUITS_IMAGES_AC",
        ):
            check_residency(anywhere(env))
        check_residency(anywhere(env, images_account="210987654321", store_account="210987654321"))


@BOTH
@pytest.mark.parametrize(
    ("call", "permission"),
    [
        ("GetBucketLocation", "s3:GetBucketLocation"),
        ("GetBucketEncryption", "s3:GetEncryptionConfiguration"),
        ("GetBucketReplication", "s3:GetReplicationConfiguration"),
    ],
)
def test_a_question_that_aws_denies_stops_the_run(env: str, call: str, permission: str) -> None:
    with (
        refused(call, "AccessDenied", "Access Denied"),
        pytest.raises(FruitsError, match=f"AWS denies {call}, so it is not known .* Allow {permission} on"),
    ):
        check_residency(anywhere(env))


def test_the_bucket_of_a_clusters_logs_is_in_an_allowed_region() -> None:
    check_residency(settings(emr_cluster=start_cluster(LogUri="s3n://paris/logs/")))
    # EMR writes the scheme as s3n: https://docs.aws.amazon.com/emr/latest/APIReference/API_Cluster.html
    for uri in ("s3n://virginia/logs/", "s3://virginia/logs"):
        with pytest.raises(
            FruitsError, match=rf"the bucket of the logs of the cluster j-.*{uri}, is in us-e"
        ):
            check_residency(settings(emr_cluster=start_cluster(LogUri=uri)))


def test_a_process_asks_for_buckets_once() -> None:
    wanted = anywhere("local")
    check_residency(wanted)
    with recorded_calls() as calls:
        check_residency(wanted)
    assert calls == []
    with pytest.raises(FruitsError, match="FRUITS_STORE is in us-east-1"):
        check_residency(anywhere("local", store="s3://virginia/store"))


def test_an_asset_checks_before_it_writes_whoever_starts_its_run() -> None:
    """Dagster makes the resources of a run before its first step."""
    abroad = Settings(images="s3://paris/photos", store="s3://virginia/store", _env_file=None)
    definitions = definitions_for(abroad)
    assets = [asset for asset in definitions.assets or () if isinstance(asset, dg.AssetsDefinition)]
    assert len(assets) > 6
    for asset in assets:  # the others are only told of
        assert "settings" in asset.required_resource_keys, asset.key
    job = definitions.resolve_implicit_global_asset_job_def()
    with recorded_calls() as calls, pytest.raises(DagsterResourceFunctionError) as raised:
        job.execute_in_process(asset_selection=[dg.AssetKey("feature_extractor")])
    assert "FRUITS_STORE is in us-east-1" in str(raised.value.__cause__)
    assert [call for call in calls if not call.startswith("Get")] == []


# The server.


def test_a_local_run_asks_nothing_about_buckets_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    check_residency(Settings(images="s3://nowhere/photos", _env_file=None))


@pytest.mark.parametrize(
    "address",
    [
        "https://s3.example.org",
        "https://s3.us-east-1.amazonaws.com",
        "https://s3.amazonaws.com",
        "https://s3.eu-west-3.amazonaws.com.example.org",
    ],
)
def test_a_server_elsewhere_is_refused_by_its_address(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
    local: dict[str, Any] = {"images": "s3://paris/photos", "store": "s3://paris/store", "_env_file": None}
    with pytest.raises(FruitsError, match=f"The S3 server is {address} .*FRUITS_ALLOW_ENDPOINT={address}"):
        check_residency(Settings(**local))
    with pytest.raises(FruitsError, match="The S3 server is"):
        check_residency(Settings(**local, allow_endpoint=f"{address}/other"))
    check_residency(Settings(**local, allow_endpoint=address))


@pytest.mark.parametrize(
    "address",
    [
        "https://s3.eu-west-3.amazonaws.com",
        # https://docs.aws.amazon.com/AmazonS3/latest/userguide/privatelink-interface-endpoints.html
        "https://bucket.vpce-1a2b3c4d-5e6f.s3.eu-west-3.vpce.amazonaws.com",
    ],
)
def test_a_server_of_aws_in_an_allowed_region_passes(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
    check_server(EU_REGIONS, None)
