"""Spark on an AWS EMR cluster: each job is a step, and Dagster Pipes carries its progress and errors."""

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, NoReturn, TypeVar, get_type_hints

import dagster as dg
from pydantic import PrivateAttr

from resources.emr.account import NODE_PYTHON
from resources.emr.aws import aws_errors_named, client
from resources.emr.cluster import POLL_SECONDS, Cluster, ClusterState, Nodes, Step
from resources.emr.code import LAUNCHER, STEPS, upload_code
from resources.emr.lifecycle import end_clusters, find_or_start_cluster, hourly_cost
from resources.emr.sizing import spark_submit_conf
from resources.job_runner import Execution, JobRun, JobRunner
from resources.prices import Prices, load_prices
from resources.runs import ends_with, owner_of
from resources.settings import Settings
from resources.spark_events import event_log_config, make_event_log_folder
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import Root, open_root, split_s3_uri
from spark_jobs.wire import MEASURED, PARAMS, REPORT, Job, Measured, Params, Report, from_json, to_json

# The name by which a job reports a `FruitsError`. Other names in messages from the store are only printed.
_FRUITS_ERROR = f"{FruitsError.__module__}:{FruitsError.__qualname__}"

# Texts in the error of a job that failed because of the cluster or S3, and not because of its code or photos:
# Spark lost executors (EC2 took a spot node, or a node died), or S3 throttled its requests.
_TRANSIENT = ("ExecutorLostFailure", "SparkContext was shut down", "SlowDown", "SLOW_DOWN")

# Reasons (EMR's ClusterStateChangeReasonCode) for which a cluster ended and a new one should not be started:
# the new one would end too, or somebody terminated this one.
_PERMANENT = frozenset({"BOOTSTRAP_FAILURE", "USER_REQUEST", "VALIDATION_ERROR"})

T = TypeVar("T")


class EmrSteps(JobRunner):
    """Runs each job as a step of a cluster, in client deploy mode.

    The driver is a child process of the step. When a step is cancelled, its driver ends, and YARN ends its
    executors. The cluster is FRUITS_EMR_CLUSTER, or a cluster that the first job starts and the end of the
    run terminates.
    """

    settings: dg.ResourceDependency[Settings]
    _started: bool = PrivateAttr(False)

    def run(
        self, context: dg.AssetExecutionContext, job: Job[Params, Report], params: Params
    ) -> JobRun[Report]:
        with aws_errors_named():
            return self._run(context, job, params)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        if self._started and context.run and ends_with(context.run):
            end_clusters(self.settings, owner_of(context.run), dg.get_dagster_logger().info)

    def _run(
        self, context: dg.AssetExecutionContext, job: Job[Params, Report], params: Params
    ) -> JobRun[Report]:
        # Before the step, so that an unusable file of prices costs nothing.
        prices = self._prices(context)
        cluster = self._cluster(context)
        _cancel_orphans(cluster, context)
        store = open_root(self.settings.store)
        folder = f"{STEPS}/{context.run.run_id}/{_asset_of(context)}-{uuid.uuid4().hex[:8]}"
        with _removed_at_end(context, store, folder):
            content = to_json(params)
            store.write(f"{folder}/{PARAMS}", content)
            code, entry_point = upload_code(store)
            make_event_log_folder(store)
            spark_conf = self._spark_conf(cluster)
            with _pipes_session(context, store, folder, client("s3", self.settings.region)) as session:
                arguments = [
                    *(NODE_PYTHON, "-c", LAUNCHER.read_text(), self.settings.region, code, entry_point),
                    *("--deploy-mode", "client", "--name", f"fruits {_asset_of(context)}"),
                    *chain.from_iterable(("--conf", f"{key}={value}") for key, value in spark_conf.items()),
                    *("--", f"{job.__module__}:{job.__qualname__}", store.uri_of(folder)),
                    *(hashlib.sha256(content).hexdigest(), self.settings.region),
                    str(self.settings.emr_wait_minutes),
                    *chain.from_iterable(session.get_bootstrap_cli_arguments().items()),
                ]
                step = self._run_step(context, cluster, arguments)
            if step.state != "COMPLETED":
                self._raise(cluster, step, _exception(session.get_custom_messages()))
            report = _reported(store, f"{folder}/{REPORT}", get_type_hints(job)["return"])
            measured = _reported(store, f"{folder}/{MEASURED}", Measured)
            measured.versions["emr"] = cluster.state().release
            execution = _execution(cluster, step, int(spark_conf["spark.executor.cores"]), prices)
            return JobRun(report, measured, execution)

    def _prices(self, context: dg.AssetExecutionContext) -> Prices:
        prices = load_prices(self.settings.prices)
        if prices.region != self.settings.region:
            context.log.warning(
                f"The cluster is in {self.settings.region}, and its cost is estimated at the prices of "
                f"{prices.region}. Name a file with the prices of {self.settings.region} in FRUITS_PRICES."
            )
        return prices

    def _cluster(self, context: dg.AssetExecutionContext) -> Cluster:
        emr = client("emr", self.settings.region)
        cluster_id = self.settings.emr_cluster
        if cluster_id is None:
            if not self._started:
                scaling = f", up to {most} with scaling" if (most := self.settings.emr_max_nodes) else ""
                context.log.info(
                    f"Using or starting a cluster of at most {hourly_cost(self.settings):.2f} USD an hour "
                    f"(on-demand price without disks): {self.settings.emr_core_nodes} core nodes "
                    f"{self.settings.emr_core_type}{scaling}"
                )
            cluster_id = find_or_start_cluster(emr, self.settings, owner_of(context.run))
            self._started = True
        return Cluster(emr, cluster_id, self.settings.region)

    def _spark_conf(self, cluster: Cluster) -> dict[str, str]:
        """Spark's settings for a step on the core nodes, with the nodes that managed scaling may add."""
        core, most = _core(cluster.nodes()), self.settings.emr_max_nodes if self._started else None
        # Without the nodes that managed scaling has added for an earlier step.
        nodes = self.settings.emr_core_nodes if most else core.most
        conf = spark_submit_conf(core.instance_type, nodes, self.settings.region, most)
        return conf | event_log_config(self.settings.store)

    def _run_step(
        self, context: dg.AssetExecutionContext, cluster: Cluster, arguments: Sequence[str]
    ) -> Step:
        """Runs a command as a step and waits for its end; where the wait is interrupted, cancels the step."""
        from botocore.exceptions import ClientError

        try:
            step_id = cluster.add_step(f"fruits {_asset_of(context)} {context.run.run_id}", arguments)
        except ClientError as error:
            # A cluster can end between the search for it and this call, as after its last idle minute.
            state = cluster.state()
            if not state.is_over:
                raise
            raise FruitsError(
                f"The cluster {cluster.id} is {state.name} and takes no step ({state.reason}).",
                retry_helps=self._next_is_another(state),
            ) from error
        try:
            context.log.info(f"Step {step_id} on cluster {cluster.id}: {cluster.console(step_id)}")
            return cluster.follow(step_id, context.log.info)
        except BaseException:
            try:
                with aws_errors_named():
                    cluster.cancel(step_id)
            except FruitsError as error:  # logged, so that the first error is the one that Dagster shows
                context.log.error(f"Step {step_id} may still run: {error} {cluster.console(step_id)}")
            raise

    def _next_is_another(self, ended: ClusterState) -> bool:
        """Whether the next attempt starts another cluster, which need not end as this cluster did."""
        return self.settings.emr_cluster is None and ended.code not in _PERMANENT

    def _raise(self, cluster: Cluster, step: Step, exception: dict[str, str] | None) -> NoReturn:
        """Raises a `FruitsError` with the reason why a step failed, and the address of its logs.

        `exception` has the class and the message of the job's own error, if the job reported one.
        """
        state = cluster.state()
        logs = (
            f"EMR uploads its logs to {state.logs}/steps/{step.id}/ about every five minutes. "
            f"{cluster.console(step.id)}"
        )
        if state.is_over:
            raise FruitsError(
                f"The cluster {cluster.id} is {state.name} and ended step {step.id} ({state.reason}). {logs}",
                retry_helps=self._next_is_another(state),
            )
        if step.state == "CANCELLED":
            raise FruitsError(f"Step {step.id} was cancelled outside Dagster. {logs}")
        if exception is None:
            # The driver's process ended without a report: it was killed, or never started.
            reason, retry_helps = step.reason or "no reason given", True
        else:
            reason = exception["message"]
            retry_helps = any(text in reason for text in _TRANSIENT)
            if "ExecutorLostFailure" in reason:
                reason = f"Spark lost executors, because EC2 took a spot node or a node died: {reason}"
            elif exception["class"] == _FRUITS_ERROR:
                raise FruitsError(
                    f"{reason} (Step {step.id}, with its logs: {cluster.console(step.id)})", retry_helps
                )
            else:
                reason = f"{exception['class']}: {reason}"
        raise FruitsError(f"Step {step.id} {step.state}: {reason}. {logs}", retry_helps)


def _reported(store: Root, path: str, kind: type[T]) -> T:
    """The report or the measurements of a step, which any node may write.

    Raises `FruitsError` where they are not of their type.
    """
    try:
        return from_json(kind, store.read(path))
    except (TypeError, ValueError, RecursionError) as error:
        raise FruitsError(
            f"{store.uri_of(path)} is not what the step writes there: {error}. Run again. If it happens "
            "again, find out who writes to the store."
        ) from error


def _exception(messages: Sequence[Any]) -> dict[str, str] | None:
    """The class and the message of the job's own error; None where a step reported none."""
    match list(messages[:1]):
        case [{"class": str(kind), "message": str(message)}]:
            return {"class": kind, "message": message}
    return None


def _execution(cluster: Cluster, step: Step, cores_per_node: int, prices: Prices) -> Execution:
    """The nodes of a finished step, read after it because managed scaling may have added some.

    The cost is the on-demand price of all nodes while the step ran, as if no other step shared them. Spot
    nodes cost less. Start-up and idle time are not included. It is None where an instance type has no price.
    """
    nodes = cluster.nodes()
    core = _core(nodes)
    hours = [
        (group.number * step.seconds / 3600, prices.instance_hour(group.instance_type)) for group in nodes
    ]
    costs = [number * price for number, price in hours if price is not None]
    return Execution(
        engine=f"EMR cluster {cluster.id}, {core.number} core nodes {core.instance_type}",
        instance_type=core.instance_type,
        nodes=core.number,
        cores=core.number * cores_per_node,
        estimated_cost_usd=round(sum(costs), 4) if len(costs) == len(hours) else None,
        details={
            "emr_cluster": cluster.id,
            "emr_step": step.id,
            "emr_step_seconds": round(step.seconds, 2),
            "emr_step_console": dg.MetadataValue.url(cluster.console(step.id)),
            "emr_cluster_console": dg.MetadataValue.url(cluster.console()),
            "node_hours": round(sum(number for number, _ in hours), 4),
        },
    )


def _core(nodes: Sequence[Nodes]) -> Nodes:
    """The core nodes, which run executors; in a cluster of a single node, its primary node."""
    return next((group for group in nodes if group.role == "CORE"), nodes[0])


def _cancel_orphans(cluster: Cluster, context: dg.AssetExecutionContext) -> None:
    """Cancels the steps that no Dagster process follows, because their process died.

    These are steps of this asset from this run or from the run that it retries, and steps of any run of this
    Dagster instance that has ended. Steps of other instances continue.
    """
    for step_id, name in list(cluster.active_steps()):
        match name.split(" "):
            case ["fruits", asset, run_id]:
                run = context.instance.get_run_by_id(run_id)
            case _:
                continue
        if run is None:
            continue
        same_asset = asset == _asset_of(context)
        if run.is_finished or (same_asset and _root_run_id(run) == _root_run_id(context.run)):
            context.log.warning(f"Cancelling the step {step_id}: run {run_id} does not follow it any more")
            cluster.cancel(step_id)


def _asset_of(context: dg.AssetExecutionContext) -> str:
    return str(context.asset_key.to_user_string())


def _root_run_id(run: dg.DagsterRun) -> str:
    """The id of the first run in a chain of retries."""
    return run.root_run_id or run.run_id


@contextmanager
def _removed_at_end(context: dg.AssetExecutionContext, store: Root, folder: str) -> Iterator[None]:
    """Removes the folder of a step at the end of the context: parameters and report name and show photos.

    If that fails, the lifecycle rule of the stack's bucket removes the folder later.
    """
    try:
        yield
    finally:
        try:
            store.remove(folder)
        except OSError as error:
            context.log.warning(
                f"{store.uri_of(folder)} could not be removed, and its files name photos: {error}. Remove "
                "it, or wait until the bucket's lifecycle rule does."
            )


def _take_messages_of_steps(handler: Any) -> None:
    """Makes a handler of Dagster Pipes ignore messages of kinds that `entry_point` never sends."""
    handle, kinds = handler.handle_message, ("opened", "closed", "log", "report_custom_message")

    def handle_some(message: Any) -> None:
        if isinstance(message, dict) and message.get("method") in kinds:
            handle(message)

    handler.handle_message = handle_some


def _pipes_session(context: dg.AssetExecutionContext, store: Root, folder: str, s3: Any) -> Any:
    """A session of Dagster Pipes whose context and messages are objects in a folder of the store."""
    from dagster_aws.pipes import PipesS3ContextInjector, PipesS3MessageReader

    bucket, prefix = split_s3_uri(store.uri_of(folder))

    class MessageReader(PipesS3MessageReader):
        @contextmanager
        def read_messages(self, handler: Any) -> Iterator[Any]:
            """Hands on the messages that a step sends. A node may send others, as for Dagster's stdout."""
            _take_messages_of_steps(handler)
            with super().read_messages(handler) as params:
                yield params

        # Equals Dagster's default. Without it, Dagster warns that the default is new.
        expected_writer_count = 1

        @contextmanager
        def get_params(self) -> Iterator[dict[str, Any]]:
            # Dagster's own prefix is at the root of the bucket, where the policies allow no write.
            with super().get_params() as params:
                yield {**params, "key_prefix": f"{prefix}/messages"}

    return dg.open_pipes_session(
        context=context,
        context_injector=PipesS3ContextInjector(bucket=bucket, client=s3, key_prefix=f"{prefix}/"),
        message_reader=MessageReader(interval=POLL_SECONDS, bucket=bucket, client=s3),
    )
