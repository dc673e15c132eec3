"""Stacks of another project, of an older version, and stacks whose creation failed."""

from typing import Any

import boto3
import pytest
from moto.cloudformation.models import Stack as MotoStack

from resources.emr.stack import stack_outputs
from tests.resources.emr.commands import (
    deploy,
    fruits,
    make_stack,
    moto_stack,
    recorded_calls,
    settings,
    template,
)

pytestmark = pytest.mark.usefixtures("aws_account")

PAYROLL = {
    "Resources": {
        "Salaries": {"Type": "AWS::S3::Bucket"},
        "Jobs": {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": "jobs"}},
    },
    "Outputs": {"Bucket": {"Value": {"Ref": "Salaries"}}},
}


@pytest.mark.parametrize(
    ("tags", "lacks"),
    [
        ({}, "the tag project=fruits"),
        ({"project": "payroll"}, "the tag"),
        ({"project": "fruits"}, "ImagesUri"),
    ],
)
@pytest.mark.parametrize("command", ["deploy", "destroy"])
def test_a_foreign_stack_is_refused_after_nothing_but_its_description(
    command: str, tags: dict[str, str], lacks: str
) -> None:
    """UpdateStack removes each resource that the new template does not have:

    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/using-cfn-updating-stacks-update-behaviors.html
    """
    make_stack(PAYROLL, {}, **tags)
    with recorded_calls() as calls:
        output = fruits(command, "--yes", exits=1)
    assert calls == ["DescribeStacks"]
    assert "The stack fruits in eu-west-3 belongs to another project" in output and lacks in output
    assert "Choose a name that no other stack has, in FRUITS_EMR_STACK" in output
    assert boto3.client("sqs").list_queues()["QueueUrls"]
    assert len(boto3.client("s3").list_buckets()["Buckets"]) == 1


def test_a_stack_of_an_older_version_is_updated(subnet: str) -> None:
    older = template()
    del older["Outputs"]["ErasurePolicyArn"]
    make_stack(older, {"SubnetId": subnet, "VpcId": _vpc(subnet), "Wheelhouse": "no"}, project="fruits")
    with pytest.raises(match="no output for erasure_policy_arn"):
        stack_outputs(settings())
    deploy()
    assert stack_outputs(settings()).erasure_policy_arn


def _vpc(subnet: str) -> str:
    return str(boto3.client("ec2").describe_subnets(SubnetIds=[subnet])["Subnets"][0]["VpcId"])


UNFINISHED = ["CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_FAILED"]


@pytest.fixture
def unfinished(subnet: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A stack whose creation failed: it has resources and the tag, and no outputs.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/view-stack-events.html lists the states.
    """
    deploy("--subnet", subnet)
    stack = moto_stack()
    stack.enable_termination_protection = False
    monkeypatch.setattr(MotoStack, "outputs", None)
    monkeypatch.setattr(stack, "status", request.param)
    return str(request.param)


@pytest.mark.parametrize("unfinished", UNFINISHED, indirect=True)
def test_deploy_names_destroy_for_a_stack_whose_creation_failed(unfinished: str) -> None:
    with recorded_calls() as calls:
        output = deploy(exits=1)
    assert calls == ["DescribeStacks"]
    assert (
        f"The stack fruits is {unfinished}" in output
        and "Remove the rest with `fruits emr destroy`" in output
    )


@pytest.mark.parametrize("unfinished", UNFINISHED, indirect=True)
def test_destroy_removes_a_stack_whose_creation_failed(unfinished: str) -> None:
    """Its bucket can have objects: CREATE_FAILED keeps resources that were made."""
    for bucket in boto3.client("s3").list_buckets()["Buckets"]:
        boto3.client("s3").put_object(Bucket=bucket["Name"], Key="photos/Kiwi/1.jpg", Body=b"photo")
    output = fruits("destroy", "--yes")
    assert output.splitlines()[-1] == "Removed."
    assert "NodeRole" in output
    assert not boto3.client("s3").list_buckets()["Buckets"]
    assert not boto3.client("cloudformation").describe_stacks()["Stacks"]


def test_a_failed_creation_of_another_project_is_not_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    make_stack(PAYROLL, {})
    monkeypatch.setattr(MotoStack, "outputs", None)
    monkeypatch.setattr(moto_stack(), "status", "ROLLBACK_FAILED")
    assert "belongs to another project" in fruits("destroy", "--yes", exits=1)
    assert boto3.client("sqs").list_queues()["QueueUrls"]


@pytest.mark.parametrize(
    "status", ["UPDATE_IN_PROGRESS", "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", "UPDATE_ROLLBACK_FAILED"]
)
def test_a_stack_in_the_middle_of_an_update_is_refused_with_the_remedy(
    subnet: str, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    deploy("--subnet", subnet)
    monkeypatch.setattr(moto_stack(), "status", status)
    output = deploy(exits=1)
    assert f"is {status}, so it cannot be updated" in output and "continue-update-rollback" in output
    assert boto3.client("cloudformation").list_change_sets(StackName="fruits")["Summaries"] == []


def test_a_new_stack_whose_creation_fails_is_removed_by_cloudformation(
    subnet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it must not be protected yet: https://github.com/Kotaimen/awscfncli/issues/33"""
    seen: dict[str, Any] = {}
    real = MotoStack.create_resources

    def look(stack: MotoStack) -> None:
        seen["protected"] = stack.enable_termination_protection
        real(stack)

    monkeypatch.setattr(MotoStack, "create_resources", look)
    deploy("--subnet", subnet)
    assert seen == {"protected": False}
    assert moto_stack().enable_termination_protection
