"""Watches that a job on YARN has executors, and says why it has none."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pyspark.sql import SparkSession

from spark_jobs.errors import FruitsError
from spark_jobs.wording import counted

POLL_SECONDS = 1.0
# The part of the time after which a warning says that there are no executors.
_WARN_SHARE = 0.2


@contextmanager
def executors_awaited(spark: SparkSession, seconds: float, warn: Callable[[str], None]) -> Iterator[None]:
    """Ends the jobs of a session that have had no executor for `seconds`; warns after a fifth of that time.

    Without it, Spark waits for executors as long as the cluster exists, at its price. EMR does not end such a
    cluster as idle. Raises `FruitsError` with the memory that an executor asks for and that YARN has free.
    """
    ended, reasons = threading.Event(), list[str]()

    def watch() -> None:
        alone_since, warned = time.monotonic(), False
        while not ended.wait(POLL_SECONDS):
            if not spark.sparkContext.statusTracker().getActiveJobsIds() or _executors(spark):
                alone_since, warned = time.monotonic(), False
                continue
            alone = time.monotonic() - alone_since
            if alone >= seconds:
                reasons.append(f"{_reason(spark, alone)} {_REMEDY}")
                spark.sparkContext.cancelAllJobs()
                return
            if alone >= seconds * _WARN_SHARE and not warned:
                warn(f"{_reason(spark, alone)} The job fails after {seconds / 60:,.3g} minutes.")
                warned = True

    watcher = threading.Thread(target=watch, name="executors", daemon=True)
    watcher.start()
    try:
        yield
    except Exception as error:
        if reasons:
            raise FruitsError(reasons[0]) from error
        raise
    finally:
        ended.set()
        watcher.join()


_REMEDY = (
    "Wait until other applications have ended, or use a cluster with more or larger nodes: "
    "FRUITS_EMR_CORE_NODES, FRUITS_EMR_CORE_TYPE."
)


def _executors(spark: SparkSession) -> int:
    context: Any = spark.sparkContext._jsc
    return int(context.sc().getExecutorMemoryStatus().size()) - 1  # without the driver


def _reason(spark: SparkSession, seconds: float) -> str:
    conf = spark.sparkContext.getConf()
    parts = (conf.get(f"spark.executor.{name}", "0m") or "0m" for name in ("memory", "memoryOverhead"))
    asked = sum(int(part.removesuffix("m")) for part in parts)
    free = _free_mib(spark)
    listed = ", ".join(f"{mib:,}" for mib in sorted(free, reverse=True)[:5])
    return (
        f"The job has had no executor for {seconds / 60:,.2g} minutes: an executor asks for {asked:,} MiB, "
        f"and {counted(len(free), 'node has', 'nodes have')} {listed or 'no'} MiB free."
    )


def _free_mib(spark: SparkSession) -> list[int]:
    """The free memory of YARN's running nodes, in MiB."""
    context: Any = spark.sparkContext
    yarn = context._jvm.org.apache.hadoop.yarn
    states = context._gateway.new_array(yarn.api.records.NodeState, 1)
    states[0] = yarn.api.records.NodeState.RUNNING
    client = yarn.client.api.YarnClient.createYarnClient()
    client.init(yarn.conf.YarnConfiguration(context._jsc.hadoopConfiguration()))
    client.start()
    try:
        return [
            node.getCapability().getMemorySize() - (used.getMemorySize() if (used := node.getUsed()) else 0)
            for node in client.getNodeReports(states)
        ]
    finally:
        client.stop()
