"""IAM's SimulatePrincipalPolicy, which moto lacks: the decisions are those of `policies.py`."""

from typing import Any

from moto.core.exceptions import ServiceException
from moto.core.responses import ActionResult
from moto.iam.responses import IamResponse

from rehearsal.policies import Document, Request, decide
from rehearsal.principals import iam, policies_of_role, policies_of_user

# https://docs.aws.amazon.com/IAM/latest/APIReference/API_EvaluationResult.html
_DECISIONS = {"Allow": "allowed", "Deny": "explicitDeny", None: "implicitDeny"}


class _InvalidInput(ServiceException):
    code = "InvalidInput"


def install() -> None:
    """Adds the call to moto in this process.

    It evaluates the policies of a user, with those of the user's groups, or of a role, and no other key of a
    condition than the `ContextEntries` of the request:
    https://docs.aws.amazon.com/IAM/latest/APIReference/API_SimulatePrincipalPolicy.html
    """
    api: Any = IamResponse
    api.simulate_principal_policy = _simulate


def _simulate(self: Any) -> ActionResult:
    policies = _policies_of(self._get_param("PolicySourceArn"))
    actions, resources = self._get_param("ActionNames"), self._get_param("ResourceArns", ["*"])
    if len(actions) > 1:
        # AWS refuses some actions together, for example iam:PassRole and s3:PutBucketReplication, and does
        # not document which. Its message, and that about sessions, as captured in
        # https://github.com/aws-cloudformation/rain/blob/main/internal/aws/iam/iam.go
        raise _InvalidInput(
            f"Invalid Input Actions: [{actions[0]}] and [{','.join(actions[1:])}] require different "
            "authorization information."
        )
    context = {
        entry["ContextKeyName"]: values[0] if len(values := entry["ContextKeyValues"]) == 1 else values
        for entry in self._get_param("ContextEntries", [])
    }
    return ActionResult(
        {
            "EvaluationResults": [
                {
                    "EvalActionName": action,
                    "EvalResourceName": resource,
                    "EvalDecision": _DECISIONS[decide(policies, Request(action, resource, context)).effect],
                    "MatchedStatements": [],
                    "MissingContextValues": [],
                }
                for action in actions
                for resource in resources
            ],
            "IsTruncated": False,
        }
    )


def _policies_of(arn: str) -> dict[str, Document]:
    """The policies of a user or a role; AWS takes no ARN of a session.

    moto raises NoSuchEntity for an unknown name.
    """
    kind, _, name = arn.split(":", 5)[-1].partition("/")
    name = name.rpartition("/")[2]
    if ":iam:" in arn and kind == "role":
        return policies_of_role(name)
    if ":iam:" in arn and kind == "user":
        return dict(policies_of_user(iam().get_user(name)))
    raise _InvalidInput(f"Invalid Entity Arn: {arn} does not clearly define entity type and name.")
