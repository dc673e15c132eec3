"""The main job: observe the photos, then materialize every asset for every class, in one process."""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import dagster as dg

from fruits_assets.by_class import FAILED_CLASSES
from fruits_assets.definitions import definitions_for
from fruits_assets.partitions import known_classes
from resources.emr.lifecycle import clusters_ended_after, end_clusters_of_process
from resources.emr.residency import check_residency
from resources.runs import OWNER_TAG, is_over, machine_tags, owner_of, process_tags
from resources.settings import Settings
from spark_jobs.errors import FruitsError
from spark_jobs.store.photos import list_photos
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import (
    FEATURE_EXTRACTOR,
    FEATURE_QUALITY,
    FRUIT_PHOTOS,
    MOBILENET_FEATURES,
    PCA_FEATURES_CSV,
    PCA_MODEL,
    QUARANTINED_IMAGES,
    RAW_IMAGES,
)
from spark_jobs.store.tables import Pointer, current, current_one

# Dagster's tags of a run over a range of partitions.
_RANGE_START, _RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"

_INTERRUPTIONS = (KeyboardInterrupt.__name__, dg.DagsterExecutionInterruptedError.__name__)

# Progress, warnings and errors; not every event of every step.
_LOGGING = {"loggers": {"console": {"config": {"log_level": "INFO"}}}}


@dataclass(frozen=True)
class Summary:
    """What a run did, as (name, value) lines for a person, and whether any of it failed."""

    lines: list[tuple[str, str]]
    failed: bool


def run_pipeline(settings: Settings, labels: Sequence[str], pca_config: dict[str, Any]) -> Summary:
    """Runs everything for every class, or for the given ones with the current model.

    A class that fails is left out and named; the others are finished. Raises `FruitsError` where
    there is nothing to run.
    """
    started = time.monotonic()
    job = definitions_for(settings).resolve_implicit_global_asset_job_def()
    tags = {OWNER_TAG: uuid.uuid4().hex, **process_tags()}
    with dg.DagsterInstance.get() as instance, clusters_ended_after(settings, tags[OWNER_TAG]):
        execute = partial(_execute, job, instance, tags)
        _end_dead_runs(instance, settings)
        check_residency(settings)
        present = list(list_photos(settings.images).classes)
        execute([FRUIT_PHOTOS], None)
        unknown = [label for label in labels if label not in present]
        if unknown:
            raise FruitsError(
                f"--class {unknown[0]!r}: FRUITS_IMAGES={settings.images} has no such class. It has "
                + ", ".join(present[:10])
                + (", ..." if len(present) > 10 else "")
            )
        store = open_root(settings.store)
        if labels and current_one(store, PCA_MODEL) is None:
            raise FruitsError(
                "--class needs a PCA model, and there is none yet. Run all classes first: fruits run"
            )
        # Classes whose photos are gone stay part of the whole, with their last version.
        wanted = set(labels) or {*present, *current(store, RAW_IMAGES, known_classes(instance))}
        failed = _materialize(execute, instance, store, wanted, pca_config, refit=not labels)
        return _summary(store, wanted, failed, time.monotonic() - started)


def _end_dead_runs(instance: dg.DagsterInstance, settings: Settings) -> None:
    """Marks as failed the runs of `fruits run` whose process on this machine died without a word.

    Else they would stand as running for ever, and so would their steps; a cluster of theirs is terminated.
    """
    started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED], tags=machine_tags())
    dead = [run for run in instance.get_runs(started) if is_over(run)]
    for run in dead:
        instance.report_run_failed(run, "Its process ended without a word: it was killed.")
    for owner in {owner_of(run) for run in dead}:
        end_clusters_of_process(settings, owner)


def _materialize(
    execute: Callable[..., dict[str, str]],
    instance: dg.DagsterInstance,
    store: Root,
    wanted: set[str],
    pca_config: Mapping[str, Any],
    refit: bool,
) -> dict[str, str]:
    """Materializes everything for the wanted classes; returns those that failed, with the reason.

    One run, where Dagster can name the classes as one range of partitions and none fails. Otherwise
    asset by asset, one run for each stretch of neighbours, so that one bad class stops no other.
    """
    known = known_classes(instance)
    run_config = {"ops": {PCA_MODEL: {"config": dict(pca_config)}}} if refit else {}
    refitted = [PCA_MODEL, FEATURE_QUALITY] if refit else []
    stretches = list(_stretches(known, wanted))
    failed: dict[str, str] = {}
    if len(stretches) == 1:
        per_class = [RAW_IMAGES, FEATURE_EXTRACTOR, MOBILENET_FEATURES, PCA_FEATURES_CSV]
        failed = execute([*per_class, *refitted], stretches[0], run_config)
        if not failed:
            return {}
    else:
        for stretch in stretches:
            failed |= execute([RAW_IMAGES, FEATURE_EXTRACTOR], stretch)
    if failed.keys() == wanted:
        return failed
    # A class that failed keeps its last version, and that goes through the same extractor and model.
    usable = wanted & current(store, RAW_IMAGES).keys()
    for stretch in _stretches(known, usable):
        failed |= execute([MOBILENET_FEATURES], stretch)
    if refitted:
        execute(refitted, None, run_config)
    for stretch in _stretches(known, usable):
        failed |= execute([PCA_FEATURES_CSV], stretch)
    return failed


def _stretches(known: Sequence[str], wanted: Set[str]) -> Iterator[tuple[str, str]]:
    """First and last class of every run of wanted neighbours, in the order of registration."""
    for is_wanted, labels in groupby(known, key=wanted.__contains__):
        if is_wanted:
            stretch = list(labels)
            yield stretch[0], stretch[-1]


def _execute(
    job: dg.JobDefinition,
    instance: dg.DagsterInstance,
    tags: Mapping[str, str],
    assets: Sequence[str],
    stretch: tuple[str, str] | None,
    run_config: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """One Dagster run of some assets over a stretch of classes; the classes that failed in it.

    Raises `KeyboardInterrupt` where it was interrupted, which Dagster takes for a failure.
    """
    classes_of = {} if stretch is None else dict(zip((_RANGE_START, _RANGE_END), stretch, strict=True))
    result = job.execute_in_process(
        run_config={**_LOGGING, **(run_config or {})},
        instance=instance,
        asset_selection=[dg.AssetKey(name) for name in assets],
        tags={**tags, **classes_of},
        raise_on_error=False,
    )
    failed: dict[str, str] = {}
    for event in result.filter_events(lambda event: event.is_step_failure):
        error, cause = event.step_failure_data.error, event.step_failure_data.user_failure_data
        classes: Any = cause.metadata.get(FAILED_CLASSES) if cause else None
        if error and error.cls_name in _INTERRUPTIONS:
            raise KeyboardInterrupt
        if classes is None:
            if error and error.cause and error.cls_name == dg.DagsterExecutionStepExecutionError.__name__:
                error = error.cause
            words = (cause.description if cause else error and error.message) or "no message"
            raise FruitsError(f"{event.step_key} failed: {words.strip()}")
        failed |= classes.value
    if not result.success and not failed:
        raise FruitsError(
            f"the run {result.run_id} failed outside its assets; Dagster's UI shows why: make ui"
        )
    return failed


def _summary(store: Root, wanted: set[str], failed: Mapping[str, str], seconds: float) -> Summary:
    images, csvs, bad = (
        current(store, table, wanted) for table in (RAW_IMAGES, PCA_FEATURES_CSV, QUARANTINED_IMAGES)
    )
    lines = [
        ("classes", f"{len(wanted) - len(failed):,} done" + (f", {len(failed):,} failed" if failed else "")),
        ("images", f"{_rows(images):,}, and {_rows(bad):,} in quarantine"),
        ("CSV", f"{_rows(csvs):,} rows in {len(csvs):,} files in {store.uri_of(PCA_FEATURES_CSV)}"),
    ]
    model = current_one(store, PCA_MODEL)
    if model:
        kept, k = model.details["explained_variance"], model.details["components"]
        lines.append(("PCA", f"{k} components keep {kept:.1%} of the variance"))
    lines.append(("time", f"{seconds:,.1f} s"))
    lines += [("failed", f"{label}: {reason}") for label, reason in list(failed.items())[:20]]
    return Summary(lines, bool(failed))


def _rows(pointers: Mapping[str, Pointer]) -> int:
    return sum(pointer.rows for pointer in pointers.values())
