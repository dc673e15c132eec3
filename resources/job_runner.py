"""The switch: where a Spark job runs. Assets know this interface and nothing behind it."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import dagster as dg
from pyspark.sql import SparkSession

from fruits_assets.jobs.tasks import Reporter

Params = TypeVar("Params")
Report = TypeVar("Report")

Job = Callable[[SparkSession, Params, Reporter], Report]


@dataclass(frozen=True)
class JobRun(Generic[Report]):
    """A finished job: its report, and the run's metadata (engine, application id, seconds)."""

    report: Report
    metadata: dict[str, Any]


class JobRunner(dg.ConfigurableResource, ABC):
    """Runs a Spark job with parameters, and waits for its report."""

    @abstractmethod
    def run(
        self, context: dg.AssetExecutionContext, job: Job[Params, Report], params: Params
    ) -> JobRun[Report]:
        """Runs one job; its progress goes to the log of `context`. Raises what the job raises."""
