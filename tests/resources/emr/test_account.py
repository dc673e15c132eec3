"""`fruits emr deploy` and `fruits emr destroy`, against moto as far as its CloudFormation goes."""

import json
from collections.abc import Iterator
from typing import Any

import boto3
import moto.iam.models
import pytest
from cfnlint.decode.cfn_yaml import load
from click.testing import CliRunner, Result
from moto import mock_aws
from moto.cloudformation import cloudformation_backends
from moto.cloudformation.exceptions import ValidationError
from moto.cloudformation.models import CloudFormationBackend, Event
from moto.cloudformation.models import Stack as MotoStack
from moto.core import DEFAULT_ACCOUNT_ID as ACCOUNT_ID
from moto.iam.aws_managed_policies import aws_managed_policies_data

from fruits_assets.cli import main
from resources.emr.account import (
    BOOTSTRAP,
    CLUSTER_TAGS,
    EMR_TAG,
    LOCK,
    TEMPLATE,
    idle_hour,
    stack_outputs,
)
from resources.emr.teardown import contents
from resources.local.history_server import KEEP_DAYS
from resources.prices import load_prices
from resources.settings import AccountSettings, Settings, load_account_settings, load_settings
from resources.spark_events import EVENT_LOGS
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import split_s3_uri

# moto's CloudFormation makes no bucket policies, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:.*AWS..S3..BucketPolicy")

REGION = "eu-west-3"


@pytest.fixture(scope="module")
def emrs_policy() -> str:
    """AWS's own policy for EMR's role, out of moto's copy of them all, which takes seconds to load."""
    name = "AmazonEMRServicePolicy_v2"
    return json.dumps({name: json.loads(aws_managed_policies_data)[name]})


@pytest.fixture(autouse=True)
def aws(emrs_policy: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty account."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setattr(moto.iam.models, "aws_managed_policies_data", emrs_policy)
    with mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        yield


@pytest.fixture
def subnet() -> str:
    """The id of a private subnet that was there before."""
    return _subnet(CLUSTER_TAGS)


def _subnet(tags: dict[str, str]) -> str:
    ec2 = boto3.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    if tags:
        listed = [{"Key": key, "Value": value} for key, value in tags.items()]
        ec2.create_tags(Resources=[subnet], Tags=listed)
    return subnet


def fruits(*arguments: str, answer: str | None = None, exits: int = 0) -> str:
    """What `fruits emr` says."""
    result: Result = CliRunner().invoke(main, ["emr", *arguments], input=answer)
    assert result.exit_code == exits, result.output
    return result.output


def deploy(*arguments: str, **more: Any) -> str:
    """A deployment without the wheels, whose download takes seconds."""
    return fruits("deploy", "--yes", "--index", *arguments, **more)


def settings() -> AccountSettings:
    return load_account_settings()


# Making it.


def test_a_deployment_says_the_cost_then_makes_the_stack_and_what_to_put_into_env(subnet: str) -> None:
    said = deploy("--subnet", subnet, "--photos-prefix", "fruit-photos")
    stack = stack_outputs(settings())
    lines = said.splitlines()
    assert lines[0].startswith("The stack fruits in eu-west-3 costs 0.000 USD an hour (0.00 a month)")
    assert "FRUITS_ENV=emr" in lines
    assert f"FRUITS_IMAGES=s3://{stack.bucket}/fruit-photos" in lines
    assert f"FRUITS_STORE=s3://{stack.bucket}/store" in lines
    assert "FRUITS_EMR_STACK=fruits" in lines and "FRUITS_REGION=eu-west-3" in lines
    assert stack.operator_policy_arn in said and stack.erasure_policy_arn in said


def test_what_a_deployment_tells_to_put_into_env_is_good_settings(
    subnet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for line in deploy("--subnet", subnet).splitlines():
        if line.startswith("FRUITS_"):
            name, _, value = line.partition("=")
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("FRUITS_EMR_CLUSTER", "j-1")
    loaded = load_settings()
    assert isinstance(loaded, Settings)
    assert stack_outputs(loaded).images_uri == loaded.images


def test_nodes_find_their_bootstrap_and_lock_in_the_bucket(subnet: str) -> None:
    deploy("--subnet", subnet)
    stack = stack_outputs(settings())
    for uri, file in ((stack.bootstrap_uri, BOOTSTRAP), (stack.lock_uri, LOCK)):
        bucket, key = split_s3_uri(uri)
        assert boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read() == file.read_bytes()
    assert stack.bootstrap_action() == {
        "Name": "python environment",
        "ScriptBootstrapAction": {"Path": stack.bootstrap_uri, "Args": [stack.lock_uri]},
    }


def test_without_a_subnet_there_is_a_private_one_and_a_wheelhouse() -> None:
    fruits("deploy", "--yes")
    stack = stack_outputs(settings())
    ec2 = boto3.client("ec2")
    [made] = ec2.describe_subnets(SubnetIds=[stack.subnet])["Subnets"]
    [endpoint] = ec2.describe_vpc_endpoints()["VpcEndpoints"]
    assert endpoint["ServiceName"] == f"com.amazonaws.{REGION}.s3" and endpoint["VpcId"] == made["VpcId"]
    assert not ec2.describe_internet_gateways()["InternetGateways"]
    assert stack.wheelhouse_uri is not None
    prefix = stack.wheelhouse_uri.removeprefix(f"s3://{stack.bucket}/")
    listed = boto3.client("s3").list_objects_v2(Bucket=stack.bucket, Prefix=prefix)["Contents"]
    wheels = {entry["Key"].removeprefix(prefix).split("-")[0].lower() for entry in listed}
    assert wheels >= {"boto3", "dagster_pipes", "numpy", "openvino", "pillow", "pyarrow"}
    assert stack.bootstrap_action()["ScriptBootstrapAction"]["Args"] == [stack.lock_uri, stack.wheelhouse_uri]


def test_the_security_groups_and_the_subnet_have_the_tag_that_emr_asks_for() -> None:
    resources = load(str(TEMPLATE))["Resources"]
    [(key, value)] = EMR_TAG.items()
    for name in ("Vpc", "PrivateSubnet", "PrimarySecurityGroup", "CoreSecurityGroup", "ServiceSecurityGroup"):
        assert {"Key": key, "Value": value} in resources[name]["Properties"]["Tags"], name


def test_an_existing_subnet_is_used_as_it_is(subnet: str) -> None:
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


def test_nobody_but_the_cluster_and_emr_itself_is_let_in(subnet: str) -> None:
    deploy("--subnet", subnet)
    stack = stack_outputs(settings())
    primary, core = stack.primary_security_group, stack.core_security_group
    service = stack.service_security_group
    rules = boto3.client("ec2").describe_security_group_rules()["SecurityGroupRules"]
    let_in = {
        (rule["GroupId"], rule["ReferencedGroupInfo"]["GroupId"], rule["IpProtocol"], rule.get("ToPort", -1))
        for rule in rules
        if not rule["IsEgress"] and rule["GroupId"] in (primary, core, service)
    }
    assert let_in == {
        *((group, other, "-1", -1) for group in (primary, core) for other in (primary, core)),
        *((group, service, "tcp", 8443) for group in (primary, core)),
        (service, primary, "tcp", 9443),
    }


def test_a_subnet_without_emrs_tag_is_refused_with_the_command_that_gives_it() -> None:
    bare = _subnet({})
    said = deploy("--subnet", bare, exits=1)
    assert f"--resources {bare} --tags Key=for-use-with-amazon-emr-managed-policies,Value=true" in said
    assert not boto3.client("cloudformation").list_stacks()["StackSummaries"]


@pytest.mark.parametrize("prefix", ["photos", "photos/results", "bootstrap", "logs/runs"])
def test_prefixes_with_different_rights_are_kept_apart(prefix: str) -> None:
    said = fruits("deploy", "--yes", "--store-prefix", prefix, exits=1)
    assert "lie inside each other" in said and prefix in said
    assert not boto3.client("cloudformation").list_stacks()["StackSummaries"]


def test_an_index_is_not_offered_where_nodes_reach_none() -> None:
    assert "--index needs --subnet" in deploy(exits=2)


def test_session_managers_endpoints_are_made_and_paid_for_only_when_asked_for() -> None:
    prices = load_prices()
    hour = prices.interface_endpoint_hour
    assert idle_hour({"SessionManager": "no", "SubnetId": ""}, prices) == 0
    assert idle_hour({"SessionManager": "yes", "SubnetId": "subnet-1"}, prices) == 0
    assert idle_hour({"SessionManager": "yes", "SubnetId": ""}, prices) == pytest.approx(2 * hour)
    said = fruits("deploy", "--session-manager", answer="n\n", exits=1)
    assert f"{2 * hour:.3f} USD an hour ({2 * hour * 730:.2f} a month)" in said


def test_who_says_no_to_the_cost_has_spent_nothing() -> None:
    said = fruits("deploy", answer="n\n", exits=1)
    assert "Make or update it?" in said
    assert not boto3.client("cloudformation").list_stacks()["StackSummaries"]
    assert not boto3.client("s3").list_buckets()["Buckets"]


def test_a_second_deployment_changes_what_it_names_and_nothing_else(subnet: str) -> None:
    deploy("--subnet", subnet, "--store-prefix", "results")
    before = stack_outputs(settings())
    deploy("--retention-days", "30")
    assert stack_outputs(settings()) == before
    assert before.subnet == subnet and before.store_uri.endswith("/results")
    [stack] = boto3.client("cloudformation").describe_stacks()["Stacks"]
    parameters = {each["ParameterKey"]: each["ParameterValue"] for each in stack["Parameters"]}
    assert (stack["StackStatus"], parameters["RetentionDays"]) == ("UPDATE_COMPLETE", "30")


def test_a_deployment_that_changes_nothing_is_no_error(subnet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ValidationError(message="No updates are to be performed.")  # which moto never says

    deploy("--subnet", subnet)
    monkeypatch.setattr(CloudFormationBackend, "update_stack", refuse)
    assert "Put into .env:" in deploy("--subnet", subnet)


def test_a_region_where_photos_may_not_be_is_refused_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FRUITS_REGION", "us-east-1")
    said = deploy(exits=1)
    assert "FRUITS_REGION=us-east-1 is not one of eu-west-3" in said
    assert not boto3.client("cloudformation", region_name="us-east-1").list_stacks()["StackSummaries"]


def _failed(stack: MotoStack, resource: str, status: str, reason: str) -> None:
    """Puts a resource that failed into a stack's events."""
    name = stack.stack_id, stack.name
    stack.events.append(Event(*name, resource, "", "AWS::Any", status, reason, None))


def test_why_cloudformation_failed_is_said(subnet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(stack: MotoStack) -> None:
        _failed(stack, "Bucket", "CREATE_FAILED", "This account has no room for another bucket")
        stack.status = "ROLLBACK_COMPLETE"

    monkeypatch.setattr(MotoStack, "create_resources", fail)
    said = deploy("--subnet", subnet, exits=1)
    assert "Bucket: This account has no room for another bucket" in said


def test_without_credentials_the_remedy_is_named(subnet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:  # moto looks for its own when it ends
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.delenv(name)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, "/none")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setattr(boto3, "DEFAULT_SESSION", None)
        assert "There are no AWS credentials: set AWS_PROFILE" in deploy("--subnet", subnet, exits=1)


# Reading it.


def test_a_stack_that_is_not_there_is_named_with_the_remedy() -> None:
    with pytest.raises(match=r"no stack fruits in eu-west-3\. Make it by `fruits emr deploy`"):
        stack_outputs(settings())
    assert "There is no stack fruits" in fruits("destroy", "--yes", exits=1)


def test_a_stack_of_somebody_elses_is_not_taken_for_ours() -> None:
    template = '{"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}}'
    boto3.client("cloudformation").create_stack(StackName="fruits", TemplateBody=template)
    with pytest.raises(match="The stack fruits has no output for bucket, images_uri"):
        stack_outputs(settings())
    assert "has no output for" in fruits("destroy", "--yes", exits=1)


def test_a_stack_that_is_being_made_is_not_used(subnet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy("--subnet", subnet)
    [stack] = cloudformation_backends[ACCOUNT_ID][REGION].stacks.values()
    monkeypatch.setattr(stack, "status", "UPDATE_IN_PROGRESS")
    with pytest.raises(match="The stack fruits is UPDATE_IN_PROGRESS"):
        stack_outputs(settings())


@pytest.mark.parametrize("name", ["", "my-fruits"])
def test_the_stack_has_the_name_that_is_set(subnet: str, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("FRUITS_EMR_STACK", name)
    said = deploy("--subnet", subnet)
    assert f"FRUITS_EMR_STACK={name or 'fruits'}" in said.splitlines()
    assert boto3.client("cloudformation").describe_stacks(StackName=name or "fruits")["Stacks"]


@pytest.mark.parametrize("name", ["1fruits", "a_b", "a" * 200])
def test_a_name_that_no_stack_can_have_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("FRUITS_EMR_STACK", name)
    with pytest.raises(FruitsError, match=f"^FRUITS_EMR_STACK={name}: "):
        load_account_settings()


# Removing it.


def _fill(bucket: str, keys: int) -> None:
    """Puts objects, each twice, and deletes one, in a bucket that keeps versions."""
    s3 = boto3.client("s3")
    # The template says so; moto's CloudFormation passes over it.
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for number in range(keys):
        for _ in range(2):
            s3.put_object(Bucket=bucket, Key=f"photos/Kiwi/{number}.jpg", Body=b"photo")
    s3.delete_object(Bucket=bucket, Key="photos/Kiwi/0.jpg")


def test_a_removal_says_what_goes_and_asks_first(subnet: str) -> None:
    deploy("--subnet", subnet)
    stack = stack_outputs(settings())
    _fill(stack.bucket, 3)
    found = contents(settings(), stack)
    # The first one is deleted, its two versions are old; the bootstrap and the lock are there.
    assert (found.objects, found.old_versions) == (2 + 2, 2 + 2)
    said = fruits("destroy", answer="n\n", exits=1)
    assert f"the bucket {stack.bucket} with 4 objects and 4 old versions" in " ".join(said.split())
    assert contents(settings(), stack) == found


def test_a_removal_leaves_nothing(subnet: str) -> None:
    deploy("--subnet", subnet)
    stack = stack_outputs(settings())
    _fill(stack.bucket, 600)  # more versions than one call lists or deletes
    # EMR adds rules of its own to the groups, which CloudFormation does not know.
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
    # AWS deletes no policy that somebody has; moto would.
    iam = boto3.client("iam")
    iam.create_user(UserName="operator")
    iam.attach_user_policy(UserName="operator", PolicyArn=stack.operator_policy_arn)
    assert fruits("destroy", "--yes").splitlines()[-1] == "Removed."
    assert not iam.list_attached_user_policies(UserName="operator")["AttachedPolicies"]
    assert not boto3.client("s3").list_buckets()["Buckets"]
    # Of managed policies, moto's CloudFormation removes none.
    roles = [role["RoleName"] for role in boto3.client("iam").list_roles()["Roles"]]
    assert not [name for name in roles if name.startswith("fruits")]
    groups = boto3.client("ec2").describe_security_groups()["SecurityGroups"]
    assert {group["GroupName"] for group in groups} == {"default"}
    assert "There is no stack" in fruits("destroy", "--yes", exits=1)


def test_a_removal_that_failed_can_be_tried_again(subnet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy("--subnet", subnet)
    stack = stack_outputs(settings())

    def fail(backend: CloudFormationBackend, name: str) -> None:
        found = backend.stacks[name]
        found._add_stack_event("DELETE_IN_PROGRESS", resource_status_reason="User Initiated")
        _failed(found, "CoreSecurityGroup", "DELETE_FAILED", "It is in use")
        found.status = "DELETE_FAILED"

    with monkeypatch.context() as patch:
        patch.setattr(CloudFormationBackend, "delete_stack", fail)
        assert "CoreSecurityGroup: It is in use" in fruits("destroy", "--yes", exits=1)
    assert contents(settings(), stack).objects == 0
    with pytest.raises(match="DELETE_FAILED"):
        stack_outputs(settings())
    fruits("destroy", "--yes")
    assert not boto3.client("s3").list_buckets()["Buckets"]


def test_nothing_is_removed_while_a_cluster_runs_in_the_network(subnet: str) -> None:
    deploy("--subnet", subnet)
    stack = stack_outputs(settings())
    emr = boto3.client("emr")
    cluster = emr.run_job_flow(
        Name="a run",
        Instances={
            "Ec2SubnetId": stack.subnet,
            "KeepJobFlowAliveWhenNoSteps": True,
            "MasterInstanceType": "m5.xlarge",
            "InstanceCount": 1,
        },
        JobFlowRole=stack.instance_profile,
        ServiceRole=stack.service_role,
    )["JobFlowId"]
    before = contents(settings(), stack)
    said = fruits("destroy", "--yes", exits=1)
    assert f"The cluster {cluster} (a run) in this network is" in said
    assert f"--cluster-ids {cluster}" in said
    assert contents(settings(), stack) == before
    emr.terminate_job_flows(JobFlowIds=[cluster])
    fruits("destroy", "--yes")


def test_a_removal_is_refused_outside_the_allowed_regions(
    subnet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy("--subnet", subnet)
    monkeypatch.setenv("FRUITS_ALLOWED_REGIONS", "eu-west-1")
    assert "FRUITS_REGION=eu-west-3 is not one of eu-west-1" in fruits("destroy", "--yes", exits=1)
    monkeypatch.delenv("FRUITS_ALLOWED_REGIONS")
    assert stack_outputs(settings()).bucket


# What the template says of the bucket, and moto's CloudFormation passes over.


def _bucket() -> dict[str, Any]:
    return load(str(TEMPLATE))["Resources"]["Bucket"]["Properties"]


def test_the_bucket_is_private_encrypted_and_keeps_versions() -> None:
    bucket = _bucket()
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4
    [rule] = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}


def test_what_lies_in_the_bucket_ends_by_itself() -> None:
    rules: dict[str, dict[str, Any]] = {}
    for rule in _bucket()["LifecycleConfiguration"]["Rules"]:
        chosen = rule["Fn::If"][1] if "Fn::If" in rule else rule
        rules[chosen["Id"]] = {**chosen, "condition": rule.get("Fn::If", [None])[0]}
    assert all(rule["Status"] == "Enabled" for rule in rules.values())
    assert rules["old-versions"]["NoncurrentVersionExpiration"]["NoncurrentDays"] > 0
    assert rules["incomplete-uploads"]["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] > 0
    assert rules["logs"]["Prefix"] == "logs/" and rules["logs"]["ExpirationInDays"] > 0
    assert rules["spark-events"]["Prefix"] == {"Fn::Sub": f"${{StorePrefix}}/{EVENT_LOGS}/"}
    assert rules["spark-events"]["ExpirationInDays"] == KEEP_DAYS
    for name, prefix in (("photos-are-lent", "PhotosPrefix"), ("results-are-lent", "StorePrefix")):
        assert rules[name]["Prefix"] == {"Fn::Sub": f"${{{prefix}}}/"}
        assert rules[name]["ExpirationInDays"] == {"Ref": "RetentionDays"}
        assert rules[name]["condition"] == "EndData"
