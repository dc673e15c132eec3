"""`fruits run`: observes the photos, then materializes every asset for every class, in one process."""

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import dagster as dg

from fruits_assets.by_class import FAILED_CLASSES
from fruits_assets.definitions import definitions_for
from fruits_assets.partitions import known_classes
from resources.emr.lifecycle import clusters_ended_after, end_clusters_of_process
from resources.emr.residency import check_residency
from resources.runs import OWNER_TAG, fail_killed_runs, process_tags
from resources.settings import Settings
from spark_jobs.errors import FruitsError
from spark_jobs.store.photos import list_photos
from spark_jobs.store.pointers import current_by_class, current_one
from spark_jobs.store.quarantine import bad_photos
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import (
    FEATURE_EXTRACTOR,
    FEATURE_QUALITY,
    FRUIT_PHOTOS,
    MOBILENET_FEATURES,
    PCA_FEATURES_CSV,
    PCA_MODEL,
    RAW_IMAGES,
)
from spark_jobs.store.tables import rows_by_class
from spark_jobs.wording import counted

# Dagster's tags for a run over a contiguous range of partitions.
_RANGE_START, _RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"

_INTERRUPTIONS = (KeyboardInterrupt.__name__, dg.DagsterExecutionInterruptedError.__name__)

# Progress, warnings and errors; not every event of every step.
_LOGGING = {"loggers": {"console": {"config": {"log_level": "INFO"}}}}

# Failed classes that a summary names.
_NAMED = 20

# The first and the last class of a contiguous range of partitions, in the order of registration.
ClassRange = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The figures of a run. Images, rows and files are the current ones of the classes of the run."""

    classes_done: int
    failed_classes: Mapping[str, str]  # class: reason
    images: int
    quarantined_images: int
    csv_rows: int
    csv_files: int
    csv_folder: str
    components: int | None
    explained_variance: float | None
    seconds: float

    @property
    def failed(self) -> bool:
        return bool(self.failed_classes)

    @property
    def lines(self) -> list[tuple[str, str]]:
        """The figures as (name, value) lines for a terminal."""
        failed = f", {len(self.failed_classes):,} failed" if self.failed else ""
        rows, files = counted(self.csv_rows, "row", "rows"), counted(self.csv_files, "file", "files")
        lines = [
            ("classes", f"{self.classes_done:,} done{failed}"),
            ("images", f"{self.images:,}, and {self.quarantined_images:,} in quarantine"),
            ("CSV", f"{rows} in {files} in {self.csv_folder}"),
        ]
        if self.components is not None:
            keep = counted(self.components, "component keeps", "components keep")
            lines.append(("PCA", f"{keep} {self.explained_variance:.1%} of the variance"))
        lines.append(("time", f"{self.seconds:,.1f} s"))
        failures = list(self.failed_classes.items())
        lines += [("failed", f"{label}: {reason}") for label, reason in failures[:_NAMED]]
        return lines


def run_pipeline(settings: Settings, labels: Sequence[str], pca_config: Mapping[str, Any]) -> Summary:
    """Runs everything for all classes, or projects the classes `labels` with the current model.

    A failed class keeps its last version, and the summary names it; the other classes finish. `pca_config`
    is the configuration of the asset `pca_model`, which does not run where `labels` has a class.

    Raises `FruitsError` where there are no photos, a class of `labels` has no photos or there is no model
    for it, and where an asset fails as a whole. Raises `KeyboardInterrupt` after SIGINT.
    """
    started = time.monotonic()
    owner = uuid.uuid4().hex
    with dg.DagsterInstance.get() as instance, clusters_ended_after(settings, owner):
        runs = _Runs(
            job=definitions_for(settings).resolve_implicit_global_asset_job_def(),
            instance=instance,
            tags={OWNER_TAG: owner, **process_tags()},
        )
        for killed in fail_killed_runs(instance):
            end_clusters_of_process(settings, killed)
        check_residency(settings)
        present = list(list_photos(settings.images).classes)
        runs.materialize([FRUIT_PHOTOS])
        store = open_root(settings.store)
        _check_classes(settings, store, labels, present)
        # A class whose photos are gone keeps its last version, which a new model projects too.
        wanted = set(labels) or {*present, *rows_by_class(store, RAW_IMAGES)}
        failed = _materialize(runs, store, wanted, None if labels else pca_config)
        return _summary(store, wanted, failed, time.monotonic() - started)


def _check_classes(settings: Settings, store: Root, labels: Sequence[str], present: Sequence[str]) -> None:
    """Raises `FruitsError` for a class of `--class` without photos, and for `--class` without a PCA model."""
    unknown = [label for label in labels if label not in present]
    if unknown:
        raise FruitsError(
            f"--class {unknown[0]!r}: FRUITS_IMAGES={settings.images} has no such class. Its classes are "
            + ", ".join(present[:10])
            + (", ..." if len(present) > 10 else "")
        )
    if labels and current_one(store, PCA_MODEL) is None:
        raise FruitsError(
            "--class needs a PCA model, and there is none yet. Run all classes first: fruits run"
        )


@dataclass(frozen=True, kw_only=True)
class _Runs:
    """Dagster runs of one `fruits run`: they share a job, an instance and tags."""

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
            tags={**self.tags, **({_RANGE_START: classes[0], _RANGE_END: classes[1]} if classes else {})},
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


def _materialize(
    runs: _Runs, store: Root, wanted: set[str], pca_config: Mapping[str, Any] | None
) -> dict[str, str]:
    """Materializes everything for the wanted classes; returns the failed classes with the reasons.

    Without `pca_config` the current model projects them. One Dagster run does everything, where the classes
    are one contiguous range of partitions and none fails. Otherwise each asset runs alone, once for each
    contiguous range, so that a failed class does not stop the others.
    """
    known = known_classes(runs.instance)
    config = None if pca_config is None else {"ops": {PCA_MODEL: {"config": dict(pca_config)}}}
    model = [] if pca_config is None else [PCA_MODEL, FEATURE_QUALITY]
    ranges = list(_contiguous_ranges(known, wanted))
    failed: dict[str, str] = {}
    if len(ranges) == 1:
        by_class = [RAW_IMAGES, FEATURE_EXTRACTOR, MOBILENET_FEATURES, PCA_FEATURES_CSV]
        failed = runs.materialize([*by_class, *model], ranges[0], config)
        if not failed:
            return {}
    else:
        for classes in ranges:
            failed |= runs.materialize([RAW_IMAGES, FEATURE_EXTRACTOR], classes)
    if failed.keys() == wanted:
        return failed
    # The last version of a failed class passes through the same extractor and model as the others.
    usable = wanted & rows_by_class(store, RAW_IMAGES).keys()
    for classes in _contiguous_ranges(known, usable):
        failed |= runs.materialize([MOBILENET_FEATURES], classes)
    if model:
        runs.materialize(model, config=config)
    for classes in _contiguous_ranges(known, usable):
        failed |= runs.materialize([PCA_FEATURES_CSV], classes)
    return failed


def _contiguous_ranges(known: Sequence[str], wanted: Set[str]) -> Iterator[ClassRange]:
    """The contiguous ranges of the wanted classes, in the order of registration."""
    for is_wanted, labels in groupby(known, key=wanted.__contains__):
        if is_wanted:
            classes = list(labels)
            yield classes[0], classes[-1]


def _summary(store: Root, wanted: set[str], failed: Mapping[str, str], seconds: float) -> Summary:
    images = rows_by_class(store, RAW_IMAGES)
    csvs = current_by_class(store, PCA_FEATURES_CSV, wanted)
    model = current_one(store, PCA_MODEL)
    return Summary(
        classes_done=len(wanted) - len(failed),
        failed_classes=failed,
        images=sum(images.get(label, 0) for label in wanted),
        quarantined_images=sum(bad_photos(store, wanted).values()),
        csv_rows=sum(version.rows for version in csvs.values()),
        csv_files=len(csvs),
        csv_folder=store.uri_of(PCA_FEATURES_CSV),
        components=model.details["components"] if model else None,
        explained_variance=model.details["explained_variance"] if model else None,
        seconds=round(seconds, 1),
    )
