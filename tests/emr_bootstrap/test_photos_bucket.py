"""What the template allows on a bucket of photos that existed before (PhotosBucket)."""

import ast
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import boto3
import pytest
from moto import mock_aws

from rehearsal import cloudformation
from resources.emr.account import deploy, plan
from resources.emr.options import Deployment
from resources.settings import AccountSettings
from tests.emr_bootstrap.test_permissions import decides

# moto's CloudFormation does not create bucket policies, and warns about it.
pytestmark = pytest.mark.filterwarnings("ignore:.*AWS..S3..BucketPolicy")

REGION = "eu-west-3"
ORCHARD, STACK = "arn:aws:s3:::orchard", "arn:aws:s3:::"
READS = {"s3:GetObject"}
WRITES = {"s3:PutObject", "s3:DeleteObject", "s3:DeleteObjectVersion", "s3:AbortMultipartUpload"}
KNOWS = {"s3:GetBucketLocation", "s3:GetEncryptionConfiguration"}
CHANGES = {
    "s3:DeleteBucket",
    "s3:PutBucketPolicy",
    "s3:PutLifecycleConfiguration",
    "s3:PutEncryptionConfiguration",
    "s3:ListBucketVersions",
}


class Policies(NamedTuple):
    """The policy documents of the nodes, the operator, the eraser and the S3 endpoint; the stack's bucket."""

    nodes: list[dict[str, Any]]
    operator: list[dict[str, Any]]
    erasure: list[dict[str, Any]]
    endpoint: list[dict[str, Any]]
    bucket: str


@pytest.fixture(scope="module")
def policies() -> Iterator[Policies]:
    """A stack with photos in s3://orchard/fruit, deployed on moto."""
    with (
        pytest.MonkeyPatch.context() as patch,
        mock_aws(config={"iam": {"load_aws_managed_policies": True}}),
    ):
        cloudformation.install()
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="orchard", CreateBucketConfiguration={"LocationConstraint": REGION})
        rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
        s3.put_bucket_encryption(Bucket="orchard", ServerSideEncryptionConfiguration={"Rules": [rule]})
        s3.put_object(Bucket="orchard", Key="fruit/Kiwi/1.jpg", Body=b"photo")
        settings = AccountSettings(_env_file=None)
        stack = deploy(settings, plan(settings, Deployment(photos="s3://orchard/fruit", wheelhouse=False)))
        iam = boto3.client("iam")
        profile = iam.get_instance_profile(InstanceProfileName=stack.instance_profile)["InstanceProfile"]
        role = profile["Roles"][0]["RoleName"]
        inline = [
            iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
            for name in iam.list_role_policies(RoleName=role)["PolicyNames"]
        ]
        [endpoint] = boto3.client("ec2").describe_vpc_endpoints()["VpcEndpoints"]
        yield Policies(
            nodes=[_document(each) for each in inline],
            operator=[_managed(iam, stack.operator_policy_arn)],
            erasure=[_managed(iam, stack.erasure_policy_arn)],
            endpoint=[_document(endpoint["PolicyDocument"])],
            bucket=stack.bucket,
        )


def _managed(iam: Any, arn: str) -> dict[str, Any]:
    version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
    return _document(iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"])


def _document(found: Any) -> dict[str, Any]:
    """moto returns some documents as text in Python's syntax."""
    if not isinstance(found, str):
        return dict(found)
    return dict(json.loads(found) if found.startswith('{"') else ast.literal_eval(found))


def _allowed(documents: list[dict[str, Any]], resource: str) -> set[str]:
    return {action for action in READS | WRITES | KNOWS | CHANGES if decides(documents, action, resource, {})}


@pytest.mark.parametrize("who", ["nodes", "operator"])
def test_photos_in_the_prefix_can_be_read_and_nothing_else(policies: Policies, who: str) -> None:
    documents = getattr(policies, who)
    assert _allowed(documents, f"{ORCHARD}/fruit/Kiwi/1.jpg") == READS
    # Connectors ask for an object with the name of the prefix first.
    assert _allowed(documents, f"{ORCHARD}/fruit") == READS
    for elsewhere in ("fruit-2/Kiwi/1.jpg", "salaries.csv", ""):
        assert _allowed(documents, f"{ORCHARD}/{elsewhere}") == set()
    for prefix, listed in {"fruit": True, "fruit/": True, "": False, "fruit-2/": False, "s": False}.items():
        assert decides(documents, "s3:ListBucket", ORCHARD, {"s3:prefix": prefix}) == listed
    assert not decides(documents, "s3:ListBucket", ORCHARD, {})
    # The prefix of photos in the stack's own bucket has no readers then.
    assert _allowed(documents, f"{STACK}{policies.bucket}/photos/Kiwi/1.jpg") == set()


def test_the_operator_can_check_the_bucket_before_a_run(policies: Policies) -> None:
    assert _allowed(policies.operator, ORCHARD) == KNOWS
    assert _allowed(policies.nodes, ORCHARD) == {"s3:GetBucketLocation"}


def test_the_endpoint_of_the_private_subnet_lets_reads_through(policies: Policies) -> None:
    """A policy of an endpoint bounds all that passes it:

    https://docs.aws.amazon.com/vpc/latest/privatelink/vpc-endpoints-access.html
    """
    objects = READS | WRITES
    assert _allowed(policies.endpoint, f"{ORCHARD}/fruit/Kiwi/1.jpg") & objects == READS
    assert _allowed(policies.endpoint, f"{ORCHARD}/salaries.csv") == set()
    assert _allowed(policies.endpoint, ORCHARD) - objects == {"s3:GetBucketLocation"}
    assert decides(policies.endpoint, "s3:ListBucket", ORCHARD, {"s3:prefix": "fruit/"})


def test_the_erasure_policy_does_not_reach_the_bucket(policies: Policies) -> None:
    for resource in (ORCHARD, f"{ORCHARD}/fruit/Kiwi/1.jpg", f"{ORCHARD}/photos/Kiwi/1.jpg"):
        assert _allowed(policies.erasure, resource) == set()
        assert not decides(policies.erasure, "s3:ListBucket", resource, {"s3:prefix": "fruit/"})
