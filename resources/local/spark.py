"""Spark on this machine, inside the Dagster process."""

from concurrent.futures import Future, ThreadPoolExecutor

import dagster as dg
from dagster_pyspark import LazyPySparkResource
from pyspark.sql import SparkSession

from resources.job_runner import Execution, JobRun, JobRunner
from resources.local.java import java
from resources.local.session import end_of_jvm_explained, prepare_spark, session_config, start_session
from resources.settings import Settings
from spark_jobs.wire import Job, Params, Report, run_measured

# The session of this process, if `begin_session` has started it.
_begun: list["Future[SparkSession]"] = []

# The runs whose log names the Java.
_told: set[str] = set()


def begin_session(settings: Settings) -> None:
    """Starts the Spark session of this process in the background. Jobs wait for it."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="spark-start")
    _begun.append(pool.submit(start_session, settings, event_log=True))
    pool.shutdown(wait=False)


def local_spark(settings: Settings) -> "LocalSpark":
    """Spark on this machine with the configuration of the settings."""
    pyspark = LazyPySparkResource(spark_config=session_config(settings, event_log=True))
    # As a resource without configuration, so that no launchpad offers a setting.
    return LocalSpark(pyspark=pyspark, settings=dg.ResourceDefinition(lambda _: settings))


class LocalSpark(JobRunner):
    """Runs jobs in one Spark session, which starts with the first job and which the process keeps."""

    pyspark: dg.ResourceDependency[LazyPySparkResource]
    settings: dg.ResourceDependency[Settings]

    def run(
        self, context: dg.AssetExecutionContext, job: Job[Params, Report], params: Params
    ) -> JobRun[Report]:
        with end_of_jvm_explained():
            # Asking PySpark for a session that exists takes 0.7 s: it sets all of its options again.
            spark = _begun[-1].result() if _begun else self._session()
            if context.run.run_id not in _told:
                _told.add(context.run.run_id)
                context.log.info(f"Spark runs on {java().described}")
            report, measured = run_measured(
                spark, job, params, lambda progress: context.log.info(str(progress))
            )
        execution = Execution(
            engine=f"Spark {spark.version} on this machine, {spark.sparkContext.master}",
            nodes=1,
            cores=spark.sparkContext.defaultParallelism,
        )
        return JobRun(report, measured, execution)

    def _session(self) -> SparkSession:
        prepare_spark(self.pyspark.spark_config, self.settings.store)
        session: SparkSession = self.pyspark.spark_session
        return session
