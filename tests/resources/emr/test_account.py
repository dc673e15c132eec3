"""`fruits emr deploy`, and the stack's outputs, on moto's CloudFormation."""

from typing import get_args

import boto3
import pytest
from cfnlint.decode.cfn_yaml import load
from moto.cloudformation import cloudformation_backends
from moto.cloudformation.models import Stack as MotoStack
from moto.core import DEFAULT_ACCOUNT_ID as ACCOUNT_ID

from resources.emr.account import BOOTSTRAP, LOCK, TEMPLATE, idle_hour
from resources.emr.stack import Stack, stack_outputs
from resources.instance_types import Architecture
from resources.prices import load_prices
from resources.settings import AccountSettings, Settings, load_settings
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import split_s3_uri
from tests.resources.emr.commands import (
    REGION,
    add_failure,
    change_sets,
    deploy,
    fruits,
    make_subnet,
    refused,
    settings,
)

pytestmark = pytest.mark.usefixtures("aws_account")

# Deployment.


def test_deploy_prints_the_cost_and_the_settings_of_its_stack(subnet: str) -> None:
    output = deploy("--subnet", subnet, "--photos-prefix", "fruit-photos")
    stack = stack_outputs(settings())
    lines = output.splitlines()
    assert lines[0].startswith("The stack fruits in eu-west-3 costs 0.001 USD an hour (1.00 a month)")
    assert "FRUITS_ENV=emr" in lines
    assert f"FRUITS_IMAGES=s3://{stack.bucket}/fruit-photos" in lines
    assert f"FRUITS_STORE=s3://{stack.bucket}/store" in lines
    assert "FRUITS_EMR_STACK=fruits" in lines and "FRUITS_REGION=eu-west-3" in lines
    assert stack.operator_policy_arn in output and stack.erasure_policy_arn in output


def test_the_settings_that_deploy_prints_are_valid(subnet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for line in deploy("--subnet", subnet).splitlines():
        if line.startswith("FRUITS_"):
            name, _, value = line.partition("=")
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("FRUITS_EMR_CLUSTER", "j-1")
    loaded = load_settings(Settings)
    assert isinstance(loaded, Settings)
    assert stack_outputs(loaded).images_uri == loaded.images


def test_deploy_uploads_the_bootstrap_action_and_the_lock(subnet: str) -> None:
    deploy("--subnet", subnet)
    stack = stack_outputs(settings())
    for uri, file in ((stack.bootstrap_uri, BOOTSTRAP), (stack.lock_uri, LOCK)):
        bucket, key = split_s3_uri(uri)
        assert boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read() == file.read_bytes()
    assert stack.bootstrap_action("x86_64") == {
        "Name": "python environment",
        "ScriptBootstrapAction": {"Path": stack.bootstrap_uri, "Args": [stack.lock_uri]},
    }


def test_deploy_creates_a_private_subnet_and_a_wheelhouse_for_each_architecture() -> None:
    fruits("deploy", "--yes")
    stack = stack_outputs(settings())
    ec2 = boto3.client("ec2")
    [made] = ec2.describe_subnets(SubnetIds=[stack.subnet])["Subnets"]
    [endpoint] = ec2.describe_vpc_endpoints()["VpcEndpoints"]
    assert endpoint["ServiceName"] == f"com.amazonaws.{REGION}.s3" and endpoint["VpcId"] == made["VpcId"]
    assert not ec2.describe_internet_gateways()["InternetGateways"]
    assert stack.wheelhouse_uri is not None
    for architecture in get_args(Architecture):
        wheelhouse = f"{stack.wheelhouse_uri}{architecture}/"
        prefix = wheelhouse.removeprefix(f"s3://{stack.bucket}/")
        listed = boto3.client("s3").list_objects_v2(Bucket=stack.bucket, Prefix=prefix)["Contents"]
        wheels = {entry["Key"].removeprefix(prefix).split("-")[0].lower() for entry in listed}
        assert wheels >= {"boto3", "dagster_pipes", "numpy", "openvino", "pillow", "pyarrow"}
        arguments = stack.bootstrap_action(architecture)["ScriptBootstrapAction"]["Args"]
        assert arguments == [stack.lock_uri, wheelhouse]


def _wheelhouse(stack: Stack) -> list[str]:
    """The names of the files that each node downloads."""
    bucket, prefix = split_s3_uri(str(stack.wheelhouse_uri))
    listed = boto3.client("s3").list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
    return [entry["Key"].removeprefix(prefix) for entry in listed]


@pytest.mark.usefixtures("no_wheels")
def test_deploy_removes_wheels_that_the_lock_does_not_name() -> None:
    fruits("deploy", "--yes")
    stack = stack_outputs(settings())
    now = _wheelhouse(stack)
    bucket, prefix = split_s3_uri(str(stack.wheelhouse_uri))
    s3 = boto3.client("s3")
    s3.put_object(Bucket=bucket, Key=f"{prefix}numpy-1.0.0-cp311-none-any.whl", Body=b"old")
    s3.put_object(Bucket=bucket, Key="store/raw_images/part.parquet", Body=b"data")
    fruits("deploy", "--yes")
    assert _wheelhouse(stack) == now
    assert s3.head_object(Bucket=bucket, Key="store/raw_images/part.parquet")
    assert s3.head_object(Bucket=bucket, Key="bootstrap/requirements.lock")


def test_deploy_uses_an_existing_subnet_unchanged(subnet: str) -> None:
    vpcs = len(boto3.client("ec2").describe_vpcs()["Vpcs"])
    deploy("--subnet", subnet)
    stack = stack_outputs(settings())
    ec2 = boto3.client("ec2")
    assert stack.subnet == subnet
    assert len(ec2.describe_vpcs()["Vpcs"]) == vpcs
    [vpc] = {found["VpcId"] for found in ec2.describe_subnets(SubnetIds=[subnet])["Subnets"]}
    groups = [stack.primary_security_group, stack.core_security_group, stack.service_security_group]
    found = ec2.describe_security_groups(GroupIds=groups)["SecurityGroups"]
    assert {group["VpcId"] for group in found} == {vpc}


def test_security_groups_admit_only_the_cluster_and_emr(subnet: str) -> None:
    deploy("--subnet", subnet)
    stack = stack_outputs(settings())
    primary, core = stack.primary_security_group, stack.core_security_group
    service = stack.service_security_group
    rules = boto3.client("ec2").describe_security_group_rules()["SecurityGroupRules"]
    admitted = {
        (rule["GroupId"], rule["ReferencedGroupInfo"]["GroupId"], rule["IpProtocol"], rule.get("ToPort", -1))
        for rule in rules
        if not rule["IsEgress"] and rule["GroupId"] in (primary, core, service)
    }
    assert admitted == {
        *((group, other, "-1", -1) for group in (primary, core) for other in (primary, core)),
        *((group, service, "tcp", 8443) for group in (primary, core)),
        (service, primary, "tcp", 9443),
    }


def test_a_subnet_without_emrs_tag_is_refused_with_the_remedy() -> None:
    bare = make_subnet({})
    output = deploy("--subnet", bare, exits=1)
    assert f"--resources {bare} --tags Key=for-use-with-amazon-emr-managed-policies,Value=true" in output
    assert not boto3.client("cloudformation").list_stacks()["StackSummaries"]


def test_an_idle_stack_costs_the_key_of_its_disks_and_two_endpoints_of_session_manager() -> None:
    prices = load_prices()
    key, endpoints = prices.kms_key_month / 730, 2 * prices.interface_endpoint_hour

    def hour(session_manager: str, subnet: str, encrypted: str) -> float:
        return idle_hour(
            {"SessionManager": session_manager, "SubnetId": subnet, "EncryptDisks": encrypted}, prices
        )

    assert hour("no", "", "no") == hour("yes", "subnet-1", "no") == 0
    assert hour("no", "", "yes") == hour("yes", "subnet-1", "yes") == pytest.approx(key)
    assert hour("yes", "", "yes") == pytest.approx(endpoints + key)
    output = fruits("deploy", "--session-manager", answer="n\n", exits=1)
    total = endpoints + key
    assert f"{total:.3f} USD an hour ({total * 730:.2f} a month)" in output


def test_a_deployment_that_is_declined_creates_nothing() -> None:
    output = fruits("deploy", answer="n\n", exits=1)
    assert "Create it?" in output
    assert not boto3.client("cloudformation").list_stacks()["StackSummaries"]
    assert not boto3.client("s3").list_buckets()["Buckets"]


def test_a_second_deployment_changes_only_its_options(subnet: str) -> None:
    deploy("--subnet", subnet, "--store-prefix", "results")
    before = stack_outputs(settings())
    deploy("--retention-days", "30")
    assert stack_outputs(settings()) == before
    assert before.subnet == subnet and before.store_uri.endswith("/results")
    [stack] = boto3.client("cloudformation").describe_stacks()["Stacks"]
    parameters = {each["ParameterKey"]: each["ParameterValue"] for each in stack["Parameters"]}
    assert (stack["StackStatus"], parameters["RetentionDays"]) == ("UPDATE_COMPLETE", "30")


def test_a_region_that_is_not_allowed_is_refused_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FRUITS_REGION", "us-east-1")
    output = deploy(exits=1)
    assert "FRUITS_REGION=us-east-1 is not one of eu-west-3" in output
    assert not boto3.client("cloudformation", region_name="us-east-1").list_stacks()["StackSummaries"]


def test_the_reason_of_a_cloudformation_failure_is_printed(
    subnet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(stack: MotoStack) -> None:
        add_failure(stack, "Bucket", "CREATE_FAILED", "This account has no room for another bucket")
        stack.status = "ROLLBACK_COMPLETE"

    monkeypatch.setattr(MotoStack, "create_resources", fail)
    output = deploy("--subnet", subnet, exits=1)
    assert "Bucket: This account has no room for another bucket" in output


def test_missing_credentials_are_reported_with_the_remedy(
    subnet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:  # moto needs its own credentials when it ends
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.delenv(name)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, "/none")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setattr(boto3, "DEFAULT_SESSION", None)
        assert "There are no AWS credentials: set AWS_PROFILE" in deploy("--subnet", subnet, exits=1)


# Service-linked roles.


@pytest.mark.parametrize("service", ["elasticmapreduce.amazonaws.com", "spot.amazonaws.com"])
def test_a_service_linked_role_that_was_created_meanwhile_is_accepted(subnet: str, service: str) -> None:
    """https://github.com/awslabs/cdk-eks-blueprints/issues/865 quotes AWS's answer."""
    taken = "Service role name has been taken in this account, please try a different suffix."
    with refused("CreateServiceLinkedRole", "InvalidInput", taken, AWSServiceName=service):
        deploy("--subnet", subnet)
    assert stack_outputs(settings())


def test_a_deployer_who_may_not_create_a_service_linked_role_reads_who_may(subnet: str) -> None:
    """AWS's answer names the policy of the organization:

    https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html
    """
    denied = "User is not authorized to perform: iam:CreateServiceLinkedRole on resource: x with an explicit "
    denied += "deny in a service control policy"
    with refused("CreateServiceLinkedRole", "AccessDenied", denied):
        output = deploy("--subnet", subnet, exits=1)
    assert (
        "Ask the owner of the account to run `aws iam create-service-linked-role --aws-service-name "
        "elasticmapreduce.amazonaws.com`" in output
    )
    assert "service control policy" in output
    assert not boto3.client("cloudformation").list_stacks()["StackSummaries"]


def test_an_update_that_fails_before_it_begins_leaves_no_change_set(subnet: str) -> None:
    deploy("--subnet", subnet)
    for role in boto3.client("iam").list_roles(PathPrefix="/aws-service-role/spot.amazonaws.com/")["Roles"]:
        boto3.client("iam").delete_role(RoleName=role["RoleName"])
    with refused("CreateServiceLinkedRole", "AccessDenied", "no"):
        deploy("--retention-days", "3", exits=1)
    assert change_sets() == []


# Outputs of the stack.


def test_a_missing_stack_is_named_with_the_remedy() -> None:
    with pytest.raises(match=r"no stack fruits in eu-west-3\. Create it with `fruits emr deploy`"):
        stack_outputs(settings())
    assert "There is no stack fruits" in fruits("destroy", "--yes", exits=1)


def test_a_stack_during_an_update_is_refused(subnet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy("--subnet", subnet)
    [stack] = cloudformation_backends[ACCOUNT_ID][REGION].stacks.values()
    monkeypatch.setattr(stack, "status", "UPDATE_IN_PROGRESS")
    with pytest.raises(match="The stack fruits is UPDATE_IN_PROGRESS"):
        stack_outputs(settings())


@pytest.mark.parametrize("name", ["", "my-fruits"])
def test_the_stack_has_the_name_of_the_setting(
    subnet: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("FRUITS_EMR_STACK", name)
    output = deploy("--subnet", subnet)
    assert f"FRUITS_EMR_STACK={name or 'fruits'}" in output.splitlines()
    assert boto3.client("cloudformation").describe_stacks(StackName=name or "fruits")["Stacks"]


@pytest.mark.parametrize("name", ["1fruits", "a_b", "a" * 44])
def test_an_invalid_stack_name_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("FRUITS_EMR_STACK", name)
    with pytest.raises(FruitsError, match=f"^FRUITS_EMR_STACK={name}: "):
        load_settings(AccountSettings)


def test_the_longest_stack_name_leaves_room_for_the_name_of_a_role() -> None:
    # A role's name has at most 64 characters:
    # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
    longest = AccountSettings(emr_stack="a" * 43, _env_file=None).emr_stack
    name = load(str(TEMPLATE))["Resources"]["NodeRole"]["Properties"]["RoleName"]["Fn::Sub"]
    for region in boto3.Session().get_available_regions("emr"):
        role = name.replace("${AWS::StackName}", longest).replace("${AWS::Region}", region)
        assert "$" not in role and len(role) <= 64
