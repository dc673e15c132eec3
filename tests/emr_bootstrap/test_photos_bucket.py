"""What the template allows on a bucket of photos that existed before (PhotosBucket)."""

import ast
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import boto3
import pytest
from moto import mock_aws

from rehearsal import cloudformation
from rehearsal.policies import Document
from rehearsal.principals import managed_policy, policies_of_role
from resources.emr.account import deploy, plan
from resources.emr.options import Deployment
from resources.settings import AccountSettings
from tests.emr_bootstrap.test_permissions import decides

REGION = "eu-west-3"
ORCHARD, STACK = "arn:aws:s3:::orchard", "arn:aws:s3:::"
READS = {"s3:GetObject"}
WRITES = {"s3:PutObject", "s3:DeleteObject", "s3:DeleteObjectVersion", "s3:AbortMultipartUpload"}
KNOWS = {"s3:GetBucketLocation", "s3:GetEncryptionConfiguration", "s3:GetReplicationConfiguration"}
CHANGES = {
    "s3:DeleteBucket",
    "s3:PutBucketPolicy",
    "s3:PutLifecycleConfiguration",
    "s3:PutEncryptionConfiguration",
    "s3:ListBucketVersions",
}


class Policies(NamedTuple):
    """The policies of the nodes, the operator, the eraser and the S3 endpoint; the stack's bucket.

    `way` is the condition key of the endpoint, through which nodes reach S3.
    """

    nodes: Mapping[str, Document]
    operator: Mapping[str, Document]
    erasure: Mapping[str, Document]
    endpoint: Mapping[str, Document]
    bucket: str
    way: dict[str, str]

    def allowed(self, documents: Mapping[str, Document], resource: str) -> set[str]:
        """The actions of this module that the policies allow on a resource."""
        actions = READS | WRITES | KNOWS | CHANGES
        return {action for action in actions if decides(documents, action, resource, self.way)}

    def lists(self, documents: Mapping[str, Document], bucket: str, prefix: str | None) -> bool:
        """Whether the policies allow a listing of a bucket."""
        asked = {} if prefix is None else {"s3:prefix": prefix}
        return decides(documents, "s3:ListBucket", bucket, {**self.way, **asked})


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
        # moto returns the policy in the syntax of Python.
        [endpoint] = boto3.client("ec2").describe_vpc_endpoints()["VpcEndpoints"]
        yield Policies(
            # The role of the nodes has the name of its instance profile.
            nodes=policies_of_role(stack.instance_profile),
            operator={"operator": managed_policy(stack.operator_policy_arn)},
            erasure={"erasure": managed_policy(stack.erasure_policy_arn)},
            endpoint={"endpoint": ast.literal_eval(endpoint["PolicyDocument"])},
            bucket=stack.bucket,
            way={"aws:SourceVpce": endpoint["VpcEndpointId"]},
        )


@pytest.mark.parametrize("who", ["nodes", "operator"])
def test_photos_in_the_prefix_can_be_listed_and_nothing_else(policies: Policies, who: str) -> None:
    documents = getattr(policies, who)
    # Connectors ask for an object with the name of the prefix first.
    assert policies.allowed(documents, f"{ORCHARD}/fruit") == READS
    # The steps read photos. The operator lists them.
    reads = READS if who == "nodes" else set()
    assert policies.allowed(documents, f"{ORCHARD}/fruit/Kiwi/1.jpg") == reads
    for elsewhere in ("fruit-2/Kiwi/1.jpg", "salaries.csv", ""):
        assert policies.allowed(documents, f"{ORCHARD}/{elsewhere}") == set()
    for prefix, listed in {"fruit": True, "fruit/": True, "": False, "fruit-2/": False, "s": False}.items():
        assert policies.lists(documents, ORCHARD, prefix) == listed
    assert not policies.lists(documents, ORCHARD, None)
    # The prefix of photos in the stack's own bucket has no readers then.
    assert policies.allowed(documents, f"{STACK}{policies.bucket}/photos/Kiwi/1.jpg") == set()


def test_the_operator_can_check_the_bucket_before_a_run(policies: Policies) -> None:
    assert policies.allowed(policies.operator, ORCHARD) == KNOWS
    assert policies.allowed(policies.nodes, ORCHARD) == {"s3:GetBucketLocation"}


def test_the_endpoint_of_the_private_subnet_lets_reads_through(policies: Policies) -> None:
    """A policy of an endpoint bounds all that passes it:

    https://docs.aws.amazon.com/vpc/latest/privatelink/vpc-endpoints-access.html
    """
    objects = READS | WRITES
    assert policies.allowed(policies.endpoint, f"{ORCHARD}/fruit/Kiwi/1.jpg") & objects == READS
    assert policies.allowed(policies.endpoint, f"{ORCHARD}/salaries.csv") == set()
    assert policies.allowed(policies.endpoint, ORCHARD) - objects == {"s3:GetBucketLocation"}
    assert policies.lists(policies.endpoint, ORCHARD, "fruit/")


def test_the_erasure_policy_removes_photos_in_the_prefix_and_reads_none(policies: Policies) -> None:
    # `fruits erase --source`: no other policy of the stack changes the bucket.
    assert policies.allowed(policies.erasure, f"{ORCHARD}/fruit/Kiwi/1.jpg") == WRITES - {"s3:PutObject"}
    for elsewhere in ("fruit-2/Kiwi/1.jpg", "photos/Kiwi/1.jpg", "salaries.csv"):
        assert policies.allowed(policies.erasure, f"{ORCHARD}/{elsewhere}") == set()
    assert policies.allowed(policies.erasure, ORCHARD) == KNOWS
    for prefix, listed in {"fruit/": True, "fruit": True, "": False, "fruit-2/": False}.items():
        for action in ("s3:ListBucket", "s3:ListBucketVersions"):
            assert decides(policies.erasure, action, ORCHARD, {"s3:prefix": prefix}) == listed
    # The prefix of photos in the stack's own bucket has no readers and no erasers then.
    assert policies.allowed(policies.erasure, f"{STACK}{policies.bucket}/photos/Kiwi/1.jpg") == set()
