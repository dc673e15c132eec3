"""`fruits run`: observes the photos, then materializes every asset for every class, in one process."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

from fruits_assets.dagster_runs import Runs, dagster_runs
from fruits_assets.free_space import check_free_space, full_disk_explained
from resources.emr.residency import check_residency
from resources.settings import Settings
from spark_jobs.errors import FruitsError
from spark_jobs.store.classes import old_classes
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

# Classes that a summary names, of those that failed and of those without photos.
_NAMED = 20


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The figures of a run. Images, rows and files are the current ones of the classes of the run."""

    classes_done: int
    failed_classes: Mapping[str, str]  # class: reason
    classes_without_photos: Sequence[str]
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
        lines += [
            ("no photos", f"{label}: its last version stays. To take it out: fruits forget {quote(label)}")
            for label in self.classes_without_photos[:_NAMED]
        ]
        failures = list(self.failed_classes.items())
        lines += [("failed", f"{label}: {reason}") for label, reason in failures[:_NAMED]]
        return lines


def run_pipeline(settings: Settings, labels: Sequence[str], pca_config: Mapping[str, Any]) -> Summary:
    """Runs everything for all classes, or projects the classes `labels` with the current model.

    A failed class keeps its last version, and the summary names it; the other classes finish. `pca_config`
    is the configuration of the asset `pca_model`, which does not run where `labels` has a class.

    Raises `FruitsError` where there are no photos, a class of `labels` has no photos or there is no model
    for it, where an asset fails as a whole, and where a disk is full. Raises `KeyboardInterrupt` after
    SIGINT.
    """
    started = time.monotonic()
    with full_disk_explained(settings), dagster_runs(settings) as runs:
        check_residency(settings)
        listed = list_photos(settings.images).classes
        check_free_space(settings, {label: listed.get(label, []) for label in labels or listed})
        present = list(listed)
        runs.materialize([FRUIT_PHOTOS])
        store = open_root(settings.store)
        _check_classes(settings, store, labels, present)
        # A class whose photos are gone keeps its last version, which a new model projects too.
        wanted = set(labels) or {*present, *rows_by_class(store, RAW_IMAGES), *old_classes(store)}
        failed = _materialize(runs, store, wanted, None if labels else pca_config)
        without_photos = sorted(wanted.difference(present, failed))
        return _summary(store, wanted, failed, without_photos, time.monotonic() - started)


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


def _materialize(
    runs: Runs, store: Root, wanted: set[str], pca_config: Mapping[str, Any] | None
) -> dict[str, str]:
    """Materializes everything for the wanted classes; returns the failed classes with the reasons.

    Without `pca_config` the current model projects them. One Dagster run does everything, where the classes
    are one contiguous range of partitions and none fails. Otherwise each asset runs alone, once for each
    contiguous range, so that a failed class does not stop the others.
    """
    config = None if pca_config is None else {"ops": {PCA_MODEL: {"config": dict(pca_config)}}}
    model = [] if pca_config is None else [PCA_MODEL, FEATURE_QUALITY]
    ranges = runs.ranges(wanted)
    failed: dict[str, str] = {}
    projected: set[str] = set()
    if len(ranges) == 1:
        by_class = [RAW_IMAGES, FEATURE_EXTRACTOR, MOBILENET_FEATURES, PCA_FEATURES_CSV]
        failed = runs.materialize([*by_class, *model], ranges[0], config)
        projected = set() if failed else wanted
    else:
        for classes in ranges:
            failed |= runs.materialize([RAW_IMAGES, FEATURE_EXTRACTOR], classes)
    if failed.keys() == wanted:
        return failed
    # The last version of a failed class passes through the same extractor and model as the others.
    usable = wanted & rows_by_class(store, RAW_IMAGES).keys()
    if not projected:
        failed |= runs.materialize_classes([MOBILENET_FEATURES], usable)
        if model:
            runs.materialize(model, config=config)
    # The new model projects every class of the store, also one that another machine has just added.
    to_project = usable | rows_by_class(store, MOBILENET_FEATURES).keys() if model else usable
    return failed | runs.materialize_classes([PCA_FEATURES_CSV], to_project - projected)


def _summary(
    store: Root, wanted: set[str], failed: Mapping[str, str], without_photos: list[str], seconds: float
) -> Summary:
    images = rows_by_class(store, RAW_IMAGES)
    csvs = current_by_class(store, PCA_FEATURES_CSV, wanted)
    model = current_one(store, PCA_MODEL)
    return Summary(
        classes_done=len(wanted - failed.keys()),
        failed_classes=failed,
        classes_without_photos=without_photos,
        images=sum(images.get(label, 0) for label in wanted),
        quarantined_images=sum(bad_photos(store, wanted).values()),
        csv_rows=sum(version.rows for version in csvs.values()),
        csv_files=len(csvs),
        csv_folder=store.uri_of(PCA_FEATURES_CSV),
        components=model.details["components"] if model else None,
        explained_variance=model.details["explained_variance"] if model else None,
        seconds=round(seconds, 1),
    )
