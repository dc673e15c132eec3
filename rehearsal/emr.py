"""Extends moto's EMR: clusters and steps follow the rules of EMR, and missing calls are added.

Runs in the process of moto's server. moto keeps clusters and steps as objects and runs nothing; `steps.py`
runs the steps and changes the states. States, messages and limits follow EMR's documentation and answers.
"""

import threading
import traceback
from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol

from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.responses import ActionResult, EmptyResult
from moto.core.utils import utcnow
from moto.emr import models
from moto.emr.exceptions import InvalidRequestException, ValidationException
from moto.emr.responses import ElasticMapReduceResponse
from moto.iam.models import iam_backends

# EMR's limit on the characters of a step's arguments.
MAX_ARGUMENT_CHARACTERS = 10_280

ENDED = ("TERMINATED", "TERMINATED_WITH_ERRORS")

# Every change of the state of a cluster or a step holds this lock.
LOCK = threading.RLock()

Call = Callable[[Any], ActionResult]


class Canceller(Protocol):
    """Cancels a step.

    `option` is SEND_INTERRUPT or TERMINATE_PROCESS. Returns the step's entry of the answer to `CancelSteps`.
    """

    def cancel(self, cluster: "RehearsedCluster", step: "RehearsedStep", option: str) -> dict[str, str]: ...


class RehearsedStep(models.Step):
    """A step that waits for the runner, and reports the reason of its end."""

    def __init__(self, state: str, **attributes: Any) -> None:
        super().__init__("PENDING", **attributes)
        self.reason: str | None = None
        self.failure: dict[str, str] | None = None

    def start(self) -> None:
        """Does nothing: moto calls it for the first step of a new cluster, but the runner starts steps."""

    def end(self, state: str, reason: str | None = None, failure: dict[str, str] | None = None) -> None:
        self.state, self.reason, self.failure = state, reason, failure
        self.end_date_time = utcnow()  # type: ignore[assignment]  # moto's type is None

    @property
    def status(self) -> dict[str, Any]:
        status = super().status
        status["StateChangeReason"] = {"Message": self.reason} if self.reason else {}
        return status | ({"FailureDetails": self.failure} if self.failure else {})


class RehearsedCluster(models.Cluster):
    """A cluster whose state depends on its steps. It reports the reason of its end.

    `hdfs_copies` is the number of copies of each block on HDFS. `remove_interface` deletes EMR's network
    interface in the subnet of the cluster.
    """

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        self.reason: dict[str, str] = {}
        self.idle_since: datetime = utcnow()
        self.auto_termination: dict[str, Any] | None = None
        self.managed_scaling: dict[str, Any] | None = None
        self.hdfs_copies = 1
        self.remove_interface: Callable[[], None] = lambda: None
        super().__init__(*arguments, **attributes)

    @property
    def runnable(self) -> list[RehearsedStep]:
        """The cluster's steps with their actual class, for the type checker."""
        return [step for step in self.steps if isinstance(step, RehearsedStep)]

    @property
    def status(self) -> dict[str, Any]:
        return super().status | {"StateChangeReason": self.reason}

    @property
    def core_nodes(self) -> int:
        """The number of core nodes."""
        return self._core_group.num_instances if self.core_instance_group_id else 0

    @core_nodes.setter
    def core_nodes(self, number: int) -> None:
        self._core_group.set_instance_count(number)

    @property
    def _core_group(self) -> models.InstanceGroup:
        [group] = [group for group in self.instance_groups if group.id == self.core_instance_group_id]
        return group

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
            # moto adds the first steps before it sets `step_concurrency_level`.
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


def for_each_cluster(act: Callable[[RehearsedCluster], None]) -> None:
    """Acts on the clusters of all accounts and regions. An error stops the action on its cluster alone."""
    for regions in list(models.emr_backends.values()):
        for backend in list(regions.values()):
            for cluster in list(backend.clusters.values()):
                if not isinstance(cluster, RehearsedCluster):
                    continue
                try:
                    act(cluster)
                except Exception:  # in the server's log
                    traceback.print_exc()


def install(canceller: Canceller, on_start: Callable[[RehearsedCluster], None]) -> None:
    """Replaces moto's classes and calls with those of this module, in the whole process.

    `on_start` gets each new cluster before RunJobFlow answers.
    """
    models.Step = RehearsedStep  # type: ignore[misc, assignment]
    models.Cluster = RehearsedCluster  # type: ignore[misc]
    api: Any = ElasticMapReduceResponse

    def describe_step(self: Any) -> ActionResult:
        return ActionResult({"Step": _step_of(_cluster_of(self), self._get_param("StepId"))})

    def cancel_steps(self: Any) -> ActionResult:
        cluster = _cluster_of(self)
        option = self._get_param("StepCancellationOption") or "SEND_INTERRUPT"
        steps = [_step_of(cluster, step_id) for step_id in self._get_param("StepIds", [])]
        entries = [canceller.cancel(cluster, step, option) for step in steps]
        return ActionResult({"CancelStepsInfoList": entries})

    start_job_flow = api.run_job_flow

    def run_job_flow(self: Any) -> Any:
        _check_instance_types(self)
        _check_instance_profile(self._get_param("JobFlowRole"))
        with LOCK:  # no step begins before the cluster is complete
            answer = start_job_flow(self)
            cluster = self.backend.clusters[answer.result["JobFlowId"]]
            cluster.auto_termination = _plain(self._get_param("AutoTerminationPolicy"))
            cluster.managed_scaling = _plain(self._get_param("ManagedScalingPolicy"))
            cluster.hdfs_copies = _hdfs_copies(cluster)
            on_start(cluster)
        return answer

    for name, call in {
        "run_job_flow": run_job_flow,
        "describe_step": describe_step,
        "cancel_steps": cancel_steps,
        **{
            call: _with_known_cluster(getattr(api, call))
            for call in ("list_steps", "list_instances", "list_instance_groups")
        },
        "add_job_flow_steps": _with_known_job_flows(api.add_job_flow_steps),
        "terminate_job_flows": _with_known_job_flows(api.terminate_job_flows),
        **_policy_calls("auto_termination", "AutoTerminationPolicy"),
        **_policy_calls("managed_scaling", "ManagedScalingPolicy"),
    }.items():
        setattr(api, name, call)


def _check_instance_types(response: Any) -> None:
    """Raises EMR's error for a release or an instance type that EMR does not offer.

    moto has EMR's own lists of the types of each release. A captured message of EMR:
    "Instance type 'm5.large' is not supported" (https://github.com/boto/boto3/issues/3418).
    """
    release = response._get_param("ReleaseLabel")
    try:
        offered = response.backend._get_instance_type_names(release)
    except FileNotFoundError:
        raise ValidationException(f"The supplied release label is invalid: {release}.") from None
    groups = response._get_param("Instances.InstanceGroups", [])
    single = [response._get_param(f"Instances.{kind}InstanceType") for kind in ("Master", "Slave")]
    for wanted in [*single, *(group["instance_type"] for group in groups)]:
        if wanted is not None and wanted not in offered:
            raise ValidationException(f"Instance type '{wanted}' is not supported.")


def _check_instance_profile(name: str | None) -> None:
    """Raises EMR's error for an instance profile that does not exist, or whose role has another name.

    "Amazon EC2 allows you to create instance profiles and roles with different names, but Amazon EMR does not
    support this configuration, and it results in an "invalid instance profile" error":
    https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-iam-roles-custom.html
    """
    if name is None:
        raise ValidationException("InstanceProfile is required for creating cluster")
    for profile in iam_backends[DEFAULT_ACCOUNT_ID]["aws"].get_instance_profiles():
        if name in (profile.name, profile.arn) and [role.name for role in profile.roles] == [profile.name]:
            return
    raise ValidationException(f"Invalid InstanceProfile: {name}.")


def _hdfs_copies(cluster: RehearsedCluster) -> int:
    """`dfs.replication` of a cluster's configuration, or EMR's default for the number of its core nodes.

    https://docs.aws.amazon.com/emr/latest/ReleaseGuide/emr-hdfs-config.html
    """
    for configuration in map(_plain, cluster.configurations):
        if (
            configuration["Classification"] == "hdfs-site"
            and "dfs.replication" in configuration["Properties"]
        ):
            return int(configuration["Properties"]["dfs.replication"])
    return 1 if cluster.core_nodes < 4 else 2 if cluster.core_nodes < 10 else 3


def _cluster_of(response: Any) -> RehearsedCluster:
    """The cluster that a request names; moto raises an error for an unknown id."""
    cluster = response.backend.describe_cluster(response._get_param("ClusterId"))
    assert isinstance(cluster, RehearsedCluster)
    return cluster


def _step_of(cluster: RehearsedCluster, step_id: str) -> RehearsedStep:
    for step in cluster.runnable:
        if step.id == step_id:
            return step
    raise InvalidRequestException(f"Step id '{step_id}' is not valid.")


def _with_known_cluster(call: Call) -> Call:
    """moto's call, after a check that the cluster exists, which moto does not make."""

    def check_and_call(self: Any) -> ActionResult:
        _cluster_of(self)
        return call(self)

    return check_and_call


def _with_known_job_flows(call: Call) -> Call:
    """moto's call, after a check that all clusters of JobFlowIds or JobFlowId exist."""

    def check_and_call(self: Any) -> ActionResult:
        for identity in self._get_param("JobFlowIds") or [self._get_param("JobFlowId")]:
            if identity not in self.backend.clusters:
                raise ValidationException("Specified job flow ID does not exist.")
        return call(self)

    return check_and_call


def _policy_calls(attribute: str, name: str) -> dict[str, Call]:
    """The calls that write, read and remove a policy, which the cluster keeps in `attribute`."""

    def put(self: Any) -> ActionResult:
        setattr(_cluster_of(self), attribute, _plain(self._get_param(name)))
        return EmptyResult()

    def get(self: Any) -> ActionResult:
        value = getattr(_cluster_of(self), attribute)
        return ActionResult({name: value} if value else {})

    def remove(self: Any) -> ActionResult:
        setattr(_cluster_of(self), attribute, None)
        return EmptyResult()

    return {f"{verb.__name__}_{attribute}_policy": verb for verb in (put, get, remove)}


def _plain(value: Any) -> Any:
    """A parameter of a request with the keys of EMR, which moto converts to Python's style."""
    return value.original_dict() if hasattr(value, "original_dict") else value
