"""A job with what only its own driver knows: its time without Spark's start, and what it ran with."""

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import TypeVar

from pyspark.sql import SparkSession

from fruits_assets.jobs.tasks import Reporter

Params = TypeVar("Params")
Report = TypeVar("Report")

Job = Callable[[SparkSession, Params, Reporter], Report]

# What decides about speed and results, beside Spark and Python.
_PACKAGES = ("openvino", "numpy", "pyarrow")


@dataclass(frozen=True)
class Measured:
    """Seconds of the job alone, Spark's id of the application, and versions by name on its driver."""

    seconds: float
    application: str
    versions: dict[str, str]


def run_measured(
    spark: SparkSession, job: Job[Params, Report], params: Params, report: Reporter
) -> tuple[Report, Measured]:
    """Runs a job in a session that has started. Raises what the job raises."""
    started = time.monotonic()
    result = job(spark, params, report)
    seconds = round(time.monotonic() - started, 2)
    versions = {"python": platform.python_version(), "spark": spark.version}
    versions |= {package: version(package) for package in _PACKAGES}
    return result, Measured(seconds, str(spark.sparkContext.applicationId), versions)
