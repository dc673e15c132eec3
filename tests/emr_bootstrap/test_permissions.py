"""Statements of the template's policies, evaluated by AWS's rules, and judged by a linter.

moto evaluates neither tags nor PassRole nor conditions, so the tests evaluate the documents themselves.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import boto3
import pytest
from cfnlint.decode.cfn_yaml import load
from cloudsplaining.output.policy_finding import PolicyFinding
from cloudsplaining.scan.policy_document import PolicyDocument
from cloudsplaining.shared.exclusions import Exclusions
from policy_sentry.querying.actions import get_actions_that_support_wildcard_arns_only

from resources.emr.account import TEMPLATE
from resources.emr.stack import Stack
from tests.emr_bootstrap.conftest import (
    DELETE_VERSION,
    ERASURE,
    MAY,
    NODES,
    NUMBER,
    OPERATOR,
    PREFIXES,
    REGION,
    SERVICE,
    WHO,
    Account,
    Document,
)

# moto's CloudFormation does not create bucket policies, and warns about it.
pytestmark = pytest.mark.filterwarnings("ignore:.*AWS..S3..BucketPolicy")

CLUSTER = f"arn:aws:elasticmapreduce:{REGION}:{NUMBER}:cluster/j-1"
OWN_TAG = {"elasticmapreduce:ResourceTag/project": "fruits"}
OTHER_TAG = {"elasticmapreduce:ResourceTag/project": "payroll"}
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


def allows(documents: Sequence[Document], action: str, resource: str) -> bool:
    """Whether policies allow a request without condition keys."""
    return decides(documents, action, resource, {})


def decides(documents: Sequence[Document], action: str, resource: str, context: Mapping[str, str]) -> bool:
    """AWS's evaluation of identity policies: a statement allows the request, and no statement denies it."""
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
def test_only_the_prefixes_of_a_role_can_be_listed(account: Account, who: str, prefixes: set[str]) -> None:
    arn = f"arn:aws:s3:::{account.stack.bucket}"
    asked = ["photos", "photos/", "store", "store/a", "logs/j-1/", "bootstrap/wheelhouse/", "", "photos-2/"]
    listed = {
        prefix
        for prefix in asked
        if decides(account.policies[who], "s3:ListBucket", arn, {"s3:prefix": prefix})
    }
    assert listed == prefixes
    assert not allows(account.policies[who], "s3:ListBucket", arn)


def test_only_the_erasure_policy_deletes_old_versions(account: Account) -> None:
    for prefix in PREFIXES:
        arn = f"arn:aws:s3:::{account.stack.bucket}/{prefix}/here/1.jpg"
        for who in WHO:
            allowed = DELETE_VERSION in MAY[who].get(prefix, set())
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
def test_a_cluster_starts_only_with_the_tag_of_the_project(
    account: Account, tags: dict[str, str], allowed: bool
) -> None:
    context = {f"elasticmapreduce:RequestTag/{key}": value for key, value in tags.items()}
    operator = account.policies[OPERATOR]
    assert decides(operator, "elasticmapreduce:RunJobFlow", "*", context) == allowed


@pytest.mark.parametrize("call", CLUSTER_CALLS)
def test_only_clusters_of_the_project_accept_calls(account: Account, call: str) -> None:
    operator = account.policies[OPERATOR]
    action = f"elasticmapreduce:{call}"
    assert decides(operator, action, CLUSTER, OWN_TAG)
    assert not decides(operator, action, CLUSTER, OTHER_TAG)
    assert not decides(operator, action, CLUSTER, {})
    assert not decides(operator, action, CLUSTER.replace(NUMBER, "999999999999"), OWN_TAG)
    assert not decides(operator, action, CLUSTER.replace(REGION, "us-east-1"), OWN_TAG)
    for who in (NODES, ERASURE, SERVICE):
        assert not decides(account.policies[who], action, CLUSTER, OWN_TAG)


def test_the_operator_cannot_change_the_project_of_a_cluster(account: Account) -> None:
    operator, action = account.policies[OPERATOR], "elasticmapreduce:AddTags"
    tag = "elasticmapreduce:RequestTag/project"
    assert not decides(operator, action, CLUSTER, {tag: "fruits"})
    assert not decides(operator, action, CLUSTER, {**OTHER_TAG, tag: "fruits"})
    assert not decides(operator, action, CLUSTER, {**OWN_TAG, tag: "payroll"})
    assert not decides(operator, "elasticmapreduce:RemoveTags", CLUSTER, OWN_TAG)


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("role", [NODES, SERVICE, "admin"])
@pytest.mark.parametrize("service", ["elasticmapreduce", "ec2", "lambda"])
def test_a_role_is_passed_only_to_its_own_service(
    account: Account, who: str, role: str, service: str
) -> None:
    names = {SERVICE: account.stack.service_role, NODES: _node_role(account.stack), "admin": "admin"}
    allowed = {
        OPERATOR: {(SERVICE, "elasticmapreduce"), (NODES, "ec2")},
        # EMR starts the instances with the role of the nodes.
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


def test_only_the_service_of_this_account_assumes_a_role(account: Account) -> None:
    principals = {who: document["Statement"][0]["Principal"] for who, document in account.trust.items()}
    assert principals == {
        NODES: {"Service": "ec2.amazonaws.com"},
        SERVICE: {"Service": "elasticmapreduce.amazonaws.com"},
    }
    own_account = {
        "aws:SourceAccount": NUMBER,
        "aws:SourceArn": f"arn:aws:elasticmapreduce:{REGION}:{NUMBER}:cluster/j-1",
    }
    trust = [account.trust[SERVICE]]
    assert decides(trust, "sts:AssumeRole", "*", own_account)
    assert not decides(trust, "sts:AssumeRole", "*", {**own_account, "aws:SourceAccount": "999999999999"})
    assert not decides(trust, "sts:AssumeRole", "*", {})


def test_the_operator_describes_only_this_stack(account: Account) -> None:
    stacks = boto3.client("cloudformation").describe_stacks(StackName="fruits")["Stacks"]
    operator, action = account.policies[OPERATOR], "cloudformation:DescribeStacks"
    assert allows(operator, action, stacks[0]["StackId"])
    assert not allows(operator, action, stacks[0]["StackId"].replace("stack/fruits/", "stack/payroll/"))
    assert not allows(operator, "cloudformation:UpdateStack", stacks[0]["StackId"])


def test_the_bucket_denies_every_call_without_tls() -> None:
    # Read from the template, because moto creates no bucket policies.
    resources = load(str(TEMPLATE))["Resources"]
    [statement] = resources["BucketPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert (statement["Principal"], len(statement["Resource"])) == ("*", 2)
    everything: Document = {"Statement": [{"Effect": "Allow", "Action": "*"}]}
    documents = [everything, {"Statement": [{**statement, "Resource": "*"}]}]
    for action in ("s3:GetObject", "s3:ListBucket"):
        assert decides(documents, action, "x", {"aws:SecureTransport": "true"})
        assert not decides(documents, action, "x", {"aws:SecureTransport": "false"})


# Findings of cloudsplaining.


def _findings(document: Document) -> dict[str, Any]:
    """The findings of medium severity and above by kind, also in statements with conditions."""
    policy = PolicyDocument(document, flag_conditional_statements=True)
    results = PolicyFinding(policy, Exclusions(), severity=["critical", "high", "medium"]).results
    results.pop("ServicesAffected")  # a list of services, not a finding
    return {kind: found["findings"] for kind, found in results.items() if found["findings"]}


@pytest.mark.parametrize("who", WHO)
def test_cloudsplaining_finds_nothing_of_medium_severity(account: Account, who: str) -> None:
    assert [_findings(document) for document in account.policies[who]] == [{}] * len(account.policies[who])


def test_cloudsplaining_finds_a_policy_that_is_too_broad(account: Account) -> None:
    [document] = account.policies[OPERATOR]
    broad = [{**statement, "Resource": "*"} for statement in document["Statement"]]
    assert {"DataExfiltration", "ResourceExposure"} <= _findings({**document, "Statement": broad}).keys()


@pytest.mark.parametrize("who", WHO)
def test_resource_star_is_used_only_where_aws_requires_it(account: Account, who: str) -> None:
    for document in account.policies[who]:
        for statement in document["Statement"]:
            assert not any("*" in action for action in _list(statement["Action"]))
            if "*" in _list(statement["Resource"]):
                for action in _list(statement["Action"]):
                    service = action.partition(":")[0]
                    assert action in get_actions_that_support_wildcard_arns_only(service)
