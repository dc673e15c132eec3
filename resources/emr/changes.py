"""Updates of a stack by change sets, which name beforehand the resources that an update takes away."""

import time
from typing import Any, NamedTuple
from uuid import uuid4

from spark_jobs.errors import FruitsError

_POLL_SECONDS = 2.0
_POLLS = 150

# A bucket with photos and outputs, or records of accesses.
_HOLD_DATA = frozenset({"AWS::Logs::LogGroup", "AWS::S3::Bucket"})

# CloudFormation fails a change set that changes nothing, and gives one of two reasons:
# https://github.com/ansible-collections/amazon.aws/pull/507
_NOTHING = ("didn't contain changes", "No updates are to be performed")


class Change(NamedTuple):
    """A resource that an update takes away. `verb` is removes, replaces, or may replace."""

    verb: str
    resource: str
    kind: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource} ({self.kind})"


class ChangeSet(NamedTuple):
    """A change set that waits for its execution, with the changes that take resources away."""

    id: str
    losses: tuple[Change, ...]


def propose(cloudformation: Any, request: dict[str, Any]) -> ChangeSet | None:
    """Creates a change set for the request of an update; None where the update would change nothing.

    `request` has the members of CreateChangeSet that say how the stack shall be. Raises `FruitsError` where
    CloudFormation cannot make the change set, and where it would remove or replace a resource that holds
    data. No change set is left then.
    """
    # A name of its own, because an interrupted deployment may have left a change set.
    name = f"fruits-{uuid4().hex}"
    created = cloudformation.create_change_set(**request, ChangeSetName=name, ChangeSetType="UPDATE")["Id"]
    try:
        found = _described(cloudformation, created)
        if found["Status"] == "FAILED":
            reason = found.get("StatusReason", "no reason given")
            if not any(text in reason for text in _NOTHING):
                raise FruitsError(
                    f"CloudFormation cannot update {request['StackName']}: {reason}. Correct the options, "
                    "or update from a newer version of this project."
                )
            discard(cloudformation, created)
            return None
        losses = tuple(_losses(found["Changes"]))
        _refuse_data(request["StackName"], losses)
    except BaseException:
        discard(cloudformation, created)
        raise
    return ChangeSet(created, losses)


def execute(cloudformation: Any, change_set: ChangeSet) -> None:
    """Begins the update; the stack shows its progress."""
    cloudformation.execute_change_set(ChangeSetName=change_set.id)


def discard(cloudformation: Any, change_set_id: str) -> None:
    """Deletes a change set that was not executed."""
    cloudformation.delete_change_set(ChangeSetName=change_set_id)


def _described(cloudformation: Any, change_set_id: str) -> dict[str, Any]:
    """The description of a change set that is ready or has failed, with all its changes.

    Raises `FruitsError` after five minutes.
    """
    for _ in range(_POLLS):
        found: dict[str, Any] = cloudformation.describe_change_set(ChangeSetName=change_set_id)
        if found["Status"] in ("CREATE_COMPLETE", "FAILED"):
            break
        time.sleep(_POLL_SECONDS)
    else:
        raise FruitsError(
            f"The change set {change_set_id} is not ready after five minutes. Deploy again.", True
        )
    page = found
    while token := page.get("NextToken"):
        page = cloudformation.describe_change_set(ChangeSetName=change_set_id, NextToken=token)
        found["Changes"] = [*found["Changes"], *page["Changes"]]
    return found


def _losses(changes: list[dict[str, Any]]) -> list[Change]:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_ResourceChange.html"""
    verbs = {"Remove": "removes", "Dynamic": "may remove", "True": "replaces", "Conditional": "may replace"}
    listed = [change["ResourceChange"] for change in changes if "ResourceChange" in change]
    found = [
        (verbs.get(change["Action"]) or verbs.get(change.get("Replacement", "False")), change)
        for change in listed
    ]
    return [
        Change(verb, change["LogicalResourceId"], change["ResourceType"]) for verb, change in found if verb
    ]


def _refuse_data(stack: str, losses: tuple[Change, ...]) -> None:
    data = [str(change) for change in losses if change.kind in _HOLD_DATA]
    if data:
        raise FruitsError(
            f"The update of the stack {stack} {', '.join(data)}, which holds data. Nothing was changed. "
            "Deploy a stack of another name in FRUITS_EMR_STACK, and copy the data there."
        )
