"""What `fruits run` has to do to bring the store up to date. The plan reads little and changes nothing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from fruits_assets.assets.feature_extractor import extractor_version
from fruits_assets.photo_changes import PhotoChanges, photo_changes
from resources.photo_folders import Listing
from resources.settings import Settings
from spark_jobs import extract_features, project_to_csv
from spark_jobs.errors import FruitsError
from spark_jobs.extract_features import ExtractParams
from spark_jobs.project_to_csv import ProjectParams
from spark_jobs.store.classes import old_classes
from spark_jobs.store.photos import KnownPhotos, image_versions, known_photos
from spark_jobs.store.pointers import current_by_class, current_one
from spark_jobs.store.root import Root, concurrently
from spark_jobs.store.schemas import FEATURE_EXTRACTOR, MOBILENET_FEATURES, PCA_FEATURES_CSV, PCA_MODEL
from spark_jobs.store.tables import current
from spark_jobs.store.versions import Version, is_name
from spark_jobs.wording import counted, named


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """The work of a run over `classes`: the classes of each stage, and whether a model is fitted.

    The `idle` classes need nothing. `state` is that of the store when the plan was made.
    """

    classes: set[str]
    photos: PhotoChanges
    extract: set[str]
    project: set[str]
    fit: bool
    state: "StoreState"

    @property
    def to_do(self) -> set[str]:
        return {*self.photos.changed, *self.extract, *self.project}

    @property
    def is_empty(self) -> bool:
        return not (self.to_do or self.fit)

    @property
    def idle(self) -> set[str]:
        return self.classes - self.to_do - self.photos.failed.keys()

    @property
    def lines(self) -> Iterator[tuple[str, str]]:
        """What has changed, as (name, value) lines for a terminal."""
        changes = list(self.photos.changed.values())
        counts = {
            "new": sum(len(change.new) for change in changes),
            "changed": sum(len(change.changed) for change in changes),
            "to check again": sum(len(change.again) for change in changes),
            "gone": sum(len(change.gone) for change in changes),
        }
        photos = ", ".join(f"{number:,} {name}" for name, number in counts.items() if number)
        in_classes = f"in {counted(len(changes), 'class', 'classes')}"
        yield (
            "photos",
            f"{photos or 'files to write again'} {in_classes}" if changes else "nothing has changed",
        )
        behind = self.extract - self.photos.changed.keys()
        if behind:
            yield "features", f"{counted(len(behind), 'class', 'classes')} without current features"
        behind = self.project - self.extract - self.photos.changed.keys()
        if behind:
            yield "CSVs", f"{counted(len(behind), 'class', 'classes')} to project again"
        if self.fit:
            yield "PCA", "a new model is fitted, and projects all classes"


class StoreState(NamedTuple):
    """What is current in a store: photos, features and CSVs by class, the model and the extractor."""

    known: KnownPhotos
    features: Mapping[str, Version]
    csvs: Mapping[str, Version]
    model: Version | None
    extractor: Version | None
    old: set[str]  # classes of release 0.1 that are still to convert

    @property
    def images(self) -> dict[str, Version]:
        return image_versions(self.known)


def read_state(store: Root) -> StoreState:
    """Reads the state of all classes. It reads outputs at the same time, since S3 is slow and not busy."""
    reads: tuple[Callable[[], Any], ...] = (
        lambda: known_photos(store),
        lambda: current(store, MOBILENET_FEATURES),
        lambda: current_by_class(store, PCA_FEATURES_CSV),
        lambda: current_one(store, PCA_MODEL),
        lambda: current_one(store, FEATURE_EXTRACTOR),
        lambda: old_classes(store),
    )
    return StoreState(*concurrently(lambda read: read(), reads))


def plan_run(
    settings: Settings,
    store: Root,
    state: StoreState,
    listing: Listing,
    labels: Sequence[str],
    *,
    fit: bool,
    recompute: bool,
    accept_removals: bool,
) -> RunPlan:
    """Compares photos and store for the given classes, or for all. `fit` asks for a new model.

    Raises `FruitsError` for a class that neither photos nor store have, and for classes without a model to
    project them.
    """
    model, extractor, images = state.model, state.extractor, state.images
    _check_classes(settings, labels, sorted({*listing.classes, *images}), model)
    classes = set(labels) or {*listing.classes, *filter(is_name, images), *state.old}
    photos = photo_changes(
        settings,
        store,
        listing,
        classes,
        state.known,
        recompute=recompute,
        accept_removals=accept_removals,
    )
    fit = fit or model is None
    usable = classes & images.keys()
    extract = set(usable)
    if extractor and extractor.data_version == extractor_version(settings.weights):
        params = ExtractParams(
            store=settings.store,
            version="",
            classes=sorted(usable),
            extractor_directory=extractor.directory,
            extractor_sha256=extractor.details["ir_sha256"],
            extractor_version=extractor.data_version,
            keep_hours=settings.keep_hours,
            scaled=settings.decodes_scaled,
            recompute=recompute,
        )
        extract -= extract_features.up_to_date(params, images, state.features).keys()
    project = {*usable, *state.features} if fit else set(usable)
    if model and not fit:
        params_of_csvs = ProjectParams(
            store=settings.store,
            version="",
            classes=sorted(usable),
            model_directory=model.directory,
            model_version=model.data_version,
            keep_hours=settings.keep_hours,
            recompute=recompute,
        )
        project -= project_to_csv.up_to_date(store, params_of_csvs, state.features, state.csvs).keys()
    return RunPlan(classes=classes, photos=photos, extract=extract, project=project, fit=fit, state=state)


def _check_classes(
    settings: Settings, labels: Sequence[str], present: Sequence[str], model: Version | None
) -> None:
    """Raises `FruitsError` for a class that is not `present`, and for classes without a PCA model."""
    unknown = [label for label in labels if label not in present]
    if unknown:
        raise FruitsError(
            f"There is no class {unknown[0]!r}, neither under FRUITS_IMAGES={settings.images} nor in the "
            f"store. There are {named(present, 10) or 'none'}"
        )
    if labels and model is None:
        raise FruitsError(
            "Single classes need a PCA model, and there is none yet. Run all classes first: fruits run"
        )
