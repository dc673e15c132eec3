"""Spark on one machine, inside the Dagster process."""

from concurrent.futures import Future, ThreadPoolExecutor

import dagster as dg
from dagster_pyspark import LazyPySparkResource
from pydantic import Field, PrivateAttr
from pyspark.sql import SparkSession

from resources.job_runner import JobRun, JobRunner
from resources.local.session import set_environment
from resources.spark_events import make_event_log_folder
from spark_jobs.store.root import open_root
from spark_jobs.wire import Job, Params, Report, run_measured


class LocalSpark(JobRunner):
    """Runs jobs in one Spark session, which the process keeps.

    It starts in the background when a run with a Spark job begins, beside the steps that need no Spark.
    """

    pyspark: dg.ResourceDependency[LazyPySparkResource]
    store: str = Field(description="Root of everything that is written, event logs too.")
    _session: "Future[SparkSession]" = PrivateAttr()

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        pool = ThreadPoolExecutor(1, thread_name_prefix="spark-start")
        self._session = pool.submit(self._start)
        pool.shutdown(wait=False)

    def _start(self) -> SparkSession:
        set_environment()
        make_event_log_folder(open_root(self.store))
        session: SparkSession = self.pyspark.spark_session
        return session

    def run(
        self, context: dg.AssetExecutionContext, job: Job[Params, Report], params: Params
    ) -> JobRun[Report]:
        spark = self._session.result()
        report, measured = run_measured(spark, job, params, lambda progress: context.log.info(str(progress)))
        return JobRun(
            report,
            measured,
            {
                "engine": f"Spark {spark.version} on this machine, {spark.sparkContext.master}",
                "nodes": 1,
                "cores": spark.sparkContext.defaultParallelism,
            },
        )
