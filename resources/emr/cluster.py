"""One EMR cluster, and the steps on it."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from spark_jobs.errors import FruitsError

POLL_SECONDS = 2.0
CANCEL_SECONDS = 60.0
# How often a running step's cluster is looked at: a dead one may never end its step.
CLUSTER_SECONDS = 30.0
ENDED = frozenset({"COMPLETED", "CANCELLED", "FAILED", "INTERRUPTED"})


class Step(NamedTuple):
    """A step as it stands; `reason` says why it failed, where EMR knows, and `seconds` how long it ran."""

    id: str
    state: str
    reason: str
    seconds: float


class Nodes(NamedTuple):
    """The nodes of one instance group: its role is MASTER, CORE or TASK.

    `number` run, or were asked for where none does yet; `most` is the greater of the two.
    """

    role: str
    instance_type: str
    number: int
    most: int


class ClusterState(NamedTuple):
    """Where a cluster is in its life, why, as EMR's code and in words, where its logs go, its release."""

    name: str
    code: str
    reason: str
    logs: str
    release: str

    @property
    def is_over(self) -> bool:
        return self.name.startswith("TERMINAT")


@dataclass(frozen=True)
class Cluster:
    """A cluster by its id, seen through a boto3 client of EMR."""

    emr: Any
    id: str
    region: str

    def state(self) -> ClusterState:
        cluster = self.emr.describe_cluster(ClusterId=self.id)["Cluster"]
        why = cluster["Status"].get("StateChangeReason", {})
        return ClusterState(
            name=cluster["Status"]["State"],
            code=why.get("Code", ""),
            reason=why.get("Message") or "no reason given",
            logs=f"{cluster.get('LogUri', '').rstrip('/')}/{self.id}",
            release=cluster.get("ReleaseLabel", ""),
        )

    def nodes(self) -> list[Nodes]:
        """Its instance groups."""
        nodes = []
        for group in self.emr.list_instance_groups(ClusterId=self.id)["InstanceGroups"]:
            running, requested = (group.get(f"{kind}InstanceCount") or 0 for kind in ("Running", "Requested"))
            number, most = running or requested or 1, max(running, requested, 1)
            nodes.append(
                Nodes(
                    role=group["InstanceGroupType"],
                    instance_type=group["InstanceType"],
                    number=number,
                    most=most,
                )
            )
        return nodes

    def add_step(self, name: str, arguments: Sequence[str]) -> str:
        """Adds a step that runs a command on the primary node; returns its id."""
        step = {
            "Name": name,
            "ActionOnFailure": "CONTINUE",
            "HadoopJarStep": {"Jar": "command-runner.jar", "Args": list(arguments)},
        }
        return str(self.emr.add_job_flow_steps(JobFlowId=self.id, Steps=[step])["StepIds"][0])

    def active_steps(self) -> Iterator[tuple[str, str]]:
        """Ids and names of the steps that have not ended."""
        pages = self.emr.get_paginator("list_steps").paginate(
            ClusterId=self.id, StepStates=["PENDING", "CANCEL_PENDING", "RUNNING"]
        )
        for page in pages:
            yield from ((step["Id"], step["Name"]) for step in page["Steps"])

    def describe(self, step_id: str) -> Step:
        status = self.emr.describe_step(ClusterId=self.id, StepId=step_id)["Step"]["Status"]
        details = status.get("FailureDetails") or {}
        reason = " ".join(filter(None, (details.get("Reason"), details.get("Message"))))
        reason = reason or status.get("StateChangeReason", {}).get("Message", "")
        timeline = status.get("Timeline", {})
        begun, ended = timeline.get("StartDateTime"), timeline.get("EndDateTime") or datetime.now(UTC)
        return Step(
            id=step_id,
            state=status["State"],
            reason=reason,
            seconds=(ended - begun).total_seconds() if begun else 0.0,
        )

    def follow(self, step_id: str, say: Callable[[str], None]) -> Step:
        """Waits until a step has ended, or its cluster has; the step may then stand as running for ever.

        While it has not begun, says in which state its cluster is.
        """
        said, looked = None, 0.0
        while (step := self.describe(step_id)).state not in ENDED:
            if step.state == "PENDING" or time.monotonic() - looked > CLUSTER_SECONDS:
                state, looked = self.state().name, time.monotonic()
                if state.startswith("TERMINATED"):
                    return self.describe(step_id)
                # A cluster that is WAITING takes the step at once.
                if step.state == "PENDING" and state not in (said, "WAITING"):
                    say(f"Step {step_id} waits; the cluster {self.id} is {state}")
                    said = state
            time.sleep(POLL_SECONDS)
        return step

    def cancel(self, step_id: str) -> None:
        """Cancels a step and waits until it has ended.

        Raises `FruitsError` where it has not within a minute.
        """
        self.emr.cancel_steps(
            ClusterId=self.id, StepIds=[step_id], StepCancellationOption="TERMINATE_PROCESS"
        )
        deadline = time.monotonic() + CANCEL_SECONDS
        while self.describe(step_id).state not in ENDED:
            if time.monotonic() > deadline:
                raise FruitsError(
                    f"Step {step_id} on cluster {self.id} was cancelled a minute ago and has not ended.",
                    retry_helps=True,
                )
            time.sleep(POLL_SECONDS)

    def console(self, step_id: str = "") -> str:
        """The page of a step in AWS's console, or of the cluster, which opens Spark's and YARN's pages."""
        return (
            f"https://{self.region}.console.aws.amazon.com/emr/home?region={self.region}"
            f"#/clusterDetails/{self.id}" + (f"/steps/{step_id}" if step_id else "")
        )
