"""The Dagster runs of one command: they share a job, an instance, and a cluster."""

import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import dagster as dg

from fruits_assets.by_class import FAILED_CLASSES
from fruits_assets.definitions import definitions_for
from fruits_assets.partitions import RANGE_END, RANGE_START, known_classes, register_classes
from resources.emr.lifecycle import clusters_ended_after, end_clusters_of_process
from resources.local.spark import begin_session
from resources.photo_folders import PhotoFolders
from resources.run_locks import held_lock
from resources.runs import fail_killed_runs, owner_is_over, owner_tags
from resources.settings import Settings
from spark_jobs.errors import FruitsError

_INTERRUPTIONS = (KeyboardInterrupt.__name__, dg.DagsterExecutionInterruptedError.__name__)

# Progress, warnings and errors; not every event of every step.
_LOGGING = {"loggers": {"console": {"config": {"log_level": "INFO"}}}}

_SHORT_GAP = 20
# Classes that a failed check names in a summary.
_NAMED = 5

# The first and the last class of a contiguous range of partitions, in the order of registration.
ClassRange = tuple[str, str]


@dataclass(kw_only=True)
class Runs:
    """Dagster runs of one command: they share a job, a listing of the photos, an instance and tags."""

    settings: Settings
    photos: PhotoFolders
    instance: dg.DagsterInstance
    tags: Mapping[str, str]
    failed_classes: dict[str, str] = field(default_factory=dict)
    _checks: dict[tuple[str, str], dg.AssetCheckEvaluation] = field(default_factory=dict)

    @cached_property
    def job(self) -> dg.JobDefinition:
        return definitions_for(self.settings, self.photos).resolve_implicit_global_asset_job_def()

    def begin_spark(self) -> None:
        """Starts Spark on this machine, if jobs run here, while steps without Spark run."""
        if self.settings.env == "local":
            begin_session(self.settings)

    def materialize(
        self,
        assets: Sequence[str],
        classes: ClassRange | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> dict[str, str]:
        """Runs assets over a range of classes; returns the failed classes with the reasons.

        `config` is the configuration of assets by name; assets that do not run need none.

        Raises `FruitsError` where a step fails as a whole, and `KeyboardInterrupt` where Dagster reports an
        interruption as a failure of a step.
        """
        result = self.job.execute_in_process(
            run_config={
                **_LOGGING,
                "ops": {name: {"config": dict(config[name])} for name in assets if config and name in config},
            },
            instance=self.instance,
            asset_selection=[dg.AssetKey(name) for name in assets],
            tags={**self.tags, **({RANGE_START: classes[0], RANGE_END: classes[1]} if classes else {})},
            raise_on_error=False,
        )
        failed: dict[str, str] = {}
        for event in result.filter_events(lambda event: event.is_step_failure):
            failed |= _failed_classes(event)
        for check in result.get_asset_check_evaluations():
            self._checks[check.asset_key.to_user_string(), check.check_name] = check
        if not result.success and not failed:
            raise FruitsError(
                f"The run {result.run_id} failed outside its assets. Dagster's UI shows the reason: make ui"
            )
        self.failed_classes |= failed
        return failed

    @property
    def failed_checks(self) -> list["FailedCheck"]:
        """The checks that failed when they were last evaluated by these runs."""
        return _failed(self._checks.values())

    def report_check(self, result: dg.AssetCheckResult) -> None:
        """Tells Dagster the result of a check, outside of a run."""
        assert result.asset_key is not None
        assert result.check_name is not None
        self.instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=result.asset_key,
                check_name=result.check_name,
                passed=result.passed,
                metadata=result.metadata,
                severity=result.severity,
                description=result.description,
            )
        )

    def ranges(self, labels: Iterable[str], idle: Collection[str] = ()) -> list[ClassRange]:
        """The contiguous ranges of classes, in the order of registration. New classes are registered.

        A range may hold up to `_SHORT_GAP` `idle` classes between others: they need no work, and looking at
        them takes less time than another run.
        """
        wanted = set(labels)
        register_classes(self.instance, sorted(wanted))
        ranges: list[ClassRange] = []
        gap: list[str] | None = None  # the classes since the last range, if all are idle
        for label in known_classes(self.instance):
            if label in wanted:
                joins = gap is not None and len(gap) <= _SHORT_GAP
                ranges[-1:] = [(ranges[-1][0], label)] if joins else [*ranges[-1:], (label, label)]
                gap = []
            elif gap is not None:
                gap = [*gap, label] if label in idle else None
        return ranges

    def materialize_classes(
        self,
        assets: Sequence[str],
        labels: Iterable[str],
        config: Mapping[str, Any] | None = None,
        idle: Collection[str] = (),
    ) -> dict[str, str]:
        """`materialize` for any classes, in one run for each contiguous range."""
        failed: dict[str, str] = {}
        for classes in self.ranges(labels, idle):
            failed |= self.materialize(assets, classes, config)
        return failed


@dataclass(frozen=True, kw_only=True)
class FailedCheck:
    """A check that failed: `asset.check`, whether it is an error or a warning, and the reason."""

    check: str
    is_error: bool
    reason: str


def last_failed_checks(settings: Settings) -> list[FailedCheck]:
    """The checks that failed when they were last evaluated, by any run."""
    keys = definitions_for(settings).resolve_asset_graph().asset_check_keys
    with dg.DagsterInstance.get() as instance:
        records = instance.event_log_storage.get_latest_asset_check_execution_by_key(sorted(keys))
    evaluated = [record.event.dagster_event for record in records.values() if record.event]
    return _failed(
        event.asset_check_evaluation_data
        for event in evaluated
        if event and event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION
    )


def _failed(checks: Iterable[dg.AssetCheckEvaluation]) -> list[FailedCheck]:
    return [
        FailedCheck(
            check=f"{check.asset_key.to_user_string()}.{check.check_name}",
            is_error=check.severity == dg.AssetCheckSeverity.ERROR,
            reason=check.description or _failing_classes(check),
        )
        for check in checks
        if not check.passed
    ]


def _failing_classes(check: dg.AssetCheckEvaluation) -> str:
    """The first classes that a check names in its metadata."""
    named: Any = check.metadata.get("failing_classes")
    labels = list(named.value) if named else []
    more = f", and {len(labels) - _NAMED:,} more" if len(labels) > _NAMED else ""
    return f"{', '.join(labels[:_NAMED])}{more}" or "its metadata in Dagster has the figures"


@contextmanager
def dagster_runs(settings: Settings, photos: PhotoFolders | None = None) -> Iterator[Runs]:
    """The runs of a command, at whose end the clusters that they started end.

    It first marks the runs of killed commands as failed, and ends their clusters.
    """
    owner = uuid.uuid4().hex
    with (
        dg.DagsterInstance.get() as instance,
        held_lock(instance, owner),
        clusters_ended_after(settings, owner),
    ):
        runs = Runs(
            settings=settings,
            photos=photos or PhotoFolders(settings.images),
            instance=instance,
            tags=owner_tags(owner),
        )
        for killed in fail_killed_runs(instance):
            if owner_is_over(instance, killed):  # the other runs of a backfill may go on
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
