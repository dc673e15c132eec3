"""The Dagster runs of one command: they share a job, an instance, and a cluster."""

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import dagster as dg

from fruits_assets.by_class import FAILED_CLASSES
from fruits_assets.definitions import definitions_for
from fruits_assets.partitions import RANGE_END, RANGE_START, known_classes, register_classes
from resources.emr.lifecycle import clusters_ended_after, end_clusters_of_process
from resources.runs import OWNER_TAG, fail_killed_runs, process_tags
from resources.settings import Settings
from spark_jobs.errors import FruitsError

_INTERRUPTIONS = (KeyboardInterrupt.__name__, dg.DagsterExecutionInterruptedError.__name__)

# Progress, warnings and errors; not every event of every step.
_LOGGING = {"loggers": {"console": {"config": {"log_level": "INFO"}}}}

# The first and the last class of a contiguous range of partitions, in the order of registration.
ClassRange = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Dagster runs of one command: they share a job, an instance and tags."""

    job: dg.JobDefinition
    instance: dg.DagsterInstance
    tags: Mapping[str, str]

    def materialize(
        self,
        assets: Sequence[str],
        classes: ClassRange | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> dict[str, str]:
        """Runs assets over a range of classes; returns the failed classes with the reasons.

        Raises `FruitsError` where a step fails as a whole, and `KeyboardInterrupt` where Dagster reports an
        interruption as a failure of a step.
        """
        result = self.job.execute_in_process(
            run_config={**_LOGGING, **(config or {})},
            instance=self.instance,
            asset_selection=[dg.AssetKey(name) for name in assets],
            tags={**self.tags, **({RANGE_START: classes[0], RANGE_END: classes[1]} if classes else {})},
            raise_on_error=False,
        )
        failed: dict[str, str] = {}
        for event in result.filter_events(lambda event: event.is_step_failure):
            failed |= _failed_classes(event)
        if not result.success and not failed:
            raise FruitsError(
                f"The run {result.run_id} failed outside its assets. Dagster's UI shows the reason: make ui"
            )
        return failed

    def ranges(self, labels: Iterable[str]) -> list[ClassRange]:
        """The contiguous ranges of classes, in the order of registration. New classes are registered."""
        wanted = set(labels)
        register_classes(self.instance, sorted(wanted))
        stretches = groupby(known_classes(self.instance), key=wanted.__contains__)
        ranges = [list(stretch) for is_wanted, stretch in stretches if is_wanted]
        return [(classes[0], classes[-1]) for classes in ranges]

    def materialize_classes(self, assets: Sequence[str], labels: Iterable[str]) -> dict[str, str]:
        """`materialize` for any classes, in one run for each contiguous range."""
        failed: dict[str, str] = {}
        for classes in self.ranges(labels):
            failed |= self.materialize(assets, classes)
        return failed


@contextmanager
def dagster_runs(settings: Settings) -> Iterator[Runs]:
    """The runs of a command, at whose end the clusters that they started end.

    It first marks the runs of killed commands as failed, and ends their clusters.
    """
    owner = uuid.uuid4().hex
    with dg.DagsterInstance.get() as instance, clusters_ended_after(settings, owner):
        runs = Runs(
            job=definitions_for(settings).resolve_implicit_global_asset_job_def(),
            instance=instance,
            tags={OWNER_TAG: owner, **process_tags()},
        )
        for killed in fail_killed_runs(instance):
            end_clusters_of_process(settings, killed)
        yield runs


def _failed_classes(event: dg.DagsterEvent) -> dict[str, str]:
    """The classes that a failed step names, with the reasons. Raises where the step names none."""
    error, failure = event.step_failure_data.error, event.step_failure_data.user_failure_data
    if error and error.cls_name in _INTERRUPTIONS:
        raise KeyboardInterrupt
    classes: Any = failure.metadata.get(FAILED_CLASSES) if failure else None
    if classes is not None:
        return dict(classes.value)
    if error and error.cause and error.cls_name == dg.DagsterExecutionStepExecutionError.__name__:
        error = error.cause
    message = (failure.description if failure else error and error.message) or "no message"
    raise FruitsError(f"{event.step_key} failed: {message.strip()}")
