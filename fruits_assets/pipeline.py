"""`fruits run`: brings every asset up to date with the photos, in one process, and does no more."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from shlex import quote
from typing import Any

from fruits_assets.all_assets import UpToDateConfig, unknown_to_dagster
from fruits_assets.costs.plan import expected_seconds
from fruits_assets.costs.run_records import read_records
from fruits_assets.dagster_runs import FailedCheck, Runs, dagster_runs
from fruits_assets.disk_errors import disk_errors_explained
from fruits_assets.free_space import check_free_space
from fruits_assets.run_plan import RunPlan, plan_run, read_state
from fruits_assets.store_checks import FITTED_ON_CURRENT_FEATURES
from resources.emr.residency import check_residency
from resources.photo_folders import PhotoFolders
from resources.photo_names import label_of
from resources.settings import Settings
from spark_jobs.errors import FruitsError
from spark_jobs.since_fit import since_fit
from spark_jobs.store.pointers import current_by_class, current_one
from spark_jobs.store.quarantine import bad_photos, commonest_reasons
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import (
    MOBILENET_FEATURES,
    PCA_FEATURES_CSV,
    PCA_MODEL,
    RAW_IMAGES,
)
from spark_jobs.store.tables import rows_by_class
from spark_jobs.store.versions import Version
from spark_jobs.wording import counted

# Classes that a summary names: of those that failed or have no photos, and of those with bad photos.
_NAMED, _NAMED_BAD = 20, 5


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The figures of a run. Images, rows and files are the current ones of the classes of the run."""

    changes: Sequence[tuple[str, str]]  # what has changed, as (name, value) lines
    classes_done: int
    failed_classes: Mapping[str, str]  # class: reason
    failed_checks: Sequence[FailedCheck]
    classes_without_photos: Sequence[str]
    images: int
    quarantined_images: int
    quarantine_reasons: Mapping[str, str]  # class: its commonest reasons, of the classes with most bad photos
    csv_rows: int
    csv_files: int
    csv_folder: str
    components: int | None
    explained_variance: float | None
    since_fit: str  # what has come since the model was fitted; empty for a new model
    seconds: float

    @property
    def failed(self) -> bool:
        return bool(self.failed_classes) or any(check.is_error for check in self.failed_checks)

    @property
    def lines(self) -> list[tuple[str, str]]:
        """The figures as (name, value) lines for a terminal."""
        failed = f", {len(self.failed_classes):,} failed" if self.failed_classes else ""
        return [
            *self.changes,
            ("classes", f"{self.classes_done:,} done{failed}"),
            *self._in_store,
            ("time", f"{self.seconds:,.1f} s"),
            *self._to_look_at,
        ]

    @property
    def lines_without_run(self) -> list[tuple[str, str]]:
        """The lines where nothing was run: the changes, the figures of the store, and the failures."""
        return [*self.changes, *self._in_store, *self._to_look_at]

    @property
    def _in_store(self) -> list[tuple[str, str]]:
        rows, files = counted(self.csv_rows, "row", "rows"), counted(self.csv_files, "file", "files")
        lines = [
            ("images", f"{self.images:,}, and {self.quarantined_images:,} in quarantine"),
            ("CSV", f"{rows} in {files} in {self.csv_folder}"),
        ]
        if self.components is not None:
            keep = counted(self.components, "component keeps", "components keep")
            lines.append(("PCA", f"{keep} {self.explained_variance:.1%} of the variance"))
        if self.since_fit:
            lines.append(("model", self.since_fit))
        return lines

    @property
    def _to_look_at(self) -> list[tuple[str, str]]:
        without_photos = [
            ("no photos", f"{label}: its last version stays. To take it out: fruits forget {quote(label)}")
            for label in self.classes_without_photos[:_NAMED]
        ]
        bad = [("quarantine", f"{label}: {reasons}") for label, reasons in self.quarantine_reasons.items()]
        checks = [
            ("check", f"{check.check} {'failed' if check.is_error else 'warns'}: {check.reason}")
            for check in self.failed_checks
            if not (self.since_fit and check.check.endswith(FITTED_ON_CURRENT_FEATURES))
        ]
        return [*without_photos, *bad, *checks, *_failures(self.failed_classes)]


def _failures(classes: Mapping[str, str]) -> list[tuple[str, str]]:
    """The failed classes as (name, value) lines for a terminal."""
    lines = [("failed", f"{label}: {reason}") for label, reason in list(classes.items())[:_NAMED]]
    more = len(classes) - _NAMED
    return [*lines, *([("failed", f"{more:,} more classes: see Dagster's UI")] if more > 0 else [])]


def run_pipeline(
    settings: Settings,
    labels: Sequence[str],
    pca_config: Mapping[str, Any],
    *,
    refit: bool = False,
    recompute: bool = False,
    accept_removals: bool = False,
    dry_run: bool = False,
) -> Summary:
    """Brings all classes, or the classes `labels`, up to date.

    Without a model, with `refit`, or with `pca_config`, the configuration of the asset `pca_model`, it fits a
    model on all classes; by default with as many components as the current model. With `recompute`,
    everything else is computed again. `accept_removals` lets most photos of a class go. With `dry_run`, it
    only tells what there is to do. A failed class keeps its last version, and the summary names it; the
    other classes finish.

    Raises `FruitsError` where there are no photos, a class of `labels` has no photos or there is no model
    for it, where an asset fails as a whole, and where a disk is full, fails, refuses or was unmounted. Raises
    `KeyboardInterrupt` after SIGINT.
    """
    started = time.monotonic()
    labels = [label_of(label) for label in labels]
    with disk_errors_explained(settings):
        check_residency(settings)
        photos = PhotoFolders(settings)
        store = open_root(settings.store)
        # Dagster takes a second to open, and S3 as long to list and to read.
        photos.begin()
        with ThreadPoolExecutor(1) as pool:
            state = pool.submit(read_state, store)
            with nullcontext() if dry_run else dagster_runs(settings, photos) as runs:
                plan = plan_run(
                    settings,
                    store,
                    state.result(),
                    photos.listing,
                    labels,
                    fit=refit or bool(pca_config),
                    recompute=recompute,
                    accept_removals=accept_removals,
                )
                model = plan.state.model
                changes, failed = list(plan.lines), dict(plan.photos.failed)
                if runs is None:
                    changes.append(("would take", _estimate(settings, store, plan)))
                else:
                    config = UpToDateConfig(
                        classes=labels,
                        refit=refit,
                        recompute=recompute,
                        accept_removals=accept_removals,
                        **pca_config,
                    )
                    with _failures_told(runs, failed):
                        failed |= _bring_up_to_date(settings, runs, plan, config)
                csvs = plan.state.csvs if plan.is_empty else current_by_class(store, PCA_FEATURES_CSV)
                if runs is not None:
                    failed |= _lost(store, csvs, plan.classes.difference(failed))
                since = "" if plan.fit or model is None else _since_fit(runs, store, plan, model)
        without_photos = sorted(plan.classes.difference(photos.listing.classes, failed))
        checks = runs.failed_checks if runs else []
        seconds = time.monotonic() - started
        return _summary(store, plan, csvs, changes, failed, checks, without_photos, since, seconds)


@contextmanager
def _failures_told(runs: Runs, failed: Mapping[str, str]) -> Iterator[None]:
    """Adds the classes that have failed to an error that ends a run, which else would not tell them."""
    try:
        yield
    except FruitsError as error:
        before = [f"{name}  {value}" for name, value in _failures({**failed, **runs.failed_classes})]
        raise FruitsError("\n".join([str(error), *before]), retry_helps=error.retry_helps) from error


def _bring_up_to_date(
    settings: Settings, runs: Runs, plan: RunPlan, config: UpToDateConfig
) -> dict[str, str]:
    """Carries out the plan; returns the failed classes with the reasons."""
    if plan.is_empty and not unknown_to_dagster(runs.instance, plan.state) & plan.classes:
        return {}
    check_free_space(settings, {label: change.to_read for label, change in plan.photos.changed.items()})
    return runs.bring_up_to_date(config, plan)


def _lost(store: Root, csvs: Mapping[str, Version], done: Iterable[str]) -> dict[str, str]:
    """The classes that were done, and whose CSV is not in the store at the end of the run."""
    reason = (
        f"{store.uri} does not have its CSV. Was the folder removed, or its disk? Put it back, and run again"
    )
    return {label: reason for label in sorted(done) if label not in csvs}


def _since_fit(runs: Runs | None, store: Root, plan: RunPlan, model: Version) -> str:
    """The sentence about images that came after a model: that of the check of a run, if there was a run."""
    told = runs.evaluation(PCA_MODEL, FITTED_ON_CURRENT_FEATURES) if runs else None
    return (told.description or "") if told else since_fit(store, model, plan.state.features).sentence


def _estimate(settings: Settings, store: Root, plan: RunPlan) -> str:
    """What the work of a plan would take, by the rates of earlier runs."""
    if plan.is_empty:
        return "nothing"
    photos = [photo for change in plan.photos.changed.values() for photo in change.to_read]
    rows = {label: version.rows for label, version in plan.state.images.items()}
    behind = plan.extract - plan.photos.changed.keys()
    images = {
        RAW_IMAGES: len(photos),
        MOBILENET_FEATURES: len(photos) + sum(rows[label] for label in behind),
        PCA_MODEL: len(photos) + sum(rows.values()) if plan.fit else 0,
        PCA_FEATURES_CSV: len(photos),
    }
    seconds = expected_seconds(settings, read_records(store)[0], images)
    size = sum(photo.bytes for photo in photos) / 1e6
    return (
        f"about {seconds:,.0f} s, to read {size:,.1f} MB and compute {images[MOBILENET_FEATURES]:,} features"
    )


def _summary(
    store: Root,
    plan: RunPlan,
    csvs: Mapping[str, Version],
    changes: list[tuple[str, str]],
    failed: Mapping[str, str],
    checks: Sequence[FailedCheck],
    without_photos: list[str],
    since: str,
    seconds: float,
) -> Summary:
    wanted = plan.classes
    rows = {label: version.rows for label, version in plan.state.images.items()}
    images = rows if plan.is_empty else rows_by_class(store, RAW_IMAGES)
    csvs = {label: version for label, version in csvs.items() if label in wanted}
    model = current_one(store, PCA_MODEL) if plan.fit else plan.state.model
    bad = bad_photos(store, wanted)
    worst = sorted(bad.keys() - failed.keys(), key=lambda label: (-bad[label], label))[:_NAMED_BAD]
    return Summary(
        changes=changes,
        classes_done=len(wanted - failed.keys()),
        failed_classes=failed,
        failed_checks=checks,
        classes_without_photos=without_photos,
        images=sum(images.get(label, 0) for label in wanted),
        quarantined_images=sum(bad.values()),
        quarantine_reasons=commonest_reasons(store, worst),
        csv_rows=sum(version.rows for version in csvs.values()),
        csv_files=len(csvs),
        csv_folder=store.uri_of(PCA_FEATURES_CSV),
        components=model.details["components"] if model else None,
        explained_variance=model.details["explained_variance"] if model else None,
        since_fit=since,
        seconds=round(seconds, 1),
    )
