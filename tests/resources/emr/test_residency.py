"""The checks of a run on EMR before it reads data, against moto's S3 and EMR."""

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from resources.emr.residency import check_residency
from resources.settings import Settings
from spark_jobs.errors import FruitsError
from tests.resources.emr.commands import refused, start_cluster

PARIS, VIRGINIA = "eu-west-3", "us-east-1"
ENCRYPTED = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
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
    return Settings(env="emr", **{**defaults, **given}, _env_file=None)


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


def test_a_local_run_makes_no_call_of_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    check_residency(Settings(images="s3://nowhere/photos", _env_file=None))
