"""Calls of an operator's run to EMR and CloudFormation, judged by the policies of the template."""

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from resources.emr.lifecycle import cluster_request
from resources.emr.stack import describe_stack
from resources.settings import AccountSettings, Settings
from tests.emr_bootstrap.conftest import ERASURE, NODES, NUMBER, OPERATOR, REGION, Account

CLUSTERS = f"arn:aws:elasticmapreduce:{REGION}:{NUMBER}:cluster"


@pytest.fixture
def emr(account: Account) -> Any:
    return account.client("emr", OPERATOR)


@pytest.fixture
def tags_are_seen(account: Account) -> Iterator[None]:
    """AWS lets the Put* calls inside of RunJobFlow see the tags of the new cluster."""
    account.judge.policies_see_new_tags = True
    yield
    account.judge.policies_see_new_tags = False


def request(account: Account, **changes: Any) -> dict[str, Any]:
    """The parameters of RunJobFlow of a run."""
    settings = Settings(
        env="emr",
        images=account.stack.images_uri,
        store=account.stack.store_uri,
        emr_max_nodes=4,
        _env_file=None,
    )
    return {**cluster_request(settings, account.stack, "run-1"), **changes}


def start_cluster(account: Account, **changes: Any) -> str:
    """Starts a cluster as somebody who may do everything; returns its id."""
    return boto3.client("emr").run_job_flow(**request(account, **changes))["JobFlowId"]


def refusal(call: Any, **parameters: Any) -> str:
    """The code and the message with which AWS refuses a call."""
    with pytest.raises(ClientError) as error:
        call(**parameters)
    return "{Code}: {Message}".format(**error.value.response["Error"])


# The stack.


def test_the_operator_reads_the_stack_by_its_name_and_by_its_id(account: Account) -> None:
    # By name, AWS asks for the ARN stack/NAME/* with a literal asterisk. A policy on the stack's id denies
    # that: https://github.com/aws/aws-parallelcluster/pull/754
    cloudformation = account.client("cloudformation", OPERATOR)
    [stack] = cloudformation.describe_stacks(StackName="fruits")["Stacks"]
    assert cloudformation.describe_stacks(StackName=stack["StackId"])["Stacks"]
    asked = account.judge.decisions()[-2:]
    assert [decision["statement"] for decision in asked] == ["operator:policy-0/ReadThisStack"] * 2
    assert asked[0]["arn"] == f"arn:aws:cloudformation:{REGION}:{NUMBER}:stack/fruits/*"
    assert asked[1]["arn"] == stack["StackId"]


def test_the_operator_neither_reads_other_stacks_nor_changes_this_stack(account: Account) -> None:
    # The form of a captured refusal: https://github.com/aws-samples/aws-hpc-tutorials/issues/271
    cloudformation = account.client("cloudformation", OPERATOR)
    assert refusal(cloudformation.describe_stacks, StackName="payroll") == (
        f"AccessDenied: User: arn:aws:iam::{NUMBER}:user/operator is not authorized to perform: "
        "cloudformation:DescribeStacks on resource: "
        f"arn:aws:cloudformation:{REGION}:{NUMBER}:stack/payroll/* "
        "because no identity-based policy allows the cloudformation:DescribeStacks action"
    )
    assert "DescribeStacks" in refusal(cloudformation.describe_stacks, StackName="fruits-2")
    assert "stack/*/*" in refusal(cloudformation.describe_stacks)
    assert "UpdateStack" in refusal(cloudformation.update_stack, StackName="fruits", UsePreviousTemplate=True)


def test_a_key_that_aws_does_not_know_is_no_missing_stack(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", account.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAUNKNOWN")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with pytest.raises(ClientError, match="InvalidClientTokenId"):
        describe_stack(AccountSettings(region=REGION, _env_file=None))


# The start of a cluster.


@pytest.mark.usefixtures("tags_are_seen")
def test_the_operator_may_start_the_cluster_of_a_run(account: Account, emr: Any) -> None:
    before = len(account.judge.decisions())
    cluster = emr.run_job_flow(**request(account))["JobFlowId"]
    assert emr.describe_cluster(ClusterId=cluster)["Cluster"]["Id"] == cluster
    asked = account.judge.decisions()[before:]
    stack = account.stack
    assert [(each["action"], each["arn"].rpartition(":")[2]) for each in asked] == [
        ("elasticmapreduce:RunJobFlow", "cluster/*"),
        ("elasticmapreduce:AddTags", "cluster/*"),
        ("elasticmapreduce:PutAutoTerminationPolicy", "cluster/*"),
        ("elasticmapreduce:PutManagedScalingPolicy", "cluster/*"),
        ("iam:PassRole", f"role/{stack.service_role}"),
        ("iam:PassRole", f"role/{stack.instance_profile}"),
        ("elasticmapreduce:DescribeCluster", f"cluster/{cluster}"),
    ]
    assert all(each["allowed"] for each in asked)
    assert asked[0]["context"]["elasticmapreduce:RequestTag/project"] == "fruits"
    assert asked[5]["context"]["iam:PassedToService"] == "ec2.amazonaws.com"
    assert asked[6]["context"]["elasticmapreduce:ResourceTag/project"] == "fruits"


def test_policies_inside_the_request_may_not_see_its_tags(account: Account, emr: Any) -> None:
    # No document of AWS says whether they do, so the judge refuses by default.
    refused = f"PutAutoTerminationPolicy on resource: {CLUSTERS}/*"
    assert refused in refusal(emr.run_job_flow, **request(account))
    plain = request(account)
    for policy in ("AutoTerminationPolicy", "ManagedScalingPolicy"):
        plain.pop(policy)
    cluster = emr.run_job_flow(**plain)["JobFlowId"]
    assert emr.list_steps(ClusterId=cluster)["Steps"] == []


@pytest.mark.usefixtures("tags_are_seen")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"Tags": []}, "elasticmapreduce:RunJobFlow"),
        ({"Tags": [{"Key": "project", "Value": "payroll"}]}, "elasticmapreduce:RunJobFlow"),
        ({"ServiceRole": "admin"}, f"iam:PassRole on resource: arn:aws:iam::{NUMBER}:role/admin "),
        ({"JobFlowRole": "admin"}, f"iam:PassRole on resource: arn:aws:iam::{NUMBER}:role/admin "),
    ],
)
def test_a_cluster_with_other_tags_or_roles_is_refused(
    account: Account, emr: Any, changes: dict[str, Any], words: str
) -> None:
    message = refusal(emr.run_job_flow, **request(account, **changes))
    assert message.startswith("AccessDeniedException: User: ") and words in message


def test_the_role_of_the_nodes_has_the_name_of_its_instance_profile(account: Account) -> None:
    # "Amazon EC2 allows you to create instance profiles and roles with different names, but Amazon EMR does
    # not support this configuration":
    # https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-iam-roles-custom.html
    name = account.stack.instance_profile
    profile = boto3.client("iam").get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    assert [role["RoleName"] for role in profile["Roles"]] == [name] == [f"fruits-nodes-{REGION}"]


# Clusters of others.


@pytest.mark.parametrize("call", ["describe_cluster", "list_steps", "list_instance_groups"])
def test_a_cluster_that_is_unknown_or_lacks_the_tag_answers_access_denied(
    account: Account, emr: Any, call: str
) -> None:
    foreign = start_cluster(account, Tags=[{"Key": "project", "Value": "payroll"}])
    untagged = start_cluster(account, Tags=[])
    for cluster in (foreign, untagged, "j-UNKNOWN"):
        message = refusal(getattr(emr, call), ClusterId=cluster)
        assert message.startswith("AccessDeniedException: ")
        assert f"on resource: {CLUSTERS}/{cluster} because no identity-based policy" in message


def test_a_call_on_several_clusters_needs_the_permission_on_each(account: Account, emr: Any) -> None:
    own, foreign = start_cluster(account), start_cluster(account, Tags=[])
    assert foreign in refusal(emr.terminate_job_flows, JobFlowIds=[own, foreign])
    assert emr.describe_cluster(ClusterId=own)["Cluster"]["Status"]["State"] != "TERMINATED"
    emr.terminate_job_flows(JobFlowIds=[own])


def test_the_operator_cannot_take_over_a_cluster_by_a_tag(account: Account, emr: Any) -> None:
    own, foreign = start_cluster(account), start_cluster(account, Tags=[])
    project = [{"Key": "project", "Value": "fruits"}]
    assert "AddTags" in refusal(emr.add_tags, ResourceId=foreign, Tags=project)
    emr.add_tags(ResourceId=own, Tags=[{"Key": "team", "Value": "x"}])
    assert account.judge.decisions()[-1]["context"]["aws:TagKeys"] == ["team"]
    payroll = [{"Key": "project", "Value": "payroll"}]
    assert "AddTags" in refusal(emr.add_tags, ResourceId=own, Tags=payroll)
    assert "RemoveTags" in refusal(emr.remove_tags, ResourceId=own, TagKeys=["project"])


@pytest.mark.parametrize("who", [NODES, ERASURE])
def test_nodes_and_erasers_use_no_cluster(account: Account, who: str) -> None:
    emr = account.client("emr", who)
    assert "ListClusters" in refusal(emr.list_clusters)
    assert "DescribeCluster" in refusal(emr.describe_cluster, ClusterId=start_cluster(account))
