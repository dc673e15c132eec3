"""One EMR cluster, and the steps on it."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from spark_jobs.errors import FruitsError

POLL_SECONDS = 2.0
# The primary node asks for cancelled steps at intervals of its own; 30 to 90 s are usual.
CANCEL_SECONDS = 180.0
# While a step runs, its cluster's state is read this often. A cluster that ends may leave its step RUNNING.
CLUSTER_SECONDS = 30.0
ENDED = frozenset({"COMPLETED", "CANCELLED", "FAILED", "INTERRUPTED"})


class Step(NamedTuple):
    """The state of a step; `reason` is EMR's reason of a failure, and `seconds` the time that it has run."""

    id: str
    state: str
    reason: str
    seconds: float


class Nodes(NamedTuple):
    """The nodes of one instance group, whose role is MASTER, CORE or TASK.

    `number` counts the running nodes, or the requested nodes while none runs; `most` is the greater count.
    """

    role: str
    instance_type: str
    number: int
    most: int


class ClusterState(NamedTuple):
    """A cluster's state with EMR's code and reason for it, the URI of its logs, and its release."""

    name: str
    code: str
    reason: str
    logs: str
    release: str

    @property
    def is_over(self) -> bool:
        """Whether the cluster is terminating or terminated."""
        return self.name.startswith("TERMINAT")


@dataclass(frozen=True)
class Cluster:
    """The cluster with an id, through a boto3 client of EMR."""

    emr: Any
    id: str
    region: str

    def state(self) -> ClusterState:
        """The present state; its `reason` is "no reason given" where EMR gives none."""
        cluster = self.emr.describe_cluster(ClusterId=self.id)["Cluster"]
        change = cluster["Status"].get("StateChangeReason", {})
        return ClusterState(
            name=cluster["Status"]["State"],
            code=change.get("Code", ""),
            reason=change.get("Message") or "no reason given",
            logs=f"{cluster.get('LogUri', '').rstrip('/')}/{self.id}",
            release=cluster.get("ReleaseLabel", ""),
        )

    def nodes(self) -> list[Nodes]:
        """The nodes of each instance group."""
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
        """The present state of a step."""
        status = self.emr.describe_step(ClusterId=self.id, StepId=step_id)["Step"]["Status"]
        details = status.get("FailureDetails") or {}
        reason = " ".join(filter(None, (details.get("Reason"), details.get("Message"))))
        reason = reason or status.get("StateChangeReason", {}).get("Message", "")
        timeline = status.get("Timeline", {})
        started, ended = timeline.get("StartDateTime"), timeline.get("EndDateTime") or datetime.now(UTC)
        return Step(
            id=step_id,
            state=status["State"],
            reason=reason,
            seconds=(ended - started).total_seconds() if started else 0.0,
        )

    def follow(self, step_id: str, log: Callable[[str], None]) -> Step:
        """Waits until a step or its cluster has ended. EMR may never end the step of a dead cluster.

        While the step is pending, logs each new state of the cluster.
        """
        logged, checked = None, 0.0
        while (step := self.describe(step_id)).state not in ENDED:
            if step.state == "PENDING" or time.monotonic() - checked > CLUSTER_SECONDS:
                state, checked = self.state().name, time.monotonic()
                if state.startswith("TERMINATED"):
                    return self.describe(step_id)
                # A cluster that is WAITING starts the step at once.
                if step.state == "PENDING" and state not in (logged, "WAITING"):
                    log(f"Step {step_id} waits; the cluster {self.id} is {state}")
                    logged = state
            time.sleep(POLL_SECONDS)
        return step

    def cancel(self, step_id: str) -> None:
        """Cancels a step and waits for its end. Raises `FruitsError` where it runs three minutes later."""
        self.emr.cancel_steps(
            ClusterId=self.id, StepIds=[step_id], StepCancellationOption="TERMINATE_PROCESS"
        )
        deadline = time.monotonic() + CANCEL_SECONDS
        while self.describe(step_id).state not in ENDED:
            if time.monotonic() > deadline:
                raise FruitsError(
                    f"Step {step_id} on cluster {self.id} was cancelled three minutes ago and has not ended. "
                    f"Cancel it in AWS's console: {self.console(step_id)}",
                    retry_helps=True,
                )
            time.sleep(POLL_SECONDS)

    def console(self, step_id: str = "") -> str:
        """The address of a step or the cluster in AWS's console, which links to Spark's and YARN's pages."""
        return (
            f"https://{self.region}.console.aws.amazon.com/emr/home?region={self.region}"
            f"#/clusterDetails/{self.id}" + (f"/steps/{step_id}" if step_id else "")
        )
