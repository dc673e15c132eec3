"""Spark on an AWS EMR cluster: every job is a step, followed through Dagster Pipes."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, NoReturn, get_type_hints

import dagster as dg
from pydantic import PrivateAttr

from resources.emr.aws import aws_errors_named, client
from resources.emr.cluster import POLL_SECONDS, Cluster, Nodes, Step
from resources.emr.code import upload_code
from resources.emr.lifecycle import end_clusters, find_or_start_cluster, hourly_cost
from resources.emr.sizing import spark_submit_conf
from resources.job_runner import JobRun, JobRunner
from resources.prices import Prices, load_prices
from resources.runs import ends_with, owner_of
from resources.settings import Settings
from resources.spark_events import event_log_config, make_event_log_folder
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import Root, open_root, split_s3_uri
from spark_jobs.wire import MEASURED, PARAMS, REPORT, Job, Measured, Params, Report, from_json, to_json

# How a job names this error. Nothing else that a message from the store says is looked up in the code.
_FRUITS_ERROR = f"{FruitsError.__module__}:{FruitsError.__qualname__}"

# What stands in a job's error where the cluster or S3 was at fault, and not the job or its photos: Spark
# lost executors (a spot node was taken, a node died), or S3 had enough of calls.
_OF_THE_MOMENT = ("ExecutorLostFailure", "SparkContext was shut down", "SlowDown", "SLOW_DOWN")


# Why a cluster ended where another would end in the same way, or is not wanted: EMR's
# ClusterStateChangeReasonCode.
_FOR_GOOD = frozenset({"BOOTSTRAP_FAILURE", "USER_REQUEST", "VALIDATION_ERROR"})


class EmrSteps(JobRunner):
    """Runs each job as a step of a cluster, in client deploy mode.

    The driver is then a child of the step: cancelling the step ends it, and YARN ends its executors. The
    cluster is FRUITS_EMR_CLUSTER, or one that the first job starts and the end of the run terminates.
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
        # Before the work, so that a bad file of prices costs none of it.
        prices = load_prices(self.settings.prices)
        if prices.region != self.settings.region:
            context.log.warning(
                f"Costs are estimated at the prices of {prices.region}, and the cluster is in "
                f"{self.settings.region}: name a file of its prices in FRUITS_PRICES."
            )
        cluster = self._cluster(context)
        _cancel_orphans(cluster, context)
        store = open_root(self.settings.store)
        asset = context.asset_key.to_user_string()
        work = f"emr/{context.run.run_id}/{asset}-{uuid.uuid4().hex[:8]}"
        store.write(f"{work}/{PARAMS}", to_json(params))
        code, entry = upload_code(store)
        make_event_log_folder(store)
        nodes = cluster.nodes()
        core = _core(nodes)
        executors = max(core.most, (self._started and self.settings.emr_max_nodes) or 0)
        spark_conf = spark_submit_conf(core.instance_type, executors, self.settings.region)
        spark_conf |= event_log_config(store.uri)
        with _pipes_session(context, store, work, client("s3", self.settings.region)) as session:
            arguments = [
                *("spark-submit", "--deploy-mode", "client", "--name", f"fruits {asset}", "--py-files", code),
                *chain.from_iterable(("--conf", f"{key}={value}") for key, value in spark_conf.items()),
                *(entry, f"{job.__module__}:{job.__qualname__}"),
                *(store.uri_of(work), self.settings.region),
                *chain.from_iterable(session.get_bootstrap_cli_arguments().items()),
            ]
            step_id = cluster.add_step(_step_name(context), arguments)
            try:
                context.log.info(f"Step {step_id} on cluster {cluster.id}: {cluster.console(step_id)}")
                step = cluster.follow(step_id, context.log.info)
            except BaseException:
                try:
                    with aws_errors_named():
                        cluster.cancel(step_id)
                except FruitsError as error:  # it must not take the place of what happened
                    context.log.error(f"Step {step_id} may go on: {error} {cluster.console(step_id)}")
                raise
        if step.state != "COMPLETED":
            self._raise(cluster, step, next(iter(session.get_custom_messages()), None))
        report = from_json(get_type_hints(job)["return"], store.read(f"{work}/{REPORT}"))
        measured = from_json(Measured, store.read(f"{work}/{MEASURED}"))
        measured.versions["emr"] = cluster.state().release
        nodes = cluster.nodes()  # managed scaling may have added some
        number = _core(nodes).number
        return JobRun(
            report,
            measured,
            {
                "engine": f"EMR cluster {cluster.id}, {number} core nodes {core.instance_type}",
                "instance_type": core.instance_type,
                "nodes": number,
                "cores": number * int(spark_conf["spark.executor.cores"]),
                "emr_cluster": cluster.id,
                "emr_step": step.id,
                "emr_step_seconds": round(step.seconds, 2),
                "emr_step_console": dg.MetadataValue.url(cluster.console(step.id)),
                "emr_cluster_console": dg.MetadataValue.url(cluster.console()),
                **_cost(nodes, step.seconds, prices),
            },
        )

    def _cluster(self, context: dg.AssetExecutionContext) -> Cluster:
        emr = client("emr", self.settings.region)
        identity = self.settings.emr_cluster
        if identity is None:
            if not self._started:
                context.log.info(
                    f"Taking or starting a cluster of at most {hourly_cost(self.settings):.2f} USD an hour, "
                    f"on demand and without disks: {self.settings.emr_core_nodes} core nodes "
                    f"{self.settings.emr_core_type}"
                    + (f", up to {most} as they are needed" if (most := self.settings.emr_max_nodes) else "")
                )
            identity = find_or_start_cluster(emr, self.settings, owner_of(context.run))
            self._started = True
        return Cluster(emr, identity, self.settings.region)

    def _raise(self, cluster: Cluster, step: Step, exception: dict[str, str] | None) -> NoReturn:
        """Raises the error of the job, with the reason and the place of its logs."""
        state = cluster.state()
        logs = (
            f"EMR uploads its logs to {state.logs}/steps/{step.id}/ about every five minutes. "
            f"{cluster.console(step.id)}"
        )
        if state.is_over:
            raise FruitsError(
                f"The cluster {cluster.id} is {state.name} and took step {step.id} with it ({state.reason}). "
                f"{logs}",
                # A cluster that was named is gone for good; else the next attempt starts another, unless it
                # would end in the same way.
                retry_helps=self.settings.emr_cluster is None and state.code not in _FOR_GOOD,
            )
        if step.state == "CANCELLED":
            raise FruitsError(f"Step {step.id} was cancelled outside Dagster. {logs}")
        if exception:
            cause = exception["message"]
            retry_helps = any(words in cause for words in _OF_THE_MOMENT)
            if "ExecutorLostFailure" in cause:
                cause = f"executors were lost, as a spot node was taken or a node died: {cause}"
            elif exception["class"] == _FRUITS_ERROR:
                raise FruitsError(f"{cause} (Step {step.id}, with its logs: {cluster.console(step.id)})")
            else:
                cause = f"{exception['class']}: {cause}"
        else:
            # The driver's process ended without a word: killed, or never begun.
            cause, retry_helps = step.reason or "no reason given", True
        raise FruitsError(f"Step {step.id} {step.state}: {cause}. {logs}", retry_helps)


def _core(nodes: list[Nodes]) -> Nodes:
    """The core nodes, which run executors; a cluster of a single node has no others than the primary."""
    return next((group for group in nodes if group.role == "CORE"), nodes[0])


def _cost(nodes: list[Nodes], seconds: float, prices: Prices) -> dict[str, float]:
    """What all nodes cost while the step ran, at the price on demand: more than a spot node's.

    The step is taken to have the cluster for itself; starting and waiting are not in it. Left out where
    an instance type has no price.
    """
    hours = [(group.number * seconds / 3600, prices.instance_hour(group.instance_type)) for group in nodes]
    costs = [number * price for number, price in hours if price is not None]
    known = {"estimated_cost_usd": round(sum(costs), 4)} if len(costs) == len(hours) else {}
    return {"node_hours": round(sum(number for number, _ in hours), 4), **known}


def _cancel_orphans(cluster: Cluster, context: dg.AssetExecutionContext) -> None:
    """Cancels steps that nobody follows any more, because their Dagster process died.

    That is a step of this asset from this run or from the run that this one retries, and any step whose
    run has ended in this Dagster instance. Steps of other instances are left alone.
    """
    for step_id, name in list(cluster.active_steps()):
        match name.split(" "):
            case ["fruits", asset, run_id]:
                run = context.instance.get_run_by_id(run_id)
            case _:
                continue
        if run is None:
            continue
        same_asset = asset == context.asset_key.to_user_string()
        if run.is_finished or (same_asset and _root_run_id(run) == _root_run_id(context.run)):
            context.log.warning(f"Cancelling the step {step_id} that the run {run_id} left behind")
            cluster.cancel(step_id)


def _step_name(context: dg.AssetExecutionContext) -> str:
    return f"fruits {context.asset_key.to_user_string()} {context.run.run_id}"


def _root_run_id(run: dg.DagsterRun) -> str:
    """The run that this run is an attempt of; a retry of a dead run has the same."""
    return run.root_run_id or run.run_id


def _pipes_session(context: dg.AssetExecutionContext, store: Root, work: str, s3: Any) -> Any:
    """Dagster Pipes, with its context and its messages as objects under `work` in the store."""
    from dagster_aws.pipes import PipesS3ContextInjector, PipesS3MessageReader

    bucket, prefix = split_s3_uri(store.uri_of(work))

    class MessageReader(PipesS3MessageReader):
        # As it is by default; the default itself warns of being new in Dagster.
        expected_writer_count = 1

        @contextmanager
        def get_params(self) -> Iterator[dict[str, Any]]:
            # Pipes' own is at the bucket's root.
            with super().get_params() as params:
                yield {**params, "key_prefix": f"{prefix}/messages"}

    return dg.open_pipes_session(
        context=context,
        context_injector=PipesS3ContextInjector(bucket=bucket, client=s3, key_prefix=f"{prefix}/"),
        message_reader=MessageReader(interval=POLL_SECONDS, bucket=bucket, client=s3),
    )
