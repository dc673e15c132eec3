"""The switch: where a Spark job runs. Assets know this interface and nothing behind it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic

import dagster as dg

from resources.spark_events import history_url
from spark_jobs.wire import Job, Measured, Params, Report


@dataclass(frozen=True)
class JobRun(Generic[Report]):
    """A finished job: its report, what its driver measured, and where it ran and what that cost."""

    report: Report
    measured: Measured
    place: dict[str, Any]

    @property
    def metadata(self) -> dict[str, Any]:
        """What Dagster shows of it."""
        return {
            **self.place,
            "seconds": self.measured.seconds,
            "spark_application_id": self.measured.application,
            "spark_history": dg.MetadataValue.url(history_url(self.measured.application)),
        }


class JobRunner(dg.ConfigurableResource, ABC):
    """Runs a Spark job with parameters, and waits for its report."""

    @abstractmethod
    def run(
        self, context: dg.AssetExecutionContext, job: Job[Params, Report], params: Params
    ) -> JobRun[Report]:
        """Runs one job; its progress goes to the log of `context`. Raises what the job raises."""
