"""`fruits emr check` on a deployed account, whose policies decide about every call."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import moto.iam.models
import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner
from moto import mock_aws
from moto.iam.models import iam_backends

from fruits_assets.cli import main
from rehearsal import cloudformation, quotas, simulation
from rehearsal.judge import Judge
from rehearsal.policies import Request, decide
from rehearsal.principals import managed_policy
from rehearsal.server import judged_moto, served
from resources.emr import account as deployment
from resources.emr import check as module
from resources.emr import residency
from resources.emr.account import LOCK, deploy, plan
from resources.emr.check import ON_DEMAND_VCPUS, check_account
from resources.emr.cluster import Cluster
from resources.emr.code import upload_code
from resources.emr.lifecycle import end_clusters, find_or_start_cluster
from resources.emr.options import Deployment
from resources.emr.residency import check_residency
from resources.emr.run_calls import RunCall, calls_of_run
from resources.emr.stack import Stack, describe_stack
from resources.photo_folders import list_photos
from resources.settings import AccountSettings, Settings, load_settings
from resources.spark_events import make_event_log_folder
from spark_jobs.store.root import open_root
from tests.resources.emr.commands import REGION, recorded_calls, refused, start_cluster

# moto's CloudFormation does not create bucket policies, and warns about it.
pytestmark = pytest.mark.filterwarnings("ignore:.*AWS..S3..BucketPolicy")

NUMBER = "123456789012"
ADMINISTRATOR, OPERATOR, STRANGER = "administrator", "operator", "stranger"
OPERATOR_ARN = f"arn:aws:iam::{NUMBER}:user/{OPERATOR}"
ALL = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}

Answers = dict[str, tuple[str, str]]


class Account(NamedTuple):
    """A deployed stack, and the AWS variables of its users for a server that judges every call."""

    stack: Stack
    judge: Judge
    users: dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def account(emrs_policy: str) -> Iterator[Account]:
    """An account that is ready for runs. It has the default quota of spot nodes."""
    judge = judged_moto()
    with (
        pytest.MonkeyPatch.context() as patch,
        mock_aws(config={"iam": {"load_aws_managed_policies": True}}),
        served(judge) as endpoint,
    ):
        for extension in (cloudformation, quotas, simulation):
            extension.install()
        patch.setattr(moto.iam.models, "aws_managed_policies_data", emrs_policy)
        patch.setattr(deployment, "download_wheels", _locked_wheels)
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        settings = AccountSettings(_env_file=None)
        stack = deploy(settings, plan(settings, Deployment(session_manager=True)))
        boto3.client("ec2").enable_ebs_encryption_by_default()
        boto3.client("service-quotas").request_service_quota_increase(
            ServiceCode="ec2", QuotaCode=ON_DEMAND_VCPUS, DesiredValue=64
        )
        boto3.client("s3").put_object(Bucket=stack.bucket, Key="photos/Kiwi/1.jpg", Body=b"photo")
        users = {who: _user(who, endpoint) for who in (ADMINISTRATOR, OPERATOR, STRANGER)}
        iam = boto3.client("iam")
        iam.attach_user_policy(UserName=OPERATOR, PolicyArn=stack.operator_policy_arn)
        iam.put_user_policy(UserName=ADMINISTRATOR, PolicyName="all", PolicyDocument=json.dumps(ALL))
        judge.judging = True
        yield Account(stack, judge, users)


def _user(who: str, endpoint: str) -> dict[str, str]:
    """Creates a user without a policy; returns the variables with the user's keys."""
    iam = boto3.client("iam")
    iam.create_user(UserName=who)
    key = iam.create_access_key(UserName=who)["AccessKey"]
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
        "AWS_REGION": REGION,
    }


def _locked_wheels(lock: Path, folder: Path, architecture: str) -> None:
    """Short files take the place of the wheels, under names of wheels of the lock."""
    folder.mkdir()
    for line in lock.read_text().splitlines():
        name, pinned, rest = line.partition("==")
        if pinned:
            wheel = (
                f"{name.replace('-', '_')}-{rest.split()[0]}-cp311-cp311-manylinux_2_28_{architecture}.whl"
            )
            (folder / wheel).write_bytes(b"wheel")


@contextmanager
def acting_as(account: Account, who: str, **given: str) -> Iterator[None]:
    """Sets the variables of a user, and FRUITS_* variables."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            **account.users[who],
            "FRUITS_ENV": "emr",
            "FRUITS_IMAGES": account.stack.images_uri,
            "FRUITS_STORE": account.stack.store_uri,
            **{f"FRUITS_{name.upper()}": value for name, value in given.items()},
        }.items():
            patch.setenv(name, value)
        # boto3 keeps the credentials of its first client.
        patch.setattr(boto3, "DEFAULT_SESSION", None)
        yield


def check(account: Account, *arguments: str, who: str = ADMINISTRATOR, exits: int, **given: str) -> Answers:
    """The states and texts of the lines that the command prints for a user with settings."""
    with acting_as(account, who, **given):
        result = CliRunner().invoke(main, ["emr", "check", "--json", *arguments])
    assert result.exit_code == exits, (result.output, result.exception)
    lines = {line["name"]: (line["state"], line["text"]) for line in json.loads(result.output)}
    assert exits == any(state == "failed" for state, _ in lines.values())
    return lines


def line(account: Account, name: str, **given: str) -> tuple[str, str]:
    """The state and the text of a line, after which an administrator asks no more."""
    with acting_as(account, ADMINISTRATOR, **given):
        lines = check_account(load_settings(Settings))
        found = next(each for each in lines if each.name == name)
    return found.state, found.text


def names(lines: Answers, state: str) -> set[str]:
    return {name for name, (found, _) in lines.items() if found == state}


# An account that is ready.


def test_every_line_passes_for_an_administrator_who_names_the_operator(account: Account) -> None:
    lines = check(account, "--operator", OPERATOR_ARN, exits=0)
    assert names(lines, "pass") == set(lines)
    assert lines["identity"][1] == f"arn:aws:iam::{NUMBER}:user/administrator in the account {NUMBER}"
    assert "CREATE_COMPLETE, with all outputs" in lines["stack"][1]
    assert lines["uploads"][1].endswith("and the wheels for x86_64")
    assert lines["FRUITS_STORE"][1].endswith(f"is in {REGION}, encrypted with AES256")
    assert f"the policies of {OPERATOR_ARN} allow the" in lines["permissions"][1]
    assert lines["vCPUs on demand"][1].startswith(
        "12 vCPUs of a cluster, and the quota L-1216C47A (Running On"
    )
    assert f"EC2 offers m5.xlarge in {REGION}a" in lines["instance types"][1]
    assert lines["cost"][1].startswith("0.82 USD an hour at most")


def test_an_operator_learns_what_operators_may_ask_and_who_can_ask_the_rest(account: Account) -> None:
    lines = check(account, who=OPERATOR, exits=0)
    assert names(lines, "pass") == {
        *("identity", "region", "stack", "request", "uploads", "FRUITS_IMAGES", "FRUITS_STORE", "cost"),
        "disks",
    }
    state, text = lines["permissions"]
    assert state == "not known"
    assert text.startswith("AWS refused SimulatePrincipalPolicy (AccessDenied): User: ")
    assert text.endswith(f"action. An administrator can ask: `fruits emr check --operator {OPERATOR_ARN}`.")
    assert lines["addresses"][1].startswith("AWS refused DescribeSubnets (UnauthorizedOperation)")


def test_graviton_nodes_have_their_own_wheels(account: Account) -> None:
    types = {"emr_primary_type": "m6g.xlarge", "emr_core_type": "m7g.xlarge"}
    lines = check(account, exits=0, **types)
    assert lines["uploads"][1].endswith("and the wheels for aarch64")
    assert "m6g.xlarge and m7g.xlarge" in lines["instance types"][1]


def test_it_changes_nothing(account: Account) -> None:
    before = len(account.judge.decisions())
    check(account, exits=1, emr_spot="true")
    decisions = account.judge.decisions()[before:]
    changes = {each["action"] for each in decisions} - {
        *("cloudformation:DescribeStacks", "ec2:DescribeInstanceTypeOfferings", "ec2:DescribeSubnets"),
        *("ec2:GetEbsEncryptionByDefault", "iam:ListRoles", "iam:SimulatePrincipalPolicy"),
        *("s3:GetBucketLocation", "s3:GetEncryptionConfiguration", "s3:GetReplicationConfiguration"),
        "s3:ListBucket",
        "servicequotas:GetServiceQuota",
    }
    assert changes == set()


def test_each_line_is_printed_when_its_answer_comes(account: Account) -> None:
    with acting_as(account, ADMINISTRATOR), recorded_calls() as calls:
        lines = check_account(load_settings(Settings))
        assert next(lines).name == "identity"
        assert calls == ["GetCallerIdentity"]
        assert [next(lines).name for _ in range(2)] == ["region", "stack"]
        assert set(calls[1:]) == {"DescribeStacks"}


def test_lines_for_people_begin_with_their_state(account: Account) -> None:
    with acting_as(account, ADMINISTRATOR, emr_max_nodes="40", emr_max_hourly_cost="100"):
        result = CliRunner().invoke(main, ["emr", "check"])
    assert result.exit_code == 1
    states = {line[11:].partition(":")[0]: line[:9].strip() for line in result.output.splitlines()}
    assert states["identity"] == "pass" and states["vCPUs on demand"] == "failed"


# Failures, each with its remedy.


@pytest.mark.parametrize(
    ("given", "name", "words"),
    [
        ({"allowed_regions": "eu-west-1"}, "region", "add yours to FRUITS_ALLOWED_REGIONS"),
        (
            {"emr_stack": "grapes"},
            "stack",
            "no stack grapes in eu-west-3. Create it with `fruits emr deploy`",
        ),
        ({"emr_logs": "s3://other/logs"}, "request", "Name a prefix below it"),
        ({"images": "/data/photos", "env": "local"}, "FRUITS_IMAGES", "Set it to s3://bucket/prefix"),
        ({"images": "s3://other/photos"}, "FRUITS_IMAGES", "s3://other/photos is not below s3://"),
        ({"store": "s3://other/store"}, "FRUITS_STORE", "Set FRUITS_STORE=s3://"),
        (
            {"emr_max_nodes": "20", "emr_max_hourly_cost": "100"},
            "vCPUs on demand",
            "request-service-quota-increase --region eu-west-3 --service-code ec2 --quota-code L-1216C47A "
            "--desired-value 84`",
        ),
        (
            {"emr_spot": "true"},
            "vCPUs of spot",
            "8 vCPUs of a cluster, and the quota L-34B43A08 (All Standard (A, C, D, H, I, M, R, T, Z) Spot "
            "Instance Requests) is 5. Ask AWS for more: `aws service-quotas request-service-quota-increase",
        ),
        # Not in eu-west-3a, in AWS's answer that moto carries.
        (
            {"emr_core_type": "c6id.xlarge"},
            "instance types",
            "EC2 does not offer c6id.xlarge in eu-west-3a, the zone of the subnet subnet-",
        ),
        ({"emr_max_nodes": "2100"}, "addresses", "free addresses in subnet-"),
        ({"emr_max_nodes": "20"}, "cost", "more than FRUITS_EMR_MAX_HOURLY_COST=2.00. Use fewer or smaller"),
        ({"emr_core_type": "r6i.xlarge"}, "cost", "or name a file with more prices in FRUITS_PRICES"),
    ],
)
def test_a_setting_that_cannot_work_fails_with_its_remedy(
    account: Account, given: dict[str, str], name: str, words: str
) -> None:
    state, text = line(account, name, **given)
    assert state == "failed" and words in text


def test_a_root_on_this_machine_fails_only_its_own_line(account: Account) -> None:
    lines = check(account, "--operator", OPERATOR_ARN, exits=1, env="local", images="/data/photos")
    assert names(lines, "failed") == {"FRUITS_IMAGES"}


def test_nodes_without_wheels_for_their_processors_fail(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip on a node refuses the name of OpenVINO's wheel for aarch64 from an index."""
    index = account.stack._replace(wheelhouse_uri=None)
    monkeypatch.setattr(module, "stack_outputs", lambda _: index)
    assert line(account, "uploads")[1].endswith("and no wheels: nodes use an index")
    graviton = {"emr_primary_type": "m6g.xlarge", "emr_core_type": "m6g.xlarge"}
    state, text = line(account, "request", **graviton)
    assert state == "failed" and "Run `fruits emr deploy --wheelhouse`" in text


def test_without_the_stack_its_lines_are_not_known(account: Account) -> None:
    lines = check(account, exits=1, emr_stack="grapes")
    assert names(lines, "failed") == {"stack"}
    assert names(lines, "not known") == {
        *("request", "uploads", "FRUITS_IMAGES", "FRUITS_STORE", "permissions"),
        *("instance types", "addresses"),
    }
    assert "but whether the policies of the stack open it is not known" in lines["FRUITS_STORE"][1]


def test_a_stack_of_an_older_version_fails(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_an_output(settings: Settings) -> Any:
        [stack] = boto3.client("cloudformation").describe_stacks(StackName="fruits")["Stacks"]
        kept = [output for output in stack["Outputs"] if output["OutputKey"] != "ErasurePolicyArn"]
        return {**stack, "Outputs": kept}

    monkeypatch.setattr("resources.emr.stack.describe_stack", without_an_output)
    state, text = line(account, "stack")
    assert state == "failed" and "has no output for erasure_policy_arn" in text
    assert "Run `fruits emr deploy`" in text


@pytest.mark.parametrize("name", ["bootstrap.sh", "requirements.lock"])
def test_an_upload_of_another_version_fails(account: Account, name: str) -> None:
    with other_content(account, f"bootstrap/{name}", b"of an older version"):
        state, text = line(account, "uploads")
    assert state == "failed"
    assert f"{name} is missing or differs from this version. Upload them: `fruits emr deploy`." in text


def test_a_wheel_of_the_lock_that_is_missing_or_empty_fails(account: Account) -> None:
    [version] = [
        line.split("==")[1].split()[0]
        for line in LOCK.read_text().splitlines()
        if line.startswith("pillow==")
    ]
    wheel = f"bootstrap/wheelhouse/x86_64/pillow-{version}-cp311-cp311-manylinux_2_28_x86_64.whl"
    with other_content(account, wheel, b""):
        state, text = line(account, "uploads")
        assert state == "failed" and f"has no wheel of pillow {version}" in text
        graviton = {"emr_primary_type": "m6g.xlarge", "emr_core_type": "m6g.xlarge"}
        assert line(account, "uploads", **graviton)[0] == "pass"


@contextmanager
def other_content(account: Account, key: str, content: bytes) -> Iterator[None]:
    """An object of the stack's bucket has other content inside the block."""
    s3, bucket = boto3.client("s3"), account.stack.bucket
    before = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    s3.put_object(Bucket=bucket, Key=key, Body=content)
    try:
        yield
    finally:
        s3.put_object(Bucket=bucket, Key=key, Body=before)


def test_a_bucket_that_encrypts_nothing_fails(account: Account) -> None:
    code = "ServerSideEncryptionConfigurationNotFoundError"
    with refused("GetBucketEncryption", code, "not found"):
        state, text = line(account, "FRUITS_STORE")
    assert state == "failed" and "Set it: aws s3api put-bucket-encryption" in text


def test_a_bucket_in_another_region_fails(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency, "bucket_region", lambda *_: "eu-west-1")
    state, text = line(account, "FRUITS_IMAGES")
    assert state == "failed" and "or set FRUITS_REGION=eu-west-1" in text


@pytest.mark.parametrize(("service", "name"), [("elasticmapreduce", "role of EMR"), ("spot", "role of spot")])
def test_a_service_linked_role_that_is_missing_fails(
    account: Account, monkeypatch: pytest.MonkeyPatch, service: str, name: str
) -> None:
    roles = iam_backends[NUMBER]["aws"].roles
    others = {key: role for key, role in roles.items() if service not in role.path}
    assert len(others) == len(roles) - 1
    monkeypatch.setattr(iam_backends[NUMBER]["aws"], "roles", others)
    state, text = line(account, name, emr_spot="true")
    assert state == "failed"
    assert f"aws iam create-service-linked-role --aws-service-name {service}.amazonaws.com" in text


def test_disks_that_nobody_encrypts_fail(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    assert line(account, "disks") == ("pass", "the stack encrypts the disks of the nodes")

    def without_encryption(settings: Settings) -> Any:
        stack = describe_stack(settings)
        assert stack is not None
        parameters = [{"ParameterKey": "EncryptDisks", "ParameterValue": "no"}]
        return {**stack, "Parameters": parameters}

    monkeypatch.setattr(module, "describe_stack", without_encryption)
    assert line(account, "disks") == ("pass", f"the account encrypts new disks in {REGION}")
    boto3.client("ec2").disable_ebs_encryption_by_default()
    try:
        state, text = line(account, "disks")
    finally:
        boto3.client("ec2").enable_ebs_encryption_by_default()
    assert state == "failed"
    assert "fruits emr deploy --encrypt-disks" in text
    assert f"aws ec2 enable-ebs-encryption-by-default --region {REGION}" in text


def test_credentials_that_have_ended_fail(account: Account) -> None:
    with refused("GetCallerIdentity", "ExpiredToken", "The security token is expired"):
        state, text = line(account, "identity")
    assert state == "failed" and "renew them" in text


@pytest.mark.parametrize("code", ["AccessDenied", "Throttling"])
def test_a_refused_call_leaves_only_its_own_lines_unknown(account: Account, code: str) -> None:
    with refused("DescribeSubnets", code, "the reason of AWS"):
        lines = check(account, exits=0)
    assert names(lines, "not known") == {"instance types", "addresses"}
    assert all("the reason of AWS" in lines[name][1] for name in ("instance types", "addresses"))


# Clusters of the user's own.


def own_cluster(**tags: str) -> str:
    listed = [{"Key": key, "Value": value} for key, value in tags.items()]
    return start_cluster(ReleaseLabel="emr-7.13.0", Tags=listed)


def test_with_a_cluster_of_the_user_the_lines_are_about_the_cluster(account: Account) -> None:
    cluster = own_cluster(project="fruits")
    lines = check(account, "--operator", OPERATOR_ARN, exits=0, emr_cluster=cluster)
    assert (
        set(lines)
        == names(lines, "pass")
        == {*("identity", "region", "FRUITS_EMR_CLUSTER", "FRUITS_IMAGES", "FRUITS_STORE", "permissions")}
    )
    assert lines["FRUITS_EMR_CLUSTER"][1] == f"{cluster} is WAITING with emr-7.13.0"


def test_a_cluster_without_the_tag_fails_with_the_command(account: Account) -> None:
    cluster = own_cluster()
    state, text = line(account, "FRUITS_EMR_CLUSTER", emr_cluster=cluster)
    assert state == "failed"
    assert f"aws emr add-tags --region eu-west-3 --resource-id {cluster} --tags project=fruits" in text


def test_a_cluster_that_is_unknown_or_over_fails(account: Account) -> None:
    over = own_cluster(project="fruits")
    boto3.client("emr").terminate_job_flows(JobFlowIds=[over])
    for cluster, words in ((over, "Name a running cluster"), ("j-NONE", "there is no such cluster")):
        state, text = line(account, "FRUITS_EMR_CLUSTER", emr_cluster=cluster)
        assert state == "failed" and words in text


# Permissions.


def test_a_user_without_the_policy_fails_with_the_command_that_attaches_it(account: Account) -> None:
    stranger = OPERATOR_ARN.replace(OPERATOR, STRANGER)
    state, text = check(account, "--operator", stranger, exits=1)["permissions"]
    assert state == "failed"
    assert "elasticmapreduce:AddJobFlowSteps on arn:aws:elasticmapreduce:eu-west-3:" in text
    assert text.count(" on ") == 5 and ", and " in text
    policy = account.stack.operator_policy_arn
    assert f"`aws iam attach-user-policy --user-name stranger --policy-arn {policy}`" in text


def test_the_policies_of_a_session_are_those_of_its_role(account: Account) -> None:
    iam = boto3.client("iam")
    trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    iam.create_role(RoleName="dagster", Path="/teams/", AssumeRolePolicyDocument=document)
    session = f"arn:aws:sts::{NUMBER}:assumed-role/dagster/jane"
    text = check(account, "--operator", session, exits=1)["permissions"][1]
    assert f"The policies of arn:aws:iam::{NUMBER}:role/teams/dagster do not allow" in text
    assert "aws iam attach-role-policy --role-name dagster --policy-arn" in text
    iam.attach_role_policy(RoleName="dagster", PolicyArn=account.stack.operator_policy_arn)
    assert check(account, "--operator", session, exits=0)["permissions"][0] == "pass"


@pytest.mark.parametrize("who", ["jane", f"arn:aws:iam::{NUMBER}:root"])
def test_only_permissions_of_users_and_roles_are_simulated(account: Account, who: str) -> None:
    state, text = check(account, "--operator", who, exits=0)["permissions"]
    assert state == "not known"
    assert text.startswith(f"{who} is not the ARN of a user or a role, and AWS simulates no other")


# Statements of which the list has no call: people read logs, and S3 connectors ask for an object that has the
# name of a prefix.
NOT_LISTED = {"Read", "FindPhotos"}
# Actions beside those of a run, in statements that a run needs.
BESIDE = {"GetAutoTerminationPolicy", "GetManagedScalingPolicy", "ListInstances"}


def test_a_call_of_a_run_needs_each_statement_of_the_operators_policy(account: Account) -> None:
    policy = {"operator": managed_policy(account.stack.operator_policy_arn)}
    decided = {
        (decide(policy, Request(*call)).statement, call.action) for call in listed_calls(account.stack)
    }
    # The photos are in the bucket of the stack here, so two statements allow the same.
    twice = {"KnowPhotos"}
    statements = {each["Sid"]: each for each in policy["operator"]["Statement"]}
    used = {statement.removeprefix("operator/") for statement, _ in decided}
    assert used == statements.keys() - NOT_LISTED - twice
    for sid in used:
        actions = statements[sid]["Action"]
        listed = {action for statement, action in decided if statement == f"operator/{sid}"}
        allowed = {actions} if isinstance(actions, str) else set(actions)
        assert {action.partition(":")[2] for action in allowed - listed} <= BESIDE


def test_without_a_statement_the_line_names_the_calls_that_are_refused(account: Account) -> None:
    iam = boto3.client("iam")
    document: Any = managed_policy(account.stack.operator_policy_arn)
    statements = [each for each in document["Statement"] if each["Sid"] not in ("PassNodeRole", "List")]
    less = json.dumps({**document, "Statement": statements})
    iam.put_user_policy(UserName=STRANGER, PolicyName="less", PolicyDocument=less)
    try:
        stranger = OPERATOR_ARN.replace(OPERATOR, STRANGER)
        text = check(account, "--operator", stranger, exits=1)["permissions"][1]
    finally:
        iam.delete_user_policy(UserName=STRANGER, PolicyName="less")
    role = f"arn:aws:iam::{NUMBER}:role/{account.stack.instance_profile}"
    bucket = f"arn:aws:s3:::{account.stack.bucket}"
    assert f"do not allow iam:PassRole on {role}, s3:ListBucket on {bucket}. Attach" in text


def listed_calls(stack: Stack) -> list[RunCall]:
    settings = Settings(images=stack.images_uri, store=stack.store_uri, _env_file=None)
    return list(calls_of_run(settings, NUMBER, "aws", stack))


@pytest.mark.usefixtures("policies_see_new_tags")
def test_the_list_has_every_call_that_a_run_makes(account: Account) -> None:
    """Compares the list with the judge's decisions about the calls of the modules of which a run consists."""
    before = len(account.judge.decisions())
    with acting_as(account, OPERATOR, emr_max_nodes="4"):
        make_calls_of_a_run(load_settings(Settings))
    decisions = account.judge.decisions()[before:]
    assert [each for each in decisions if not each["allowed"]] == []
    calls = listed_calls(account.stack)
    assert [each for each in decisions if not any(covers(call, each) for call in calls)] == []
    not_decided = {call.action for call in calls if not any(covers(call, each) for each in decisions)}
    # Only large objects are uploaded in parts.
    assert not_decided <= {"s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"}


@pytest.fixture
def policies_see_new_tags(account: Account) -> Iterator[None]:
    account.judge.policies_see_new_tags = True
    yield
    account.judge.policies_see_new_tags = False


def make_calls_of_a_run(settings: Settings) -> None:
    check_residency(settings)
    list_photos(settings.images)
    emr = boto3.client("emr")
    cluster = Cluster(emr, find_or_start_cluster(emr, settings, "a-run"), settings.region)
    cluster.state()
    cluster.nodes()
    list(cluster.active_steps())
    store = open_root(settings.store)
    upload_code(store)
    make_event_log_folder(store)
    store.write("emr/report.json", b"{}")
    store.read("emr/report.json")
    store.list("emr")
    store.remove("emr")
    step = cluster.add_step("fruits raw_images", ["spark-submit"])
    cluster.describe(step)
    # moto has no CancelSteps.
    with suppress(ClientError):
        cluster.cancel(step)
    end_clusters(settings, "a-run", lambda _: None)


def covers(call: RunCall, decision: Mapping[str, Any]) -> bool:
    """Whether a call of the list stands for a decision: it has no condition key that the decision lacks."""
    context = decision["context"]
    same = all(str(context.get(key, "")).startswith(value.rstrip("/")) for key, value in call.context.items())
    return (
        call.action == decision["action"]
        and same
        and (decision["arn"] == call.resource or fnmatchcase(decision["arn"], call.resource))
    )


# The stand-ins of moto.


def test_the_simulation_refuses_what_iam_refuses(account: Account) -> None:
    # Both messages were captured: https://github.com/aws-cloudformation/rain/blob/main/internal/aws/iam/iam.go
    iam = boto3.client("iam")
    session = f"arn:aws:sts::{NUMBER}:assumed-role/dagster/jane"
    with pytest.raises(ClientError, match=r"InvalidInput.*does not clearly define entity type and name"):
        iam.simulate_principal_policy(PolicySourceArn=session, ActionNames=["s3:GetObject"])
    with pytest.raises(ClientError, match="require different authorization information"):
        iam.simulate_principal_policy(
            PolicySourceArn=OPERATOR_ARN, ActionNames=["iam:PassRole", "s3:PutBucketReplication"]
        )
    with pytest.raises(ClientError, match="NoSuchEntity"):
        iam.simulate_principal_policy(
            PolicySourceArn=OPERATOR_ARN.replace(OPERATOR, "nobody"), ActionNames=["s3:GetObject"]
        )


def test_the_simulation_tells_a_denial_from_a_missing_permission(account: Account) -> None:
    iam = boto3.client("iam")
    deny = {"Effect": "Deny", "Action": "s3:PutObject", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [deny]})
    iam.put_user_policy(UserName=STRANGER, PolicyName="deny", PolicyDocument=document)
    decisions = {
        action: iam.simulate_principal_policy(
            PolicySourceArn=OPERATOR_ARN.replace(OPERATOR, STRANGER), ActionNames=[action]
        )["EvaluationResults"][0]["EvalDecision"]
        for action in ("s3:PutObject", "s3:GetObject")
    }
    iam.delete_user_policy(UserName=STRANGER, PolicyName="deny")
    assert decisions == {"s3:PutObject": "explicitDeny", "s3:GetObject": "implicitDeny"}


def test_a_new_account_has_five_vcpus_until_an_increase() -> None:
    # https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/using-spot-limits.html
    quotas.install()
    with mock_aws():
        client = boto3.client("service-quotas", region_name="eu-west-1")
        asked = {"ServiceCode": "ec2", "QuotaCode": ON_DEMAND_VCPUS}
        assert client.get_service_quota(**asked)["Quota"]["Value"] == 5
        client.request_service_quota_increase(**asked, DesiredValue=12)
        assert client.get_service_quota(**asked)["Quota"]["Value"] == 12
