"""What the roles and policies of the CloudFormation template allow, read from a stack that moto has deployed.

moto enforces the statements about S3. It does not judge tags, PassRole and conditions: these are evaluated
here from the documents, by AWS's rules.
"""

import ast
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import boto3
import pytest
from botocore.exceptions import ClientError
from cfnlint.decode.cfn_yaml import load
from cloudsplaining.output.policy_finding import PolicyFinding
from cloudsplaining.scan.policy_document import PolicyDocument
from cloudsplaining.shared.exclusions import Exclusions
from moto import mock_aws
from moto.core.authorization import enable_iam_authentication
from moto.server import ThreadedMotoServer
from policy_sentry.querying.actions import get_actions_that_support_wildcard_arns_only

from rehearsal.account import enforceable
from resources.emr.account import TEMPLATE, Deployment, Stack, deploy, plan
from resources.settings import AccountSettings
from spark_jobs.store.photos import list_photos
from spark_jobs.store.root import open_root

# moto's CloudFormation makes no bucket policies, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:.*AWS..S3..BucketPolicy")

REGION, NUMBER = "eu-west-3", "123456789012"
CLUSTER = f"arn:aws:elasticmapreduce:{REGION}:{NUMBER}:cluster/j-1"
OURS = {"elasticmapreduce:ResourceTag/project": "fruits"}
THEIRS = {"elasticmapreduce:ResourceTag/project": "payroll"}
CLUSTER_CALLS = [
    "AddJobFlowSteps",
    "AddTags",
    "CancelSteps",
    "DescribeCluster",
    "DescribeStep",
    "GetAutoTerminationPolicy",
    "GetManagedScalingPolicy",
    "ListInstanceGroups",
    "ListInstances",
    "ListSteps",
    "PutAutoTerminationPolicy",
    "PutManagedScalingPolicy",
    "TerminateJobFlows",
]
NODES, OPERATOR, ERASURE, SERVICE = WHO = ["nodes", "operator", "erasure", "service"]

Document = dict[str, Any]


class Account(NamedTuple):
    """A deployed stack, what its roles and policies say, and keys of a user for each."""

    stack: Stack
    policies: dict[str, list[Document]]
    trust: dict[str, Document]
    keys: dict[str, tuple[str, str]]
    endpoint: str


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    """The template deployed on moto, whose server shares its state; an object in each place of the bucket."""
    logging.getLogger("werkzeug").disabled = True
    # EMR's managed policy, which the service's role has, is AWS's own.
    with (
        pytest.MonkeyPatch.context() as patch,
        mock_aws(config={"iam": {"load_aws_managed_policies": True}}),
    ):
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        settings = AccountSettings(_env_file=None)
        stack = deploy(settings, plan(settings, Deployment(wheelhouse=False, session_manager=True)))
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="other", CreateBucketConfiguration={"LocationConstraint": REGION})
        for bucket, key in [(stack.bucket, f"{place}/here/1.jpg") for place in PLACES] + [("other", "x")]:
            s3.put_object(Bucket=bucket, Key=key, Body=b"photo")
        policies, trust = _documents(stack)
        keys = {who: _user(who, documents) for who, documents in policies.items()}
        yield Account(
            stack=stack, policies=policies, trust=trust, keys=keys, endpoint=f"http://{host}:{port}"
        )
        server.stop()


PLACES = ["photos", "store", "logs", "bootstrap", "elsewhere"]


def _documents(stack: Stack) -> tuple[dict[str, list[Document]], dict[str, Document]]:
    iam = boto3.client("iam")
    [nodes] = iam.get_instance_profile(InstanceProfileName=stack.instance_profile)["InstanceProfile"]["Roles"]
    roles = {NODES: nodes["RoleName"], SERVICE: stack.service_role}
    policies = {
        who: [
            _document(iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"])
            for name in iam.list_role_policies(RoleName=role)["PolicyNames"]
        ]
        for who, role in roles.items()
    }
    for who, arn in ((OPERATOR, stack.operator_policy_arn), (ERASURE, stack.erasure_policy_arn)):
        version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
        document = iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]
        policies[who] = [document]
    trust = {
        who: iam.get_role(RoleName=role)["Role"]["AssumeRolePolicyDocument"] for who, role in roles.items()
    }
    return policies, trust


def _document(found: Any) -> Document:
    """A policy as moto gives it: those that stand in a role are stored as Python writes them."""
    return ast.literal_eval(found) if isinstance(found, str) else found


def _user(who: str, documents: Sequence[Document]) -> tuple[str, str]:
    """Keys of a user with these policies, without the condition on prefixes: moto denies what has one."""
    iam = boto3.client("iam")
    iam.create_user(UserName=who)
    for number, document in enumerate(documents):
        text = json.dumps(enforceable(document))
        iam.put_user_policy(UserName=who, PolicyName=f"policy-{number}", PolicyDocument=text)
    key = iam.create_access_key(UserName=who)["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


def allows(documents: Sequence[Document], action: str, resource: str) -> bool:
    """Whether policies allow a request that has no context of conditions."""
    return decides(documents, action, resource, {})


def decides(documents: Sequence[Document], action: str, resource: str, context: Mapping[str, str]) -> bool:
    """AWS's evaluation of identity policies: some statement allows a request, and none denies it."""
    effects = {
        statement["Effect"]
        for document in documents
        for statement in document["Statement"]
        if any(fnmatchcase(action.lower(), pattern.lower()) for pattern in _list(statement["Action"]))
        and any(fnmatchcase(resource, pattern) for pattern in _list(statement.get("Resource", resource)))
        and all(
            _holds(operator, key, _list(wanted), context)
            for operator, tests in statement.get("Condition", {}).items()
            for key, wanted in tests.items()
        )
    }
    return effects == {"Allow"}


def _holds(operator: str, key: str, wanted: Sequence[str], context: Mapping[str, str]) -> bool:
    if key not in context:
        return operator.endswith("IfExists")
    match operator.removesuffix("IfExists"):
        case "StringEquals" | "Bool":
            return context[key] in wanted
        case "StringLike" | "ArnLike":
            return any(fnmatchcase(context[key], pattern) for pattern in wanted)
    raise NotImplementedError(operator)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


# S3, enforced by moto.


@contextmanager
def _enforced(account: Account, who: str) -> Iterator[Any]:
    """A client of S3 with somebody's keys, while what they may not do is refused."""
    key, secret = account.keys[who]
    s3 = boto3.client("s3", aws_access_key_id=key, aws_secret_access_key=secret)
    with enable_iam_authentication():
        yield s3


READ, WRITE, DELETE, DELETE_VERSION = "get_object", "put_object", "delete_object", "delete_object_versions"
MAY = {
    NODES: {"photos": {READ}, "store": {READ, WRITE, DELETE}, "logs": {WRITE}, "bootstrap": {READ}},
    OPERATOR: {"photos": {READ}, "store": {READ, WRITE, DELETE}, "logs": {READ}, "bootstrap": {READ}},
    ERASURE: {"photos": {DELETE, DELETE_VERSION}, "store": {DELETE, DELETE_VERSION}},
    SERVICE: {},
}


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("call", [READ, WRITE, DELETE])
def test_objects_can_be_reached_only_where_they_must_be(
    account: Account, who: str, place: str, call: str
) -> None:
    # Where the call would delete what other tests read, another object.
    key = f"{place}/here/1.jpg" if call == READ else f"{place}/here/{who}.jpg"
    with _enforced(account, who) as s3:
        assert _passes(s3, call, Bucket=account.stack.bucket, Key=key) == (call in MAY[who].get(place, set()))


@pytest.mark.parametrize("who", WHO)
def test_another_bucket_and_the_bucket_itself_are_out_of_reach(account: Account, who: str) -> None:
    bucket = account.stack.bucket
    with _enforced(account, who) as s3:
        for call in (READ, WRITE, DELETE):
            assert not _passes(s3, call, Bucket="other", Key="x")
        assert not _passes(s3, "list_objects_v2", Bucket="other")
        assert not _passes(s3, "delete_bucket", Bucket=bucket)
        assert not _passes(
            s3, "put_bucket_versioning", Bucket=bucket, VersioningConfiguration={"Status": "Suspended"}
        )
        assert not _passes(s3, "delete_bucket_policy", Bucket=bucket)
        assert not _passes(s3, "delete_bucket_lifecycle", Bucket=bucket)
        assert not _passes(s3, "create_bucket", Bucket="new")


@pytest.mark.parametrize("who", [NODES, OPERATOR])
def test_what_a_run_does_with_photos_and_store_is_allowed(
    account: Account, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", account.endpoint)
    for name, value in zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), account.keys[who], strict=True):
        monkeypatch.setenv(name, value)
    open_root.cache_clear()
    try:
        with enable_iam_authentication():
            assert list(list_photos(account.stack.images_uri).classes) == ["here"]
            photos, store = open_root(account.stack.images_uri), open_root(account.stack.store_uri)
            assert photos.read("here/1.jpg") == b"photo"
            assert store.exists()
            store.write(f"{who}/a", b"1")
            with store.create(f"{who}/large") as stream:  # in parts
                stream.write(b"0" * 11_000_000)
            store.move(f"{who}/a", f"{who}/b")
            assert sorted(info.path for info in store.list(who)) == [f"{who}/b", f"{who}/large"]
            for path in ("b", "large"):
                # Not `remove`: for a deletion of many at once, moto asks for the right to the bucket.
                store.fs.delete_file(f"{who}/{path}")
            with pytest.raises(OSError, match="ACCESS_DENIED"):
                photos.write("here/2.jpg", b"")
    finally:
        open_root.cache_clear()


def _passes(s3: Any, call: str, **request: Any) -> bool:
    try:
        getattr(s3, call)(**request)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("AccessDenied", "403"):
            return False
        raise
    return True


# Conditions, evaluated from the documents.


@pytest.mark.parametrize(
    ("who", "prefixes"),
    [
        (NODES, {"photos", "photos/", "store", "store/a", "bootstrap/wheelhouse/"}),
        (OPERATOR, {"photos", "photos/", "store", "store/a", "logs/j-1/", "bootstrap/wheelhouse/"}),
        (ERASURE, {"photos/", "store/a"}),
        (SERVICE, set()),
    ],
)
def test_only_the_prefixes_in_use_can_be_listed(account: Account, who: str, prefixes: set[str]) -> None:
    arn = f"arn:aws:s3:::{account.stack.bucket}"
    asked = ["photos", "photos/", "store", "store/a", "logs/j-1/", "bootstrap/wheelhouse/", "", "photos-2/"]
    listed = {
        prefix
        for prefix in asked
        if decides(account.policies[who], "s3:ListBucket", arn, {"s3:prefix": prefix})
    }
    assert listed == prefixes
    assert not allows(account.policies[who], "s3:ListBucket", arn)


def test_only_the_erasure_policy_reaches_old_versions(account: Account) -> None:
    for place in PLACES:
        arn = f"arn:aws:s3:::{account.stack.bucket}/{place}/here/1.jpg"
        for who in WHO:
            allowed = DELETE_VERSION in MAY[who].get(place, set())
            assert allows(account.policies[who], "s3:DeleteObjectVersion", arn) == allowed


@pytest.mark.parametrize(
    ("tags", "allowed"),
    [
        ({"project": "fruits"}, True),
        ({"project": "fruits", "team": "x"}, True),
        ({"project": "payroll"}, False),
        ({}, False),
    ],
)
def test_a_cluster_is_started_only_with_the_tag_of_the_project(
    account: Account, tags: dict[str, str], allowed: bool
) -> None:
    context = {f"elasticmapreduce:RequestTag/{key}": value for key, value in tags.items()}
    operator = account.policies[OPERATOR]
    assert decides(operator, "elasticmapreduce:RunJobFlow", "*", context) == allowed


@pytest.mark.parametrize("call", CLUSTER_CALLS)
def test_only_clusters_of_the_project_can_be_used(account: Account, call: str) -> None:
    operator = account.policies[OPERATOR]
    action = f"elasticmapreduce:{call}"
    assert decides(operator, action, CLUSTER, OURS)
    assert not decides(operator, action, CLUSTER, THEIRS)
    assert not decides(operator, action, CLUSTER, {})
    assert not decides(operator, action, CLUSTER.replace(NUMBER, "999999999999"), OURS)
    assert not decides(operator, action, CLUSTER.replace(REGION, "us-east-1"), OURS)
    for who in (NODES, ERASURE, SERVICE):
        assert not decides(account.policies[who], action, CLUSTER, OURS)


def test_no_cluster_is_made_the_projects_own_or_given_away_by_tagging_it(account: Account) -> None:
    operator, action = account.policies[OPERATOR], "elasticmapreduce:AddTags"
    tag = "elasticmapreduce:RequestTag/project"
    assert not decides(operator, action, CLUSTER, {tag: "fruits"})
    assert not decides(operator, action, CLUSTER, {**THEIRS, tag: "fruits"})
    assert not decides(operator, action, CLUSTER, {**OURS, tag: "payroll"})
    assert not decides(operator, "elasticmapreduce:RemoveTags", CLUSTER, OURS)


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("role", [NODES, SERVICE, "admin"])
@pytest.mark.parametrize("service", ["elasticmapreduce", "ec2", "lambda"])
def test_a_role_is_passed_only_to_the_service_that_it_is_for(
    account: Account, who: str, role: str, service: str
) -> None:
    names = {SERVICE: account.stack.service_role, NODES: _node_role(account.stack), "admin": "admin"}
    allowed = {
        OPERATOR: {(SERVICE, "elasticmapreduce"), (NODES, "ec2")},
        # EMR starts the instances.
        SERVICE: {(NODES, "ec2")},
    }
    arn = f"arn:aws:iam::{NUMBER}:role/{names[role]}"
    context = {"iam:PassedToService": f"{service}.amazonaws.com"}
    assert decides(account.policies[who], "iam:PassRole", arn, context) == (
        (role, service) in allowed.get(who, set())
    )
    assert not allows(account.policies[who], "iam:PassRole", arn)


def _node_role(stack: Stack) -> str:
    profile = boto3.client("iam").get_instance_profile(InstanceProfileName=stack.instance_profile)
    return profile["InstanceProfile"]["Roles"][0]["RoleName"]


def test_the_roles_are_taken_only_by_their_service_for_this_account(account: Account) -> None:
    principals = {who: document["Statement"][0]["Principal"] for who, document in account.trust.items()}
    assert principals == {
        NODES: {"Service": "ec2.amazonaws.com"},
        SERVICE: {"Service": "elasticmapreduce.amazonaws.com"},
    }
    ours = {
        "aws:SourceAccount": NUMBER,
        "aws:SourceArn": f"arn:aws:elasticmapreduce:{REGION}:{NUMBER}:cluster/j-1",
    }
    trust = [account.trust[SERVICE]]
    assert decides(trust, "sts:AssumeRole", "*", ours)
    assert not decides(trust, "sts:AssumeRole", "*", {**ours, "aws:SourceAccount": "999999999999"})
    assert not decides(trust, "sts:AssumeRole", "*", {})


def test_the_operator_reads_this_stack_and_no_other(account: Account) -> None:
    stacks = boto3.client("cloudformation").describe_stacks(StackName="fruits")["Stacks"]
    operator, action = account.policies[OPERATOR], "cloudformation:DescribeStacks"
    assert allows(operator, action, stacks[0]["StackId"])
    assert not allows(operator, action, stacks[0]["StackId"].replace("stack/fruits/", "stack/payroll/"))
    assert not allows(operator, "cloudformation:UpdateStack", stacks[0]["StackId"])


def test_nobody_reaches_the_bucket_without_tls() -> None:
    # Out of the template: moto makes no bucket policies.
    resources = load(str(TEMPLATE))["Resources"]
    [statement] = resources["BucketPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert (statement["Principal"], len(statement["Resource"])) == ("*", 2)
    everything: Document = {"Statement": [{"Effect": "Allow", "Action": "*"}]}
    documents = [everything, {"Statement": [{**statement, "Resource": "*"}]}]
    for action in ("s3:GetObject", "s3:ListBucket"):
        assert decides(documents, action, "x", {"aws:SecureTransport": "true"})
        assert not decides(documents, action, "x", {"aws:SecureTransport": "false"})


# What a linter says.


def _findings(document: Document) -> dict[str, Any]:
    """What cloudsplaining finds by kind, of medium severity and above, with or without conditions."""
    policy = PolicyDocument(document, flag_conditional_statements=True)
    results = PolicyFinding(policy, Exclusions(), severity=["critical", "high", "medium"]).results
    results.pop("ServicesAffected")  # no finding
    return {kind: found["findings"] for kind, found in results.items() if found["findings"]}


@pytest.mark.parametrize("who", WHO)
def test_a_linter_finds_nothing_above_low_in_the_policies(account: Account, who: str) -> None:
    assert [_findings(document) for document in account.policies[who]] == [{}] * len(account.policies[who])


def test_the_linter_finds_what_is_too_broad(account: Account) -> None:
    [document] = account.policies[OPERATOR]
    broad = [{**statement, "Resource": "*"} for statement in document["Statement"]]
    assert {"DataExfiltration", "ResourceExposure"} <= _findings({**document, "Statement": broad}).keys()


@pytest.mark.parametrize("who", WHO)
def test_all_resources_are_named_only_where_aws_offers_nothing_narrower(account: Account, who: str) -> None:
    for document in account.policies[who]:
        for statement in document["Statement"]:
            assert not any("*" in action for action in _list(statement["Action"]))
            if "*" in _list(statement["Resource"]):
                for action in _list(statement["Action"]):
                    service = action.partition(":")[0]
                    assert action in get_actions_that_support_wildcard_arns_only(service)
