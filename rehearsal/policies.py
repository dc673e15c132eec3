"""Evaluates IAM policies as AWS does.

The rules are those of IAM's user guide: "Policy evaluation logic" and "IAM JSON policy elements"
(https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html and
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements.html).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from operator import eq, ge, gt, le, lt
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

Document = Mapping[str, Any]

# The values of condition keys. A key such as aws:TagKeys has several values.
Context = Mapping[str, str | Sequence[str]]


class Request(NamedTuple):
    """An action on a resource with the condition keys that AWS evaluates for it.

    `resource` is the ARN that AWS evaluates; a `*` in it is the character itself. `principals` are the names
    by which a policy of a resource may name the caller: ARNs, a number of an account, or a service.
    """

    action: str
    resource: str
    context: Context = MappingProxyType({})
    principals: Sequence[str] = ()


class Verdict(NamedTuple):
    """The decision of policies, and the statement that decides as "policy/Sid".

    The effect None and an empty statement mean that no statement applies. AWS denies that request too.
    """

    effect: Literal["Allow", "Deny"] | None
    statement: str

    @property
    def allowed(self) -> bool:
        return self.effect == "Allow"


def decide(policies: Mapping[str, Document], request: Request) -> Verdict:
    """The decision of named policies: a statement denies, else a statement allows, else none applies.

    Raises `NotImplementedError` for an element or an operator that this module does not evaluate.
    """
    context = {key.lower(): value for key, value in request.context.items()}
    allowing = ""
    for name, document in policies.items():
        for number, statement in enumerate(_list(document["Statement"]), 1):
            if _applies(statement, request, context):
                label = f"{name}/{statement.get('Sid', number)}"
                if statement["Effect"] == "Deny":
                    return Verdict("Deny", label)
                allowing = allowing or label
    return Verdict("Allow", allowing) if allowing else Verdict(None, "")


def _applies(statement: Document, request: Request, context: Context) -> bool:
    return (
        _names_caller(statement, request.principals)
        and _covers(statement, "Action", request.action, context, re.IGNORECASE)
        and _covers(statement, "Resource", request.resource, context)
        and all(
            _holds(operator, key, _list(wanted), context)
            for operator, tests in statement.get("Condition", {}).items()
            for key, wanted in tests.items()
        )
    )


def _names_caller(statement: Document, principals: Sequence[str]) -> bool:
    """Whether the policy of a resource names the caller. A policy of a user or role names nobody."""
    if "NotPrincipal" in statement:
        raise NotImplementedError("rehearsal/policies.py does not evaluate NotPrincipal")
    named = statement.get("Principal", "*")
    names = (
        [name for value in named.values() for name in _list(value)] if isinstance(named, dict) else [named]
    )
    return any(name == "*" or name in principals for name in names)


def _covers(
    statement: Document, element: str, value: str, context: Context, flags: re.RegexFlag = re.NOFLAG
) -> bool:
    """Whether `element` of a statement matches the value, or its opposite, such as NotAction, does not.

    The policy of a role that tells who may assume it has no Resource.
    """
    if f"Not{element}" in statement:
        return not any(_matches(each, value, context, flags) for each in _list(statement[f"Not{element}"]))
    return any(_matches(each, value, context, flags) for each in _list(statement.get(element, value)))


_SPECIAL = re.compile(r"\$\{([^}]*)\}|\*|\?")


def _matches(
    pattern: str, value: str, context: Context, flags: re.RegexFlag = re.NOFLAG, wildcards: bool = True
) -> bool:
    """Whether a value matches a pattern with `*`, `?` and policy variables such as ${aws:username}.

    A pattern with a variable that the request does not have matches nothing.
    """
    regex, end = "", 0
    for special in _SPECIAL.finditer(pattern):
        regex += re.escape(pattern[end : special.start()])
        end = special.end()
        variable = special[1]
        if variable in ("*", "?", "$"):
            regex += re.escape(variable)
        elif variable is not None:
            known = context.get(variable.lower())
            if not isinstance(known, str):
                return False
            regex += re.escape(known)
        elif wildcards:
            regex += ".*" if special[0] == "*" else "."
        else:
            regex += re.escape(special[0])
    return re.fullmatch(regex + re.escape(pattern[end:]), value, flags | re.DOTALL) is not None


def _matches_arn(wanted: str, found: str, context: Context) -> bool:
    """Compares the six parts of an ARN one by one: a wildcard does not reach beyond a colon."""
    parts = wanted.split(":", 5), found.split(":", 5)
    return len(parts[0]) == len(parts[1]) == 6 and all(
        _matches(pattern, value, context) for pattern, value in zip(*parts, strict=True)
    )


def _compare_numbers(compare: Callable[[float, float], bool]) -> Callable[[str, str, Context], bool]:
    return lambda wanted, found, _: compare(float(found), float(wanted))


# Operators without their suffixes and without "Not". Each compares the policy's value with the request's.
_TESTS: dict[str, Callable[[str, str, Context], bool]] = {
    "StringEquals": lambda wanted, found, context: _matches(wanted, found, context, wildcards=False),
    "StringEqualsIgnoreCase": lambda wanted, found, context: _matches(
        wanted, found, context, re.IGNORECASE, wildcards=False
    ),
    "StringLike": _matches,
    # ArnEquals behaves as ArnLike, by IAM's page on condition operators.
    "ArnEquals": _matches_arn,
    "ArnLike": _matches_arn,
    "Bool": lambda wanted, found, _: wanted.lower() == found.lower(),
    "NumericEquals": _compare_numbers(eq),
    "NumericLessThan": _compare_numbers(lt),
    "NumericLessThanEquals": _compare_numbers(le),
    "NumericGreaterThan": _compare_numbers(gt),
    "NumericGreaterThanEquals": _compare_numbers(ge),
}


def _holds(operator: str, key: str, wanted: Sequence[Any], context: Context) -> bool:
    """Whether one key of a condition holds. A negated operator holds where the request lacks the key."""
    found = context.get(key.lower())
    if operator == "Null":
        return (found is None) == (str(wanted[0]).lower() == "true")
    quantifier, _, name = operator.rpartition(":")
    base = name.removesuffix("IfExists")
    negated = "Not" in base
    test = _TESTS.get(base.replace("Not", "", 1))
    if test is None or quantifier not in ("", "ForAllValues", "ForAnyValue"):
        raise NotImplementedError(f"rehearsal/policies.py does not evaluate the operator {operator}")
    if found is None:
        if quantifier:
            return quantifier == "ForAllValues"
        return negated or name.endswith("IfExists")
    holds = (any(test(str(each), value, context) for each in wanted) != negated for value in _list(found))
    return all(holds) if quantifier == "ForAllValues" else any(holds)


def _list(value: Any) -> list[Any]:
    """The members of an element: AWS takes a single member without a list too."""
    return list(value) if isinstance(value, (list, tuple)) else [value]
