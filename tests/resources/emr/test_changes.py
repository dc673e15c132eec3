"""Updates by change sets: what they remove or replace is listed, and data are refused."""

import json
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from moto.cloudformation.models import ChangeSet

from resources.emr import changes
from resources.emr.changes import propose
from resources.emr.stack import stack_outputs
from spark_jobs.errors import FruitsError
from tests.resources.emr.commands import (
    REGION,
    change_sets,
    deploy,
    fruits,
    make_stack,
    moto_stack,
    settings,
    template,
)

pytestmark = pytest.mark.usefixtures("aws_account")


@pytest.mark.usefixtures("no_wheels")
def test_an_update_lists_the_resources_that_it_removes_before_the_question() -> None:
    fruits("deploy", "--yes", "--session-manager")
    endpoints = boto3.client("ec2").describe_vpc_endpoints()["VpcEndpoints"]
    output = fruits("deploy", "--no-session-manager", answer="n\n", exits=1)
    question = output.index("Update it?")
    for name in ("SsmEndpoint", "SsmMessagesEndpoint"):
        assert 0 < output.index(f"The update removes {name} (AWS::EC2::VPCEndpoint).") < question
    assert change_sets() == []
    assert boto3.client("ec2").describe_vpc_endpoints()["VpcEndpoints"] == endpoints
    assert stack_outputs(settings())


@pytest.mark.usefixtures("no_wheels")
def test_an_update_lists_the_resources_that_it_replaces(subnet: str) -> None:
    fruits("deploy", "--yes", "--session-manager")
    output = fruits("deploy", "--subnet", subnet, answer="n\n", exits=1)
    assert "The update replaces CoreSecurityGroup (AWS::EC2::SecurityGroup)." in output
    assert "The update removes PrivateSubnet (AWS::EC2::Subnet)." in output
    assert "Bucket (" not in output


@pytest.mark.parametrize("yes", [True, False])
@pytest.mark.parametrize("change", ["replaces Bucket", "removes Archive"])
def test_an_update_that_takes_a_bucket_away_is_refused(subnet: str, change: str, yes: bool) -> None:
    """Another BucketName replaces a bucket:

    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-resource-s3-bucket.html
    """
    older = template()
    if change == "replaces Bucket":
        older["Resources"]["Bucket"]["Properties"]["BucketName"] = "fruits-of-old"
    else:
        older["Resources"]["Archive"] = {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": "archive"}}
    make_stack(older, {"SubnetId": subnet, "VpcId": "vpc-12345678", "Wheelhouse": "no"}, project="fruits")
    buckets = boto3.client("s3").list_buckets()["Buckets"]
    output = fruits("deploy", "--index", *(["--yes"] if yes else []), exits=1)
    assert f"The update of the stack fruits {change} (AWS::S3::Bucket), which holds data" in output
    assert "it?" not in output
    assert boto3.client("s3").list_buckets()["Buckets"] == buckets
    assert change_sets() == [] and moto_stack().status == "CREATE_COMPLETE"


def test_a_deployment_without_changes_uploads_and_protects_only(subnet: str) -> None:
    deploy("--subnet", subnet)
    stack = moto_stack()
    stack.enable_termination_protection, stack.policy = False, ""  # as an older version left it
    events = len(stack.events)
    output = deploy("--subnet", subnet)
    assert "The stack does not change." in output and "Put these lines into .env:" in output
    assert (len(stack.events), change_sets()) == (events, [])
    assert stack.enable_termination_protection and stack.policy


def test_the_stack_and_its_bucket_are_protected(subnet: str) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/protect-stack-resources.html"""
    deploy("--subnet", subnet)
    cloudformation = boto3.client("cloudformation")
    with pytest.raises(cloudformation.exceptions.ClientError, match="TerminationProtection is enabled"):
        cloudformation.delete_stack(StackName="fruits")
    policy = json.loads(cloudformation.get_stack_policy(StackName="fruits")["StackPolicyBody"])
    [allowed], [denied] = (
        [statement for statement in policy["Statement"] if statement["Effect"] == effect]
        for effect in ("Allow", "Deny")
    )
    # A stack policy denies each update that it does not allow.
    assert (allowed["Action"], allowed["Resource"]) == ("Update:*", "*")
    assert set(denied["Action"]) == {"Update:Delete", "Update:Replace"}
    assert denied["Resource"] == "LogicalResourceId/Bucket"


def test_a_change_set_that_fails_is_named_with_its_reason(
    subnet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy("--subnet", subnet)

    # The backend sets the status after it has made the change set, so the attribute itself is replaced.
    monkeypatch.setattr(
        ChangeSet, "status", property(lambda self: "FAILED", lambda self, value: None), raising=False
    )
    monkeypatch.setattr(
        ChangeSet,
        "status_reason",
        property(lambda self: "No export named X found", lambda self, value: None),
        raising=False,
    )
    output = deploy("--retention-days", "3", exits=1)
    assert "CloudFormation cannot update fruits: No export named X found" in output
    assert change_sets() == []


# Answers of CloudFormation that moto does not give, in the form of its service model.

REQUEST = {"StackName": "fruits", "TemplateBody": "{}"}
CHANGE_SET = f"arn:aws:cloudformation:{REGION}:123456789012:changeSet/fruits-1/1"


def _proposed(*answers: dict[str, Any], deleted: bool) -> Any:
    """The answer of `propose` to descriptions of a change set, which it must delete then if `deleted`."""
    cloudformation = boto3.client("cloudformation")
    with Stubber(cloudformation) as stubber:
        stubber.add_response("create_change_set", {"Id": CHANGE_SET})
        for answer in answers:
            stubber.add_response("describe_change_set", answer)
        if deleted:
            stubber.add_response("delete_change_set", {}, {"ChangeSetName": CHANGE_SET})
        try:
            return propose(cloudformation, REQUEST)
        finally:
            stubber.assert_no_pending_responses()


def _change(name: str, action: str, kind: str, **more: str) -> dict[str, Any]:
    change = {"LogicalResourceId": name, "Action": action, "ResourceType": kind, **more}
    return {"Type": "Resource", "ResourceChange": change}


@pytest.mark.parametrize(
    "reason",
    [
        "The submitted information didn't contain changes. Submit different information to create a change "
        "set.",
        "No updates are to be performed.",
    ],
)
def test_both_reasons_of_an_update_without_changes_are_known(reason: str) -> None:
    """https://github.com/ansible-collections/amazon.aws/pull/507 quotes them."""
    answer = {"Status": "FAILED", "ExecutionStatus": "UNAVAILABLE", "StatusReason": reason, "Changes": []}
    assert _proposed(answer, deleted=True) is None


def test_a_change_set_is_awaited_and_read_to_its_last_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "_POLL_SECONDS", 0)
    role = _change("NodeRole", "Modify", "AWS::IAM::Role", Replacement="False")
    found = _proposed(
        {"Status": "CREATE_PENDING"},
        {"Status": "CREATE_IN_PROGRESS"},
        {"Status": "CREATE_COMPLETE", "Changes": [role], "NextToken": "2"},
        {"Status": "CREATE_COMPLETE", "Changes": [_change("Vpc", "Remove", "AWS::EC2::VPC")]},
        deleted=False,
    )
    assert found.id == CHANGE_SET
    assert [str(loss) for loss in found.losses] == ["removes Vpc (AWS::EC2::VPC)"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_change("Bucket", "Modify", "AWS::S3::Bucket", Replacement="Conditional"), "may replace Bucket"),
        (_change("Bucket", "Dynamic", "AWS::S3::Bucket"), "may remove Bucket"),
        (_change("Log", "Remove", "AWS::Logs::LogGroup"), "removes Log"),
    ],
)
def test_a_change_that_may_take_data_away_is_refused(change: dict[str, Any], words: str) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_ResourceChange.html"""
    with pytest.raises(FruitsError, match=words):
        _proposed({"Status": "CREATE_COMPLETE", "Changes": [change]}, deleted=True)
