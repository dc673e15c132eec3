"""Statements of the template's policies, evaluated by AWS's rules, and judged by a linter."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from cfnlint.decode.cfn_yaml import load
from cloudsplaining.output.policy_finding import PolicyFinding
from cloudsplaining.scan.policy_document import PolicyDocument
from cloudsplaining.shared.exclusions import Exclusions
from policy_sentry.querying.actions import get_actions_that_support_wildcard_arns_only
from policy_sentry.shared.iam_data import get_service_prefix_data

from rehearsal.policies import Context, Document, Request, decide
from resources.emr.account import TEMPLATE
from resources.prices import load_prices
from spark_jobs.errors import FruitsError
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
)

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


def decides(
    policies: Mapping[str, Document], action: str, resource: str, context: Context, principal: str = ""
) -> bool:
    """Whether policies allow a request."""
    return decide(policies, Request(action, resource, context, [principal])).allowed


# Statements and their conditions.


@pytest.mark.parametrize(
    ("who", "prefixes"),
    [
        (NODES, {"photos", "photos/", "store", "store/a", "bootstrap/wheelhouse/"}),
        (OPERATOR, {"photos", "photos/", "store", "store/a", "logs/j-1/", "bootstrap/wheelhouse/"}),
        (ERASURE, {"photos", "photos/", "store", "store/a", "logs/j-1/"}),
        (SERVICE, set()),
    ],
)
def test_only_the_prefixes_of_a_role_can_be_listed(account: Account, who: str, prefixes: set[str]) -> None:
    arn = f"arn:aws:s3:::{account.stack.bucket}"
    asked = ["photos", "photos/", "store", "store/a", "logs/j-1/", "bootstrap/wheelhouse/", "", "photos-2/"]
    listed = {
        prefix
        for prefix in asked
        if decides(account.policies[who], "s3:ListBucket", arn, {**account.way, "s3:prefix": prefix})
    }
    assert listed == prefixes
    assert not decides(account.policies[who], "s3:ListBucket", arn, account.way)


def test_credentials_of_a_node_are_worth_nothing_outside_the_stacks_network(account: Account) -> None:
    # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html#condition-keys-sourcevpce
    photo = f"arn:aws:s3:::{account.stack.bucket}/photos/here/1.jpg"
    nodes = account.policies[NODES]
    assert decides(nodes, "s3:GetObject", photo, account.way)
    for elsewhere in ({}, {"aws:SourceVpce": "vpce-0123456789abcdef0"}):
        assert not decides(nodes, "s3:GetObject", photo, elsewhere)


@pytest.mark.parametrize("action", ["ec2:RunInstances", "ec2:CreateFleet"])
def test_the_service_role_starts_only_permitted_types_in_the_stacks_subnet(
    account: Account, action: str
) -> None:
    # The condition keys of both actions:
    # https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2.html
    everything: Document = {"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    service = {**account.policies[SERVICE], "everything": everything}
    instance, subnet = (f"arn:aws:ec2:{REGION}:{NUMBER}:{kind}" for kind in ("instance/*", "subnet/subnet-1"))
    for types, permitted in ((["m5.xlarge", "m7g.4xlarge"], True), (["m5.12xlarge", "p4d.24xlarge"], False)):
        for instance_type in types:
            key = {"ec2:InstanceType": instance_type}
            assert decides(service, action, instance, key) == permitted, instance_type
    assert decides(service, action, instance, {})  # AWS may ask without the key
    for identity, permitted in ((account.stack.subnet, True), ("subnet-0123456789abcdef0", False)):
        assert decides(service, action, subnet, {"ec2:SubnetID": identity}) == permitted


def test_each_family_with_a_price_is_permitted(account: Account) -> None:
    for family in load_prices().vcpu_hour:
        account.stack.check_instance_type(f"{family}.xlarge")
        with pytest.raises(FruitsError, match="fruits emr deploy --instance-types"):
            account.stack.check_instance_type(f"{family}.12xlarge")


def test_only_the_erasure_policy_deletes_old_versions(account: Account) -> None:
    for prefix in PREFIXES:
        arn = f"arn:aws:s3:::{account.stack.bucket}/{prefix}/here/1.jpg"
        for who in WHO:
            allowed = DELETE_VERSION in MAY[who].get(prefix, set())
            assert decides(account.policies[who], "s3:DeleteObjectVersion", arn, {}) == allowed


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
    names = {SERVICE: account.stack.service_role, NODES: account.stack.instance_profile, "admin": "admin"}
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
    assert not decides(account.policies[who], "iam:PassRole", arn, {})


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
    trust, emr = {"trust": account.trust[SERVICE]}, "elasticmapreduce.amazonaws.com"
    other_account = {**own_account, "aws:SourceAccount": "999999999999"}
    assert decides(trust, "sts:AssumeRole", "*", own_account, emr)
    assert not decides(trust, "sts:AssumeRole", "*", own_account, "ec2.amazonaws.com")
    assert not decides(trust, "sts:AssumeRole", "*", other_account, emr)
    assert not decides(trust, "sts:AssumeRole", "*", {}, emr)


def test_the_bucket_denies_every_call_without_tls() -> None:
    # Read from the template, because moto creates no bucket policies.
    resources = load(str(TEMPLATE))["Resources"]
    [statement] = resources["BucketPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert (statement["Principal"], len(statement["Resource"])) == ("*", 2)
    documents = {
        "caller": {"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}},
        "bucket": {"Statement": {**statement, "Resource": "*"}},
    }
    for action in ("s3:GetObject", "s3:ListBucket"):
        assert decides(documents, action, "x", {"aws:SecureTransport": "true"})
        assert not decides(documents, action, "x", {"aws:SecureTransport": "false"})


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


# Findings of cloudsplaining.


def _findings(document: Document) -> dict[str, Any]:
    """The findings of medium severity and above by kind, also in statements with conditions."""
    policy = PolicyDocument(dict(document), flag_conditional_statements=True)
    results = PolicyFinding(policy, Exclusions(), severity=["critical", "high", "medium"]).results
    results.pop("ServicesAffected")  # a list of services, not a finding
    return {kind: found["findings"] for kind, found in results.items() if found["findings"]}


@pytest.mark.parametrize("who", WHO)
def test_cloudsplaining_finds_nothing_of_medium_severity(account: Account, who: str) -> None:
    found = {name: _findings(document) for name, document in account.policies[who].items()}
    assert not any(found.values()), found


def test_cloudsplaining_finds_a_policy_that_is_too_broad(account: Account) -> None:
    [document] = account.policies[OPERATOR].values()
    broad = [{**statement, "Resource": "*"} for statement in document["Statement"]]
    assert {"DataExfiltration", "ResourceExposure"} <= _findings({**document, "Statement": broad}).keys()


@pytest.mark.parametrize("who", WHO)
def test_resource_star_is_used_only_where_aws_requires_it(account: Account, who: str) -> None:
    for document in account.policies[who].values():
        for statement in document["Statement"]:
            if statement["Effect"] == "Deny":
                continue
            assert not any("*" in action for action in _list(statement["Action"]))
            if "*" in _list(statement["Resource"]):
                for action in _list(statement["Action"]):
                    service = action.partition(":")[0]
                    assert action in get_actions_that_support_wildcard_arns_only(service)


# Facts of the Service Authorization Reference, of which policy_sentry has a copy.

# Keys that AWS has in the context of every call, or of every call of its kind:
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html
GLOBAL_KEYS = {
    *("aws:principalarn", "aws:principalaccount", "aws:requestedregion", "aws:securetransport"),
    *("aws:sourceaccount", "aws:sourcearn", "aws:sourcevpc", "aws:sourcevpce"),
}


def _statements(part: Any) -> Iterator[dict[str, Any]]:
    """All statements in a part of the template, also below conditions of CloudFormation."""
    if isinstance(part, dict) and "Effect" in part:
        yield part
    elif isinstance(part, (dict, list)):
        for member in part.values() if isinstance(part, dict) else part:
            yield from _statements(member)


def _documented_keys(action: str) -> set[str]:
    """The condition keys that AWS documents for an action and for the resources of the action.

    Raises `KeyError` for an action that does not exist.
    """
    service, name = action.split(":")
    data = get_service_prefix_data(service)
    types = data["privileges"][name]["resource_types"]
    keys = {key for each in types.values() for key in each["condition_keys"]}
    for each in types:
        if each:
            keys.update(data["resources"][each]["condition_keys"])
    return {_without_tag(key) for key in keys}


def _without_tag(key: str) -> str:
    """A condition key in small letters, without the key of a tag at its end."""
    return key.lower().partition("/")[0]


def test_every_condition_key_is_documented_for_its_action() -> None:
    checked = 0
    for statement in _statements(load(str(TEMPLATE))["Resources"]):
        keys = {_without_tag(key) for tests in statement.get("Condition", {}).values() for key in tests}
        for action in _list(statement["Action"]):
            if "*" not in action:
                unknown = keys - GLOBAL_KEYS - _documented_keys(action)
                assert not unknown, (statement, action)
                checked += 1
    assert checked > 50


def test_a_key_that_aws_does_not_document_is_found() -> None:
    assert "elasticmapreduce:resourcetag" in _documented_keys("elasticmapreduce:AddJobFlowSteps")
    assert "elasticmapreduce:resourcetag" not in _documented_keys("elasticmapreduce:RunJobFlow")
    assert "s3:prefix" not in _documented_keys("s3:ListBucketMultipartUploads")
    with pytest.raises(KeyError):
        _documented_keys("elasticmapreduce:StartCluster")


def test_policies_fit_into_the_quotas_of_iam(account: Account) -> None:
    # 6,144 characters of a managed policy, and 10,240 of all inline policies of a role, without white space:
    # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
    def size(document: Document) -> int:
        return len(json.dumps(document, separators=(",", ":")))

    for who in (OPERATOR, ERASURE):
        [document] = account.policies[who].values()
        assert size(document) < 6144
    for who in (NODES, SERVICE):
        inline = [document for name, document in account.policies[who].items() if ":" in name]
        assert inline and sum(map(size, inline)) < 10_240
