"""`fruits emr deploy --photos`: photos in a bucket that exists already, on moto's S3 and CloudFormation."""

from collections.abc import Mapping
from typing import Any

import boto3
import pytest
from moto.core import DEFAULT_ACCOUNT_ID as ACCOUNT_ID

from resources.emr.stack import stack_outputs
from tests.resources.emr.commands import deploy, fruits, make_photos, moto_stack, refused, settings

pytestmark = pytest.mark.usefixtures("aws_account")

PHOTOS = "s3://orchard/fruit"


def _parameters() -> Mapping[str, str]:
    stack = boto3.client("cloudformation").describe_stacks(StackName="fruits")["Stacks"][0]
    return {each["ParameterKey"]: each["ParameterValue"] for each in stack["Parameters"]}


def _refused_deployment(subnet: str, *arguments: str, exits: int = 1) -> str:
    """The output of a deployment that must be refused before it makes a stack."""
    output = deploy("--subnet", subnet, *arguments, exits=exits)
    assert not boto3.client("cloudformation").list_stacks()["StackSummaries"]
    return output


def test_photos_of_an_existing_bucket_are_the_photos_of_the_stack(subnet: str) -> None:
    make_photos("orchard")
    output = deploy("--subnet", subnet, "--photos", f"{PHOTOS}/")
    stack = stack_outputs(settings())
    assert stack.images_uri == PHOTOS and f"FRUITS_IMAGES={PHOTOS}" in output.splitlines()
    assert stack.store_uri == f"s3://{stack.bucket}/store"
    assert _parameters()["PhotosKey"] == ""
    deploy("--session-manager")
    assert stack_outputs(settings()).images_uri == PHOTOS


def test_the_empty_string_returns_to_the_bucket_of_the_stack(subnet: str) -> None:
    make_photos("orchard")
    deploy("--subnet", subnet, "--photos-prefix", "mine")
    deploy("--photos", PHOTOS)
    deploy("--photos", "")
    stack = stack_outputs(settings())
    assert stack.images_uri == f"s3://{stack.bucket}/mine"


def test_the_key_of_the_bucket_is_named_in_the_stack(subnet: str) -> None:
    """Readers need kms:Decrypt: https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingKMSEncryption.html"""
    key = boto3.client("kms").create_key()["KeyMetadata"]
    make_photos("orchard", SSEAlgorithm="aws:kms", KMSMasterKeyID=key["KeyId"])
    deploy("--subnet", subnet, "--photos", PHOTOS)
    assert _parameters()["PhotosKey"] == key["Arn"]
    role: Any = moto_stack().resource_map["NodeRole"]
    iam = boto3.client("iam")
    policies = [
        iam.get_role_policy(RoleName=role.name, PolicyName=name)["PolicyDocument"]
        for name in iam.list_role_policies(RoleName=role.name)["PolicyNames"]
    ]
    assert [policy for policy in policies if key["Arn"] in str(policy) and "kms:Decrypt" in str(policy)]


def test_destroy_leaves_the_bucket_as_it_is(subnet: str) -> None:
    make_photos("orchard")
    deploy("--subnet", subnet, "--photos", PHOTOS)
    output = fruits("destroy", "--yes")
    assert f"The photos in {PHOTOS} stay." in output
    [bucket] = boto3.client("s3").list_buckets()["Buckets"]
    assert bucket["Name"] == "orchard"
    assert len(boto3.client("s3").list_objects_v2(Bucket="orchard")["Contents"]) == 1


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("s3://orchard", "is not of the form s3://bucket/prefix"),
        ("orchard/fruit", "is not of the form s3://bucket/prefix"),
        ("s3://orchard/fruit*", "is not of the form s3://bucket/prefix"),
        ("s3://orchard/vegetables", "There are no photos in s3://orchard/vegetables"),
        ("s3://orchid/fruit", "there is no bucket orchid"),
    ],
)
def test_photos_that_are_not_there_are_refused(subnet: str, uri: str, words: str) -> None:
    make_photos("orchard")
    assert words in _refused_deployment(subnet, "--photos", uri)


def test_photos_of_the_stacks_own_bucket_are_no_other_photos(subnet: str) -> None:
    deploy("--subnet", subnet)
    bucket = stack_outputs(settings()).bucket
    output = deploy("--photos", f"s3://{bucket}/mine", exits=1)
    assert "is in the bucket of the stack itself. Use --photos-prefix mine instead" in output


def test_a_bucket_outside_the_allowed_regions_is_refused(subnet: str) -> None:
    make_photos("orchard", "us-east-1")
    output = _refused_deployment(subnet, "--photos", PHOTOS)
    assert "the bucket orchard of --photos is in us-east-1, and photos may not leave" in output


def test_a_bucket_in_another_region_is_refused(subnet: str) -> None:
    """https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html: endpoints stay in their region."""
    make_photos("orchard", "eu-west-1")
    output = _refused_deployment(subnet, "--photos", PHOTOS)
    assert "is in eu-west-1, and the private subnet" in output and "set FRUITS_REGION=eu-west-1" in output


def test_a_bucket_without_default_encryption_is_refused(subnet: str) -> None:
    make_photos("orchard")
    boto3.client("s3").delete_bucket_encryption(Bucket="orchard")
    output = _refused_deployment(subnet, "--photos", PHOTOS)
    assert "The bucket orchard of --photos has no default encryption" in output


def test_a_bucket_that_copies_its_photos_abroad_is_refused(subnet: str) -> None:
    make_photos("orchard")
    make_photos("copies", "us-east-1")
    for bucket, region in (("orchard", "eu-west-3"), ("copies", "us-east-1")):
        boto3.client("s3", region_name=region).put_bucket_versioning(
            Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
        )
    rule: dict[str, Any] = {
        "Status": "Enabled",
        "Priority": 1,
        "Filter": {},
        "DeleteMarkerReplication": {"Status": "Disabled"},
        "Destination": {"Bucket": "arn:aws:s3:::copies"},
    }
    boto3.client("s3").put_bucket_replication(
        Bucket="orchard",
        ReplicationConfiguration={"Role": f"arn:aws:iam::{ACCOUNT_ID}:role/replication", "Rules": [rule]},
    )
    output = _refused_deployment(subnet, "--photos", PHOTOS)
    assert "the bucket copies, to which orchard of --photos is replicated, is in us-east-1" in output


def test_a_bucket_that_cannot_be_read_is_refused_with_the_remedy(subnet: str) -> None:
    make_photos("orchard")
    with refused("GetBucketLocation", "AccessDenied", "Access Denied"):
        output = _refused_deployment(subnet, "--photos", PHOTOS)
    assert "the bucket orchard of --photos may not be read (GetBucketLocation: AccessDenied)" in output
    assert (
        "s3:GetObject" in output and f"arn:aws:iam::{ACCOUNT_ID}:root in the policy of the bucket" in output
    )


def test_a_bucket_of_another_account_is_named_before_the_question(subnet: str) -> None:
    """S3 answers 403: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucket-owner-condition.html"""
    make_photos("orchard")
    with refused("GetBucketLocation", "AccessDenied", "Access Denied", ExpectedBucketOwner=ACCOUNT_ID):
        output = fruits("deploy", "--subnet", subnet, "--photos", PHOTOS, answer="n\n", exits=1)
    told = output.index(f"The bucket orchard does not belong to this account ({ACCOUNT_ID})")
    assert told < output.index("Create it?")


def test_photos_and_a_prefix_of_photos_exclude_each_other(subnet: str) -> None:
    output = _refused_deployment(subnet, "--photos", PHOTOS, "--photos-prefix", "mine", exits=2)
    assert "Give only one of them" in output


def test_retention_is_refused_for_photos_that_are_not_the_stacks(subnet: str) -> None:
    make_photos("orchard")
    output = _refused_deployment(subnet, "--photos", PHOTOS, "--retention-days", "30")
    assert "--retention-days 30 deletes photos in the bucket of the stack" in output
    assert "s3://orchard, which this project never changes" in output
