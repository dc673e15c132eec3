"""The evaluation of IAM policies, by the rules and the examples of IAM's user guide.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html and
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
"""

from typing import Any

import pytest

from rehearsal.policies import Request, Verdict, decide

STACK = "arn:aws:cloudformation:eu-west-3:1:stack/fruits"


def statement(**elements: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": "*", "Resource": "*", **elements}


def verdict(*statements: dict[str, Any], **request: Any) -> Verdict:
    asked = Request(**{"action": "s3:GetObject", "resource": "arn:aws:s3:::a/b", **request})
    return decide({"policy": {"Version": "2012-10-17", "Statement": list(statements)}}, asked)


def allows(*statements: dict[str, Any], **request: Any) -> bool:
    return verdict(*statements, **request).allowed


def holds(operator: str, key: str, wanted: Any, **context: Any) -> bool:
    condition = {operator: {key: wanted}}
    return allows(
        statement(Condition=condition), context={k.replace("_", ":"): v for k, v in context.items()}
    )


def test_a_request_that_no_statement_allows_is_denied() -> None:
    assert verdict() == Verdict(None, "")
    assert not allows(statement(Action="s3:PutObject"))


def test_a_deny_wins_over_every_allow_and_is_named() -> None:
    allow, deny = statement(Sid="All"), statement(Sid="Never", Effect="Deny", Action="s3:Get*")
    assert verdict(allow) == Verdict("Allow", "policy/All")
    for order in ([allow, deny], [deny, allow]):
        assert verdict(*order) == Verdict("Deny", "policy/Never")
    assert allows(allow, deny, action="s3:PutObject")


def test_a_statement_without_a_name_is_named_by_its_number() -> None:
    assert verdict(statement(Action="s3:Put*"), statement()).statement == "policy/2"


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [("s3:getobject", True), ("S3:Get*", True), ("s3:Get?bject", True), ("s3:Get", False), ("ec2:*", False)],
)
def test_actions_match_in_any_case_with_wildcards(pattern: str, matches: bool) -> None:
    assert allows(statement(Action=["sns:Publish", pattern])) == matches


@pytest.mark.parametrize(
    ("pattern", "resource", "matches"),
    [
        ("arn:aws:s3:::a/*", "arn:aws:s3:::a/b/c", True),
        ("arn:aws:s3:::a/?", "arn:aws:s3:::a/b", True),
        ("arn:aws:s3:::A/*", "arn:aws:s3:::a/b", False),
        ("arn:aws:s3:::a/[b]", "arn:aws:s3:::a/b", False),
        # The asterisk in the ARN of a request is a character.
        (f"{STACK}/*", f"{STACK}/*", True),
        (f"{STACK}/6f2c", f"{STACK}/*", False),
        (f"{STACK}/6f2c", f"{STACK}/6f2c", True),
    ],
)
def test_resources_match_with_wildcards_of_the_policy_alone(
    pattern: str, resource: str, matches: bool
) -> None:
    assert allows(statement(Resource=pattern), resource=resource) == matches


def test_not_action_and_not_resource_cover_the_rest() -> None:
    rest = {"Effect": "Deny", "NotAction": "s3:Get*", "Resource": "*"}
    assert allows(statement(), rest) and not allows(statement(), rest, action="s3:PutObject")
    rest = {"Effect": "Deny", "Action": "*", "NotResource": "arn:aws:s3:::a/*"}
    assert allows(statement(), rest) and not allows(statement(), rest, resource="arn:aws:s3:::c/b")


@pytest.mark.parametrize(
    ("operator", "wanted", "value", "expected"),
    [
        ("StringEquals", ["a", "b"], "b", True),
        ("StringEquals", "a*", "a*", True),
        ("StringEquals", "a*", "ab", False),
        ("StringNotEquals", ["a", "b"], "b", False),
        ("StringNotEquals", ["a", "b"], "c", True),
        ("StringEqualsIgnoreCase", "A", "a", True),
        ("StringLike", "photos/*", "photos/a/b", True),
        ("StringLike", "photos/*", "photos", False),
        ("StringNotLike", "photos/*", "photos/a", False),
        ("ArnLike", "arn:aws:emr:*:1:*", "arn:aws:emr:eu-west-3:1:cluster/j", True),
        ("ArnLike", "arn:aws:emr:*:cluster/j", "arn:aws:emr:eu-west-3:1:cluster/j", False),
        ("ArnEquals", "arn:aws:emr:*:1:*", "arn:aws:emr:eu-west-3:2:cluster/j", False),
        ("Bool", "false", "false", True),
        ("Bool", "false", "true", False),
        ("NumericLessThanEquals", "10", "10", True),
        ("NumericLessThan", 10, "10", False),
        ("Null", "true", "a", False),
        ("Null", False, "a", True),
    ],
)
def test_operators_compare_a_key_with_the_values_of_the_policy(
    operator: str, wanted: Any, value: str, expected: bool
) -> None:
    assert holds(operator, "aws:Key", wanted, aws_key=value) == expected


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        ("StringEquals", False),
        ("StringLike", False),
        ("Bool", False),
        ("StringNotEquals", True),
        ("StringNotLikeIfExists", True),
        ("StringEqualsIfExists", True),
        ("ForAllValues:StringEquals", True),
        ("ForAnyValue:StringEquals", False),
    ],
)
def test_a_key_that_the_request_lacks(operator: str, expected: bool) -> None:
    assert holds(operator, "aws:Key", "true") == expected
    assert holds("Null", "aws:Key", "true")


def test_sets_of_values_are_compared_by_all_or_by_any() -> None:
    both = ["project", "owner"]
    assert holds("ForAllValues:StringEquals", "aws:TagKeys", both, aws_TagKeys=["owner"])
    assert not holds("ForAllValues:StringEquals", "aws:TagKeys", "owner", aws_TagKeys=both)
    assert holds("ForAnyValue:StringEquals", "aws:TagKeys", "owner", aws_TagKeys=both)
    assert not holds("ForAnyValue:StringEquals", "aws:TagKeys", "team", aws_TagKeys=both)


def test_all_keys_of_a_condition_must_hold() -> None:
    condition = {"StringEquals": {"aws:a": "1", "aws:b": "2"}, "Bool": {"aws:c": "true"}}
    given = {"aws:a": "1", "aws:b": "2", "aws:c": "true"}
    assert allows(statement(Condition=condition), context=given)
    for key in given:
        assert not allows(statement(Condition=condition), context={**given, key: "other"})


def test_a_policy_variable_is_the_literal_value_of_its_key() -> None:
    home = statement(Resource="arn:aws:s3:::a/${aws:username}/*")
    assert allows(home, resource="arn:aws:s3:::a/eve/b", context={"aws:username": "eve"})
    assert not allows(home, resource="arn:aws:s3:::a/eve/b", context={"aws:username": "*"})
    assert not allows(home, resource="arn:aws:s3:::a/eve/b")
    assert allows(statement(Resource="arn:aws:s3:::a/${*}"), resource="arn:aws:s3:::a/*")


def test_the_policy_of_a_resource_applies_to_the_callers_that_it_names() -> None:
    roles = statement(Principal={"AWS": ["arn:aws:iam::1:role/a", "2"]})
    assert allows(roles, principals=["arn:aws:iam::1:role/a"]) and allows(roles, principals=["2"])
    assert not allows(roles, principals=["arn:aws:iam::1:role/b"])
    assert allows(statement(Principal="*")) and allows(statement(Principal={"AWS": "*"}))


@pytest.mark.parametrize(
    "elements",
    [
        {"Condition": {"DateLessThan": {"aws:CurrentTime": "2030-01-01T00:00:00Z"}}},
        {"Condition": {"StringAlike": {"aws:username": "eve"}}},
        {"Condition": {"ForNoValue:StringEquals": {"aws:TagKeys": "a"}}},
        {"NotPrincipal": {"AWS": "2"}},
    ],
)
def test_what_the_evaluation_does_not_know_is_an_error(elements: dict[str, Any]) -> None:
    with pytest.raises(NotImplementedError, match=r"rehearsal/policies\.py does not evaluate"):
        allows(statement(**elements))
