"""`fruits emr destroy`, on moto's CloudFormation, EMR, EC2 and S3."""

import threading
import time
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from moto.cloudformation.models import CloudFormationBackend
from moto.core import DEFAULT_ACCOUNT_ID
from moto.emr import emr_backends

from resources.emr import teardown
from resources.emr.stack import Stack, stack_outputs
from resources.emr.teardown import Contents
from tests.resources.emr.commands import REGION, add_failure, deploy, fruits, moto_stack, settings

pytestmark = pytest.mark.usefixtures("aws_account")


@pytest.fixture
def stack(subnet: str) -> Stack:
    """The outputs of a new stack in a subnet that existed before."""
    deploy("--subnet", subnet)
    return stack_outputs(settings())


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> dict[int, Callable[[], Any]]:
    """Acts by the number of the pause, from 1, in which they happen; no pause of this thread takes time."""
    acts: dict[int, Callable[[], Any]] = {}
    number, thread, sleep = 0, threading.current_thread(), time.sleep

    def pause(seconds: float) -> None:
        if threading.current_thread() is not thread:  # of another test, which may have left it
            sleep(seconds)
            return
        nonlocal number
        number += 1
        acts.get(number, lambda: None)()

    monkeypatch.setattr(time, "sleep", pause)
    return acts


def _fill(bucket: str, keys: int) -> None:
    """Puts objects, each twice, and deletes one, in a bucket that keeps versions."""
    s3 = boto3.client("s3")
    # As in the template, whose setting moto's CloudFormation ignores.
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for number in range(keys):
        for _ in range(2):
            s3.put_object(Bucket=bucket, Key=f"photos/Kiwi/{number}.jpg", Body=b"photo")
    s3.delete_object(Bucket=bucket, Key="photos/Kiwi/0.jpg")


def _contents() -> Contents:
    return teardown.contents(settings(), teardown.find(settings()))


def _gone() -> bool:
    stacks, buckets = boto3.client("cloudformation").describe_stacks(), boto3.client("s3").list_buckets()
    return not stacks["Stacks"] and not buckets["Buckets"]


def test_destroy_counts_the_objects_and_asks_first(stack: Stack) -> None:
    _fill(stack.bucket, 3)
    found = _contents()
    # The first photo is deleted, so both its versions are old. Bootstrap action and lock are two objects.
    assert (found.objects, found.old_versions) == (2 + 2, 2 + 2)
    output = fruits("destroy", answer="n\n", exits=1)
    words = " ".join(output.split())
    assert f"2 buckets ({stack.bucket}, " in words and "with 4 objects and 4 old versions" in words
    assert "NodeRole" in output
    assert _contents() == found
    assert moto_stack().enable_termination_protection


def test_destroy_removes_everything(stack: Stack) -> None:
    _fill(stack.bucket, 600)  # one call lists or deletes at most 1,000 versions
    # EMR adds its own rules to the groups, which CloudFormation does not delete.
    boto3.client("ec2").authorize_security_group_ingress(
        GroupId=stack.core_security_group,
        IpPermissions=[
            {
                "IpProtocol": "tcp",
                "FromPort": 0,
                "ToPort": 65535,
                "UserIdGroupPairs": [{"GroupId": stack.primary_security_group}],
            }
        ],
    )
    # AWS, unlike moto, deletes no attached policy.
    iam = boto3.client("iam")
    iam.create_user(UserName="operator")
    iam.attach_user_policy(UserName="operator", PolicyArn=stack.operator_policy_arn)
    output = fruits("destroy", "--yes")
    assert output.splitlines()[-1] == "Removed." and "photos" not in output
    assert not iam.list_attached_user_policies(UserName="operator")["AttachedPolicies"]
    assert _gone()
    # Managed policies are not checked: moto's CloudFormation does not delete them.
    roles = [role["RoleName"] for role in boto3.client("iam").list_roles()["Roles"]]
    assert not [name for name in roles if name.startswith("fruits")]
    groups = boto3.client("ec2").describe_security_groups()["SecurityGroups"]
    assert {group["GroupName"] for group in groups} == {"default"}
    assert "There is no stack" in fruits("destroy", "--yes", exits=1)


# What EMR leaves for some minutes.


def _emrs_interface(stack: Stack) -> str:
    """https://github.com/hashicorp/terraform-provider-aws/issues/3465 quotes its description."""
    interface = boto3.client("ec2").create_network_interface(
        SubnetId=stack.subnet,
        Groups=[stack.service_security_group],
        Description="ElasticMapReduce-eni",
    )
    return str(interface["NetworkInterface"]["NetworkInterfaceId"])


def test_destroy_waits_for_emrs_last_network_interface(
    stack: Stack, pauses: dict[int, Callable[[], Any]]
) -> None:
    interface = _emrs_interface(stack)
    pauses[3] = lambda: boto3.client("ec2").delete_network_interface(NetworkInterfaceId=interface)
    lines = fruits("destroy", "--yes").splitlines()
    waits = [line for line in lines if "Waiting" in line]
    assert waits == [
        "Waiting up to five minutes until EMR has removed the network interface "
        f"{interface} (ElasticMapReduce-eni)."
    ]
    assert _gone()


def test_destroy_gives_up_before_it_deletes_anything(
    stack: Stack, pauses: dict[int, Callable[[], Any]]
) -> None:
    interface, before = _emrs_interface(stack), _contents()
    output = fruits("destroy", "--yes", exits=1)
    assert f"still in use: the network interface {interface}" in output and "Nothing was deleted" in output
    assert "Run `fruits emr destroy` again" in output
    assert _contents() == before and moto_stack().enable_termination_protection
    boto3.client("ec2").delete_network_interface(NetworkInterfaceId=interface)
    fruits("destroy", "--yes")


@pytest.mark.usefixtures("no_wheels")
def test_destroy_waits_for_an_endpoint_of_emr(
    pauses: dict[int, Callable[[], Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """EMR's policy lets EMR create endpoints:

    https://docs.aws.amazon.com/aws-managed-policy/latest/reference/AmazonEMRServicePolicy_v2.html
    """

    def delete(backend: CloudFormationBackend, name: str) -> None:  # moto itself deletes no route table
        found = backend.deleted_stacks[name] = backend.stacks.pop(name)
        found.status = "DELETE_COMPLETE"

    monkeypatch.setattr(CloudFormationBackend, "delete_stack", delete)
    fruits("deploy", "--yes")
    ec2 = boto3.client("ec2")
    [own] = ec2.describe_vpc_endpoints()["VpcEndpoints"]
    service = f"com.amazonaws.{REGION}.elasticmapreduce"
    made = ec2.create_vpc_endpoint(VpcId=own["VpcId"], ServiceName=service, VpcEndpointType="Interface")
    endpoint = made["VpcEndpoint"]["VpcEndpointId"]
    pauses[2] = lambda: ec2.delete_vpc_endpoints(VpcEndpointIds=[endpoint])
    output = fruits("destroy", "--yes")
    assert f"until EMR has removed the VPC endpoint {endpoint} ({service})." in output
    assert own["VpcEndpointId"] not in output
    assert output.splitlines()[-1] == "Removed."


def _fails_once(monkeypatch: pytest.MonkeyPatch, first: Callable[[Any, str], Any]) -> None:
    """The first deletion of a stack is `first`, and the others are moto's."""
    real, calls = CloudFormationBackend.delete_stack, 0

    def delete(backend: CloudFormationBackend, name: str) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            first(backend, name)
        else:
            real(backend, name)

    monkeypatch.setattr(CloudFormationBackend, "delete_stack", delete)


def test_destroy_removes_logs_that_emr_uploads_late(
    stack: Stack, pauses: dict[int, Callable[[], Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """EMR uploads logs every five minutes, and CloudFormation deletes no bucket with objects:

    https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-plan-debugging.html and
    https://github.com/aws/aws-cdk/issues/21776
    """
    real = CloudFormationBackend.delete_stack

    def upload_and_delete(backend: CloudFormationBackend, name: str) -> None:
        boto3.client("s3").put_object(Bucket=stack.bucket, Key="logs/j-1/node/1/syslog.gz", Body=b"late")
        real(backend, name)

    _fails_once(monkeypatch, upload_and_delete)
    output = fruits("destroy", "--yes")
    assert "Bucket: The bucket you tried to delete is not empty" in output and "trying again in 30" in output
    assert _gone()


def test_destroy_tries_again_after_a_dependency_that_passes(
    stack: Stack, pauses: dict[int, Callable[[], Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "resource sg-04eb9b4569cb59608 has a dependent object (Error Code: DependencyViolation)"
    _fails_once(monkeypatch, lambda backend, name: _fail(backend, name, reason))
    assert f"CoreSecurityGroup: {reason}" in fruits("destroy", "--yes")
    assert _gone()


def _fail(backend: CloudFormationBackend, name: str, reason: str) -> None:
    """The text of a reason is that of https://github.com/aws/aws-cdk/issues/14456."""
    found = backend.get_stack(name)
    found._add_stack_event("DELETE_IN_PROGRESS", resource_status_reason="User Initiated")
    add_failure(found, "CoreSecurityGroup", "DELETE_FAILED", reason)
    found.status = "DELETE_FAILED"


def test_destroy_says_what_is_left_after_five_attempts(
    stack: Stack, pauses: dict[int, Callable[[], Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def fail(backend: CloudFormationBackend, name: str) -> None:
        attempts.append(name)
        boto3.client("s3").put_object(Bucket=stack.bucket, Key="logs/j-1/syslog.gz", Body=b"late")
        _fail(backend, name, "The bucket you tried to delete is not empty")

    with monkeypatch.context() as patch:
        patch.setattr(CloudFormationBackend, "delete_stack", fail)
        output = fruits("destroy", "--yes", exits=1)
    assert len(attempts) == 5
    assert f"Still there: objects in s3://{stack.bucket}. Run `fruits emr destroy` again." in output
    fruits("destroy", "--yes")
    assert _gone()


def test_a_failed_destroy_can_be_repeated(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            CloudFormationBackend, "delete_stack", lambda backend, name: _fail(backend, name, "It is in use")
        )
        assert "CoreSecurityGroup: It is in use" in fruits("destroy", "--yes", exits=1)
    assert _contents().objects == 0
    with pytest.raises(match="DELETE_FAILED"):
        stack_outputs(settings())
    fruits("destroy", "--yes")
    assert _gone()


# Clusters.


def _start_cluster(subnet: str, group: str | None = None) -> str:
    """The id of a new cluster, with this security group, else with groups that EMR creates."""
    groups = ("EmrManagedMasterSecurityGroup", "EmrManagedSlaveSecurityGroup")
    cluster = boto3.client("emr").run_job_flow(
        Name="a run",
        Instances={
            "Ec2SubnetId": subnet,
            **(dict.fromkeys(groups, group) if group else {}),
            "KeepJobFlowAliveWhenNoSteps": True,
            "MasterInstanceType": "m5.xlarge",
            "InstanceCount": 1,
        },
        JobFlowRole="nodes",
        ServiceRole="service",
    )
    return str(cluster["JobFlowId"])


def test_destroy_is_refused_while_a_cluster_uses_the_network(stack: Stack) -> None:
    cluster = _start_cluster(stack.subnet, stack.primary_security_group)
    before = _contents()
    output = fruits("destroy", "--yes", exits=1)
    assert f"The cluster {cluster} (a run) in this network is" in output
    assert f"--cluster-ids {cluster}" in output
    assert _contents() == before
    boto3.client("emr").terminate_job_flows(JobFlowIds=[cluster])
    fruits("destroy", "--yes")


@pytest.mark.usefixtures("no_wheels")
def test_destroy_is_refused_while_any_cluster_is_in_the_stacks_own_subnet() -> None:
    fruits("deploy", "--yes")
    cluster = _start_cluster(stack_outputs(settings()).subnet)
    assert f"The cluster {cluster} (a run) in this network" in fruits("destroy", "--yes", exits=1)


def test_a_cluster_of_somebody_else_in_a_shared_subnet_hinders_nothing(stack: Stack) -> None:
    _start_cluster(stack.subnet)
    fruits("destroy", "--yes")


def test_destroy_waits_for_a_cluster_that_is_ending(
    stack: Stack, pauses: dict[int, Callable[[], Any]]
) -> None:
    """The states of a cluster: https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-overview.html"""
    name = _start_cluster(stack.subnet, stack.primary_security_group)
    cluster = emr_backends[DEFAULT_ACCOUNT_ID][REGION].clusters[name]
    cluster.state = "TERMINATING"
    pauses[2] = lambda: setattr(cluster, "state", "TERMINATED")
    lines = fruits("destroy", "--yes").splitlines()
    assert [line for line in lines if "Waiting" in line] == [
        f"Waiting for the end of {name} (a run), which takes some minutes."
    ]
    assert _gone()


def test_destroy_gives_up_on_a_cluster_that_does_not_end(
    stack: Stack, pauses: dict[int, Callable[[], Any]]
) -> None:
    name, before = _start_cluster(stack.subnet, stack.primary_security_group), _contents()
    emr_backends[DEFAULT_ACCOUNT_ID][REGION].clusters[name].state = "TERMINATING"
    output = fruits("destroy", "--yes", exits=1)
    assert f"The cluster {name} (a run) is still TERMINATING. Nothing was deleted." in output
    assert _contents() == before


def test_destroy_is_refused_outside_the_allowed_regions(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRUITS_ALLOWED_REGIONS", "eu-west-1")
    assert "FRUITS_REGION=eu-west-3 is not one of eu-west-1" in fruits("destroy", "--yes", exits=1)
    monkeypatch.delenv("FRUITS_ALLOWED_REGIONS")
    assert stack_outputs(settings()).bucket
