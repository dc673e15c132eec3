"""The switch between execution targets: assets know this interface, and none of its implementations."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic

import dagster as dg

from resources.spark_events import history_url
from spark_jobs.wire import Job, Measured, Params, Report


@dataclass(frozen=True, kw_only=True)
class Execution:
    """The hardware that ran a job, and its cost in USD; None where an execution target has no such figure.

    `details` are further metadata, which Dagster shows and the record of a stage does not keep.
    """

    engine: str
    nodes: int
    cores: int
    instance_type: str | None = None
    estimated_cost_usd: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def metadata(self) -> dict[str, Any]:
        """Dagster's metadata of the execution, without the figures that are None."""
        figures = {
            "engine": self.engine,
            "instance_type": self.instance_type,
            "nodes": self.nodes,
            "cores": self.cores,
            **self.details,
            "estimated_cost_usd": self.estimated_cost_usd,
        }
        return {name: value for name, value in figures.items() if value is not None}


@dataclass(frozen=True)
class JobRun(Generic[Report]):
    """A finished job: its report, the measurements of its driver, and its execution."""

    report: Report
    measured: Measured
    execution: Execution

    @property
    def metadata(self) -> dict[str, Any]:
        """Dagster's metadata of the job, with a link to Spark's History Server."""
        return {
            "seconds": self.measured.seconds,
            "spark_history": dg.MetadataValue.url(history_url(self.measured.application)),
            "spark_application_id": self.measured.application,
            **self.execution.metadata,
        }


class JobRunner(dg.ConfigurableResource, ABC):
    """Runs a Spark job with parameters, and waits for its report."""

    @abstractmethod
    def run(
        self, context: dg.AssetExecutionContext, job: Job[Params, Report], params: Params
    ) -> JobRun[Report]:
        """Runs one job and logs its progress in `context`. Raises the errors of the job."""
