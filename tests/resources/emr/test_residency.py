"""The checks of a run on EMR before it reads data, against moto's S3 and EMR."""

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from resources.emr.residency import check_residency
from resources.settings import Settings
from spark_jobs.errors import FruitsError

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
        boto3.client("s3", region_name=PARIS).put_bucket_encryption(
            Bucket="paris", ServerSideEncryptionConfiguration=ENCRYPTED
        )
        yield


def cluster(region: str = PARIS) -> str:
    answer = boto3.client("emr", region_name=region).run_job_flow(
        Name="test",
        Instances={
            "MasterInstanceType": "m5.xlarge",
            "SlaveInstanceType": "m5.xlarge",
            "InstanceCount": 3,
            "KeepJobFlowAliveWhenNoSteps": True,
        },
        JobFlowRole="EMR_EC2_DefaultRole",
        ServiceRole="EMR_DefaultRole",
    )
    return answer["JobFlowId"]


def settings(**given: Any) -> Settings:
    defaults = {"images": "s3://paris/photos", "store": "s3://paris/store", "emr_cluster": "j-NONE"}
    return Settings(env="emr", **{**defaults, **given}, _env_file=None)


def test_an_encrypted_store_in_paris_passes() -> None:
    check_residency(settings(emr_cluster=cluster()))


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
    allowed = settings(images="s3://virginia/x", allowed_regions=[PARIS, VIRGINIA], emr_cluster=cluster())
    check_residency(allowed)


def test_a_store_without_default_encryption_is_refused() -> None:
    with pytest.raises(FruitsError, match="bucket open of FRUITS_STORE has no default encryption"):
        check_residency(settings(store="s3://open/store", emr_cluster=cluster()))


def test_an_unknown_or_terminated_cluster_is_refused() -> None:
    with pytest.raises(FruitsError, match="FRUITS_EMR_CLUSTER=j-NONE: there is no such cluster in eu-west-3"):
        check_residency(settings())
    ended = cluster()
    boto3.client("emr", region_name=PARIS).terminate_job_flows(JobFlowIds=[ended])
    with pytest.raises(FruitsError, match=f"FRUITS_EMR_CLUSTER={ended} is TERMINAT"):
        check_residency(settings(emr_cluster=ended))


def test_a_missing_bucket_is_reported() -> None:
    with pytest.raises(FruitsError, match=r"AWS refused GetBucketLocation \(NoSuchBucket\)"):
        check_residency(settings(images="s3://nowhere/photos"))


def test_a_local_run_makes_no_call_of_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    check_residency(Settings(images="s3://nowhere/photos", _env_file=None))
