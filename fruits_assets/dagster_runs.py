"""The Dagster runs of one command: they share a job, an instance, and a cluster."""

import shlex
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.repository_definition.valid_definitions import SINGLETON_REPOSITORY_NAME
from dagster._core.remote_origin import ManagedGrpcPythonEnvCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.storage.tags import MAX_RETRIES_TAG, REPOSITORY_LABEL_TAG
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from fruits_assets.all_assets import FAILED_BEFORE, UpToDateConfig
from fruits_assets.automation.old_runs import remove_old_files
from fruits_assets.by_class import failed_classes
from fruits_assets.definitions import definitions_for
from fruits_assets.jobs import BRING_UP_TO_DATE, LOGGING, OBSERVE_PHOTOS
from fruits_assets.run_plan import RunPlan
from resources.emr.lifecycle import clusters_ended_after, end_clusters_of_process
from resources.photo_folders import PhotoFolders
from resources.run_locks import held_lock
from resources.runs import COMMAND_TAG, classes_tag, fail_killed_runs, owner_is_over, owner_tags
from resources.settings import Settings
from spark_jobs.errors import FruitsError
from spark_jobs.wording import named

_INTERRUPTIONS = (KeyboardInterrupt.__name__, dg.DagsterExecutionInterruptedError.__name__)

# The origin that runs of the UI have: the code location of workspace.yaml. Dagster's timeline shows the runs
# that have its label as a tag, and its page of a run repeats a run of this origin.
_ORIGIN = RemoteRepositoryOrigin(
    code_location_origin=ManagedGrpcPythonEnvCodeLocationOrigin(
        loadable_target_origin=LoadableTargetOrigin(module_name=definitions_for.__module__),
        location_name="fruits",
    ),
    repository_name=SINGLETON_REPOSITORY_NAME,
)
_TAGS = {
    REPOSITORY_LABEL_TAG: _ORIGIN.get_label(),
    # The person at the terminal sees a failure, so Dagster's daemon does not repeat the run.
    MAX_RETRIES_TAG: "0",
}

# Classes that a failed check names in a summary.
_NAMED = 5


@dataclass(kw_only=True)
class Runs:
    """Dagster runs of one command: they share a job, a listing of the photos, an instance and tags."""

    settings: Settings
    photos: PhotoFolders
    instance: dg.DagsterInstance
    tags: Mapping[str, str]
    failed_classes: dict[str, str] = field(default_factory=dict)
    _checks: dict[tuple[str, str], dg.AssetCheckEvaluation] = field(default_factory=dict)

    def observe(self) -> None:
        """Lists the photos, and registers new classes. Raises `FruitsError` where that fails."""
        self._execute(OBSERVE_PHOTOS, None)

    def bring_up_to_date(self, config: UpToDateConfig, plan: RunPlan | None = None) -> dict[str, str]:
        """Runs all assets in one run; returns the failed classes with the reasons.

        Raises `FruitsError` where a step fails as a whole, and `KeyboardInterrupt` where Dagster reports an
        interruption as a failure of a step.
        """
        return self._execute(BRING_UP_TO_DATE, config, plan)

    def _execute(
        self, job: str, config: UpToDateConfig | None, plan: RunPlan | None = None
    ) -> dict[str, str]:
        definitions, run_id = definitions_for(self.settings, self.photos, plan), str(uuid.uuid4())
        try:
            result = definitions.resolve_job_def(job).execute_in_process(
                run_config=config.model_dump(exclude_none=True) if config else LOGGING,
                instance=self.instance,
                tags={**self.tags, **(classes_tag(config.classes) if config else {})},
                raise_on_error=False,
                run_id=run_id,
            )
        finally:
            self._set_origin(run_id)
        failed: dict[str, str] = {}
        for event in result.filter_events(lambda event: event.is_step_failure):
            failed |= self._failed_classes(event)
        for check in result.get_asset_check_evaluations():
            self._checks[check.asset_key.to_user_string(), check.check_name] = check
        if not result.success and not failed:
            raise FruitsError(
                f"The run {result.run_id} failed outside its assets. Dagster's UI shows the reason: make ui"
            )
        self.failed_classes |= failed
        return failed

    def _set_origin(self, run_id: str) -> None:
        """Gives a run the origin of the runs of the UI, so that the UI can repeat it.

        `execute_in_process` takes no origin. A run that has not ended has none, so that Dagster's daemon does
        not take it for its own.
        """
        if run := self.instance.get_run_by_id(run_id):
            self.instance.run_storage.replace_job_origin(run, _ORIGIN.get_job_origin(run.job_name))

    def _failed_classes(self, event: dg.DagsterEvent) -> dict[str, str]:
        """The classes that a failed step names, with the reasons. Raises where the step names none."""
        error, failure = event.step_failure_data.error, event.step_failure_data.user_failure_data
        if error and error.cls_name in _INTERRUPTIONS:
            raise KeyboardInterrupt
        if (classes := failed_classes(event)) is not None:
            return classes
        before: Any = failure.metadata.get(FAILED_BEFORE) if failure else None
        if before is not None:
            self.failed_classes |= before.value
        if error and error.cause and error.cls_name == dg.DagsterExecutionStepExecutionError.__name__:
            error = error.cause
        message = (failure.description if failure else error and error.message) or "no message"
        raise FruitsError(message.strip())

    def evaluation(self, asset: str, check: str) -> dg.AssetCheckEvaluation | None:
        """The last evaluation of a check by these runs."""
        return self._checks.get((asset, check))

    @property
    def failed_checks(self) -> list["FailedCheck"]:
        """The checks that failed when they were last evaluated by these runs."""
        return _failed(self._checks.values())


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
    classes: Any = check.metadata.get("failing_classes")
    return named(list(classes.value) if classes else [], _NAMED) or "its metadata in Dagster has the figures"


def _command() -> str:
    """The command line of this process, as a person would type it."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


@contextmanager
def dagster_runs(settings: Settings, photos: PhotoFolders | None = None) -> Iterator[Runs]:
    """The runs of a command, at whose end the clusters that they started end.

    It first marks the runs of killed commands as failed, ends their clusters, and removes old logs and locks.
    """
    owner = uuid.uuid4().hex
    with (
        dg.DagsterInstance.get() as instance,
        held_lock(instance, owner),
        clusters_ended_after(settings, owner),
    ):
        runs = Runs(
            settings=settings,
            photos=photos or PhotoFolders(settings),
            instance=instance,
            tags={**owner_tags(owner), COMMAND_TAG: _command(), **_TAGS},
        )
        for killed in fail_killed_runs(instance):
            if owner_is_over(instance, killed):  # the other runs of a backfill may go on
                end_clusters_of_process(settings, killed)
        remove_old_files(instance, settings)
        yield runs
