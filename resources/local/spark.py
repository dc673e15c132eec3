"""Spark on this machine, inside the Dagster process."""

from concurrent.futures import Future, ThreadPoolExecutor

import dagster as dg
from dagster_pyspark import LazyPySparkResource
from pydantic import Field, PrivateAttr
from pyspark.sql import SparkSession

from resources.job_runner import Execution, JobRun, JobRunner
from resources.local.session import prepare_spark
from spark_jobs.wire import Job, Params, Report, run_measured


class LocalSpark(JobRunner):
    """Runs jobs in one Spark session, which the process keeps.

    The session starts with the first job; with `at_once`, in the background when a run begins. Steps that
    need no Spark run meanwhile.
    """

    pyspark: dg.ResourceDependency[LazyPySparkResource]
    store: str = Field(description="Root of everything that is written, event logs too.")
    at_once: bool = Field(False, description="Start Spark when a run begins, not with its first job.")
    _session: "Future[SparkSession] | None" = PrivateAttr(None)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        if self.at_once:
            self._started()

    def _started(self) -> "Future[SparkSession]":
        """The session, which starts in the background."""
        if self._session is None:
            pool = ThreadPoolExecutor(1, thread_name_prefix="spark-start")
            self._session = pool.submit(self._start)
            pool.shutdown(wait=False)
        return self._session

    def _start(self) -> SparkSession:
        prepare_spark(self.pyspark.spark_config, self.store)
        session: SparkSession = self.pyspark.spark_session
        return session

    def run(
        self, context: dg.AssetExecutionContext, job: Job[Params, Report], params: Params
    ) -> JobRun[Report]:
        spark = self._started().result()
        report, measured = run_measured(spark, job, params, lambda progress: context.log.info(str(progress)))
        execution = Execution(
            engine=f"Spark {spark.version} on this machine, {spark.sparkContext.master}",
            nodes=1,
            cores=spark.sparkContext.defaultParallelism,
        )
        return JobRun(report, measured, execution)
