"""Spark on an AWS EMR cluster: every job is a step, followed through Dagster Pipes."""

import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, get_type_hints

import dagster as dg
from pydantic import Field

from fruits_assets.jobs.json_types import from_json, to_json
from fruits_assets.store.photos import PhotosError
from fruits_assets.store.root import open_root
from resources.aws import AwsError, aws_errors_named, client
from resources.emr_code import upload_code
from resources.emr_sizing import spark_submit_conf
from resources.instances import load_prices
from resources.job_runner import Job, JobRun, JobRunner, Params, Report

POLL_SECONDS = 2.0
CANCEL_SECONDS = 60.0
MAX_RETRIES, FIRST_WAIT_SECONDS = 3, 30
ENDED = frozenset({"COMPLETED", "CANCELLED", "FAILED", "INTERRUPTED"})

# What assets catch from a job, wherever it ran. Named one by one: nothing that a message from the store
# says is looked up in the code and called.
_RAISED_ANEW: dict[str, type[Exception]] = {
    f"{kind.__module__}:{kind.__qualname__}": kind for kind in (PhotosError, ValueError)
}

# What stands in a job's error where the cluster or S3 was at fault, and not the job or its photos: Spark
# lost executors (a spot node was taken, a node died), or S3 had enough of calls.
_OF_THE_MOMENT = ("ExecutorLostFailure", "SparkContext was shut down", "SlowDown", "SLOW_DOWN")


class _Step(NamedTuple):
    id: str
    state: str
    reason: str
    seconds: float


class _Nodes(NamedTuple):
    """The nodes of one instance group: its role is MASTER, CORE or TASK."""

    role: str
    instance_type: str
    number: int


class EmrSteps(JobRunner):
    """Runs each job as a step of a running cluster, in client deploy mode.

    The driver is then a child of the step: cancelling the step ends it, and YARN ends its executors.
    """

    cluster: str = Field(description="The id of the cluster, j-...")
    store: str = Field(description="Root of everything that is written, s3://bucket/prefix.")
    region: str = Field(description="Region of the cluster.")
    prices: str | None = Field(description="A file of prices, if not the shipped one.")

    def run(
        self, context: dg.AssetExecutionContext, job: Job[Params, Report], params: Params
    ) -> JobRun[Report]:
        try:
            with aws_errors_named():
                return self._run(context, job, params)
        except AwsError as error:
            if error.retry_helps:
                wait = FIRST_WAIT_SECONDS * 2**context.retry_number
                context.log.warning(f"{error} Another attempt, of {MAX_RETRIES} at most, in {wait} s.")
                raise dg.RetryRequested(MAX_RETRIES, seconds_to_wait=wait) from error
            raise dg.Failure(str(error), allow_retries=False) from error

    def _run(
        self, context: dg.AssetExecutionContext, job: Job[Params, Report], params: Params
    ) -> JobRun[Report]:
        from dagster_aws.pipes import PipesS3ContextInjector

        started = time.monotonic()
        emr, s3 = client("emr", self.region), client("s3", self.region)
        store = open_root(self.store)
        bucket, _, prefix = self.store.removeprefix("s3://").partition("/")
        work = f"emr/{context.run.run_id}/{context.asset_key.to_user_string()}-{uuid.uuid4().hex[:8]}"
        self._cancel_orphans(emr, context)
        store.write(f"{work}/params.json", to_json(params))
        code, entry = upload_code(store)
        groups = self._nodes(emr)
        core = next(group for group in groups if group.role == "CORE" or len(groups) == 1)
        spark_conf = spark_submit_conf(core.instance_type, core.number)
        with dg.open_pipes_session(
            context=context,
            context_injector=PipesS3ContextInjector(
                bucket=bucket, client=s3, key_prefix=f"{prefix}/{work}/".lstrip("/")
            ),
            message_reader=_message_reader(bucket, f"{prefix}/{work}/messages".lstrip("/"), s3),
        ) as session:
            arguments = [
                *("spark-submit", "--deploy-mode", "client", "--py-files", code),
                *chain.from_iterable(("--conf", f"{key}={value}") for key, value in spark_conf.items()),
                *(entry, f"{job.__module__}:{job.__qualname__}"),
                *(store.uri_of(f"{work}/params.json"), store.uri_of(f"{work}/report.json")),
                *chain.from_iterable(session.get_bootstrap_cli_arguments().items()),
            ]
            [step_id] = emr.add_job_flow_steps(
                JobFlowId=self.cluster,
                Steps=[
                    {
                        "Name": _step_name(context),
                        "ActionOnFailure": "CONTINUE",
                        "HadoopJarStep": {"Jar": "command-runner.jar", "Args": arguments},
                    }
                ],
            )["StepIds"]
            context.log.info(f"Step {step_id} on cluster {self.cluster}: {self._console(step_id)}")
            try:
                step = self._follow(emr, step_id)
            except BaseException:
                self._cancel(emr, step_id)
                raise
        said: dict[str, Any] = {}
        for message in session.get_custom_messages():
            said |= message
        if step.state != "COMPLETED":
            self._raise(emr, step, said.get("exception"))
        report = from_json(get_type_hints(job)["return"], store.read(f"{work}/report.json"))
        return JobRun(
            report,
            {
                "engine": f"EMR cluster {self.cluster}, {core.number} core nodes {core.instance_type}",
                "spark_application_id": said["spark_application_id"],
                "seconds": round(time.monotonic() - started, 2),
                "nodes": core.number,
                "cores": core.number * int(spark_conf["spark.executor.cores"]),
                "emr_cluster": self.cluster,
                "emr_step": step.id,
                "emr_console": dg.MetadataValue.url(self._console(step.id)),
                "emr_spark_history": dg.MetadataValue.url(self._console()),
                **self._cost(groups, step.seconds),
            },
        )

    def _nodes(self, emr: Any) -> list[_Nodes]:
        groups = emr.list_instance_groups(ClusterId=self.cluster)["InstanceGroups"]
        return [
            _Nodes(
                group["InstanceGroupType"],
                group["InstanceType"],
                group.get("RunningInstanceCount") or group.get("RequestedInstanceCount") or 1,
            )
            for group in groups
        ]

    def _cost(self, groups: list[_Nodes], seconds: float) -> dict[str, float]:
        """What all nodes cost while the step ran, at the price on demand: more than a spot node's.

        The step is taken to have the cluster for itself; starting and waiting are not in it. Left out
        where an instance type has no price.
        """
        hours = {group: group.number * seconds / 3600 for group in groups}
        prices = load_prices(Path(self.prices) if self.prices else None)
        hourly = {group: prices.instance_hour(group.instance_type) for group in groups}
        cost = {group: hours[group] * price for group, price in hourly.items() if price is not None}
        return {
            "node_hours": round(sum(hours.values()), 4),
            **({"estimated_cost_usd": round(sum(cost.values()), 4)} if len(cost) == len(groups) else {}),
        }

    def _cancel_orphans(self, emr: Any, context: dg.AssetExecutionContext) -> None:
        """Cancels steps that nobody follows any more, because their Dagster process died.

        That is a step of this asset from this run or from the run that this one retries, and any step
        whose run has ended in this Dagster instance. Steps of other instances are left alone.
        """
        pages = emr.get_paginator("list_steps").paginate(
            ClusterId=self.cluster, StepStates=["PENDING", "RUNNING"]
        )
        for step in [step for page in pages for step in page["Steps"]]:
            match step["Name"].split(" "):
                case ["fruits", asset, run_id]:
                    run = context.instance.get_run_by_id(run_id)
                case _:
                    continue
            earlier = asset == context.asset_key.to_user_string() and _root_run_id(run) == _root_run_id(
                context.run
            )
            if run is not None and (run.is_finished or earlier):
                context.log.warning(f"Cancelling the step {step['Id']} that the run {run_id} left behind")
                self._cancel(emr, step["Id"])

    def _follow(self, emr: Any, step_id: str) -> _Step:
        while True:
            step = self._describe(emr, step_id)
            if step.state in ENDED:
                return step
            time.sleep(POLL_SECONDS)

    def _describe(self, emr: Any, step_id: str) -> _Step:
        status = emr.describe_step(ClusterId=self.cluster, StepId=step_id)["Step"]["Status"]
        details = status.get("FailureDetails") or {}
        reason = " ".join(filter(None, (details.get("Reason"), details.get("Message"))))
        return _Step(
            step_id,
            status["State"],
            reason or status.get("StateChangeReason", {}).get("Message", ""),
            _seconds(status.get("Timeline", {})),
        )

    def _cancel(self, emr: Any, step_id: str) -> None:
        """Cancels a step and waits until it has ended, for a minute at most."""
        emr.cancel_steps(
            ClusterId=self.cluster, StepIds=[step_id], StepCancellationOption="TERMINATE_PROCESS"
        )
        deadline = time.monotonic() + CANCEL_SECONDS
        while self._describe(emr, step_id).state not in ENDED and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def _raise(self, emr: Any, step: _Step, exception: dict[str, str] | None) -> NoReturn:
        """Raises what the job raised, if it is an error that assets know; else `AwsError`."""
        if exception:
            kind = _RAISED_ANEW.get(exception["class"])
            if kind is not None:
                raise kind(exception["message"])
        cluster = emr.describe_cluster(ClusterId=self.cluster)["Cluster"]
        where = f"{cluster.get('LogUri', '').rstrip('/')}/{self.cluster}/steps/{step.id}/"
        logs = f"EMR uploads its logs to {where} about every five minutes. {self._console(step.id)}"
        state = cluster["Status"]["State"]
        if state.startswith("TERMINAT"):
            reason = cluster["Status"].get("StateChangeReason", {}).get("Message", "no reason given")
            raise AwsError(
                f"The cluster {self.cluster} is {state} and took step {step.id} with it ({reason}). {logs}"
            )
        if step.state == "CANCELLED":
            raise AwsError(f"Step {step.id} was cancelled outside Dagster. {logs}")
        if exception:
            cause = f"{exception['class']}: {exception['message']}"
            retry_helps = any(words in cause for words in _OF_THE_MOMENT)
        else:
            # The driver's process ended without a word: killed, or never begun.
            cause, retry_helps = step.reason or "no reason given", True
        raise AwsError(f"Step {step.id} {step.state}: {cause}. {logs}", retry_helps)

    def _console(self, step_id: str = "") -> str:
        """The page of a step in AWS's console, or of the cluster, which opens its Spark History."""
        return (
            f"https://{self.region}.console.aws.amazon.com/emr/home?region={self.region}"
            f"#/clusterDetails/{self.cluster}" + (f"/steps/{step_id}" if step_id else "")
        )


def _step_name(context: dg.AssetExecutionContext) -> str:
    return f"fruits {context.asset_key.to_user_string()} {context.run.run_id}"


def _seconds(timeline: Mapping[str, datetime]) -> float:
    """How long a step has run."""
    begun = timeline.get("StartDateTime")
    return (timeline.get("EndDateTime", datetime.now(UTC)) - begun).total_seconds() if begun else 0.0


def _root_run_id(run: dg.DagsterRun | None) -> str | None:
    """The run that this run is an attempt of; a retry of a dead run has the same."""
    return None if run is None else run.root_run_id or run.run_id


def _message_reader(bucket: str, key_prefix: str, s3: Any) -> Any:
    """Pipes' reader of messages from S3, under a prefix of ours instead of one at the bucket's root."""
    from dagster_aws.pipes import PipesS3MessageReader

    class MessageReader(PipesS3MessageReader):
        # As it is by default; the default itself warns of being new in Dagster.
        expected_writer_count = 1

        @contextmanager
        def get_params(self) -> Iterator[dict[str, Any]]:
            with super().get_params() as params:
                yield {**params, "key_prefix": key_prefix}

    return MessageReader(interval=POLL_SECONDS, bucket=bucket, client=s3)
