"""EMR's API where moto stops short: clusters and steps with EMR's own rules, and the calls that it lacks.

Lives in the process of moto's server. moto keeps clusters and steps as objects and runs nothing; `steps.py`
moves these. States, messages and limits follow EMR's documentation and answers.
"""

import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol

from moto.core.responses import ActionResult, BaseResponse, EmptyResult
from moto.core.utils import utcnow
from moto.emr import models
from moto.emr.exceptions import InvalidRequestException, ValidationException
from moto.emr.responses import ElasticMapReduceResponse

# EMR's limit on the characters of a step's arguments.
MAX_ARGUMENT_CHARACTERS = 10_280

ENDED = ("TERMINATED", "TERMINATED_WITH_ERRORS")

# The states of clusters and steps change under this lock alone.
LOCK = threading.RLock()


class Canceller(Protocol):
    """What cancels a step, by one of EMR's two options, and returns what `CancelSteps` says of it."""

    def cancel(self, cluster: "RehearsedCluster", step: "RehearsedStep", option: str) -> dict[str, str]: ...


class RehearsedStep(models.Step):
    """A step that waits for the runner, and says how it ended."""

    def __init__(self, state: str, **attributes: Any) -> None:
        super().__init__("PENDING", **attributes)
        self.reason: str | None = None
        self.failure: dict[str, str] | None = None

    def start(self) -> None:
        """moto would start a cluster's first step when the cluster starts."""

    def end(self, state: str, reason: str | None = None, failure: dict[str, str] | None = None) -> None:
        self.state, self.reason, self.failure = state, reason, failure
        self.end_date_time = utcnow()  # type: ignore[assignment]  # moto never ends a step

    @property
    def status(self) -> dict[str, Any]:
        status = super().status
        status["StateChangeReason"] = {"Message": self.reason} if self.reason else {}
        return status | ({"FailureDetails": self.failure} if self.failure else {})


class RehearsedCluster(models.Cluster):
    """A cluster whose state follows its steps, and which remembers why it ended."""

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        self.reason: dict[str, str] = {}
        self.idle_since: datetime = utcnow()
        self.auto_termination: dict[str, Any] | None = None
        self.managed_scaling: dict[str, Any] | None = None
        super().__init__(*arguments, **attributes)

    @property
    def runnable(self) -> list[RehearsedStep]:
        """The cluster's steps, by the class that they really have."""
        return [step for step in self.steps if isinstance(step, RehearsedStep)]

    @property
    def status(self) -> dict[str, Any]:
        return super().status | {"StateChangeReason": self.reason}

    def add_steps(self, steps: list[dict[str, Any]]) -> list[models.Step]:
        if getattr(self, "state", None) in ("TERMINATING", *ENDED):
            raise ValidationException(
                "A job flow that is shutting down, terminated, or finished may not be modified."
            )
        added: list[models.Step] = [RehearsedStep("PENDING", **step) for step in steps]
        for step in added:
            if sum(map(len, step.args)) > MAX_ARGUMENT_CHARACTERS:
                raise ValidationException(
                    f"The arguments of step {step.name!r} exceed {MAX_ARGUMENT_CHARACTERS} characters."
                )
            # `step_concurrency_level` is not there yet while the cluster is being made.
            if getattr(self, "step_concurrency_level", 1) > 1 and step.action_on_failure != "CONTINUE":
                raise ValidationException(
                    f"ActionOnFailure {step.action_on_failure} is not valid when step concurrency is enabled."
                )
        with LOCK:
            self.steps.extend(added)
        return added

    def terminate(
        self, code: str = "USER_REQUEST", message: str = "Terminated by user request", errors: bool = False
    ) -> None:
        with LOCK:
            if self.state in ("TERMINATING", *ENDED):
                return
            self.reason = {"Code": code, "Message": message}
            self.state = "TERMINATING"
            self.end_state = "TERMINATED_WITH_ERRORS" if errors else "TERMINATED"


def install(canceller: Canceller) -> None:
    """Puts these classes and calls into moto, for this whole process."""
    models.Step = RehearsedStep  # type: ignore[misc, assignment]
    models.Cluster = RehearsedCluster  # type: ignore[misc]
    api: Any = ElasticMapReduceResponse
    # moto looks for EMR's region in the host's name alone, which is 127.0.0.1; the signature has it too.
    api.get_region_from_url = BaseResponse.get_region_from_url

    def cluster_of(response: Any) -> RehearsedCluster:
        cluster = response.backend.describe_cluster(response._get_param("ClusterId"))
        assert isinstance(cluster, RehearsedCluster)
        return cluster

    def step_of(cluster: RehearsedCluster, step_id: str) -> RehearsedStep:
        for step in cluster.runnable:
            if step.id == step_id:
                return step
        raise InvalidRequestException(f"Step id '{step_id}' is not valid.")

    def describe_step(self: Any) -> ActionResult:
        return ActionResult({"Step": step_of(cluster_of(self), self._get_param("StepId"))})

    def cancel_steps(self: Any) -> ActionResult:
        cluster = cluster_of(self)
        option = self._get_param("StepCancellationOption") or "SEND_INTERRUPT"
        steps = [step_of(cluster, step_id) for step_id in self._get_param("StepIds", [])]
        said = [canceller.cancel(cluster, step, option) for step in steps]
        return ActionResult({"CancelStepsInfoList": said})

    def checked(call: Callable[[Any], ActionResult]) -> Callable[[Any], ActionResult]:
        """moto's own call, after the check that the cluster exists, which moto leaves out of it."""

        def check_and_call(self: Any) -> ActionResult:
            cluster_of(self)
            return call(self)

        return check_and_call

    def run_job_flow(self: Any) -> ActionResult:
        answer = start_job_flow(self)
        cluster = self.backend.clusters[answer.result["JobFlowId"]]
        cluster.auto_termination = _plain(self._get_param("AutoTerminationPolicy"))
        cluster.managed_scaling = _plain(self._get_param("ManagedScalingPolicy"))
        return answer

    start_job_flow = api.run_job_flow
    add_job_flow_steps, terminate_job_flows = api.add_job_flow_steps, api.terminate_job_flows

    def on_known_job_flows(call: Callable[[Any], ActionResult]) -> Callable[[Any], ActionResult]:
        def check_and_call(self: Any) -> ActionResult:
            for identity in self._get_param("JobFlowIds") or [self._get_param("JobFlowId")]:
                if identity not in self.backend.clusters:
                    raise ValidationException("Specified job flow ID does not exist.")
            return call(self)

        return check_and_call

    def policy(attribute: str, name: str) -> dict[str, Callable[[Any], ActionResult]]:
        def put(self: Any) -> ActionResult:
            setattr(cluster_of(self), attribute, _plain(self._get_param(name)))
            return EmptyResult()

        def get(self: Any) -> ActionResult:
            value = getattr(cluster_of(self), attribute)
            return ActionResult({name: value} if value else {})

        def remove(self: Any) -> ActionResult:
            setattr(cluster_of(self), attribute, None)
            return EmptyResult()

        return {f"{verb.__name__}_{attribute}_policy": verb for verb in (put, get, remove)}

    for name, call in {
        "run_job_flow": run_job_flow,
        "describe_step": describe_step,
        "cancel_steps": cancel_steps,
        **{
            call: checked(getattr(api, call))
            for call in ("list_steps", "list_instances", "list_instance_groups")
        },
        "add_job_flow_steps": on_known_job_flows(add_job_flow_steps),
        "terminate_job_flows": on_known_job_flows(terminate_job_flows),
        **policy("auto_termination", "AutoTerminationPolicy"),
        **policy("managed_scaling", "ManagedScalingPolicy"),
    }.items():
        setattr(api, name, call)


def _plain(value: Any) -> Any:
    """A request's parameter, which moto has given keys of Python's style, with EMR's own keys again."""
    return value.original_dict() if hasattr(value, "original_dict") else value
