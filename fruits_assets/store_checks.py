"""Checks of the store: whether each output was made from the current versions of its inputs.

Not only the asset of such a check can change its result: new images leave features behind, and a new model
leaves CSVs behind. So whatever changes the store evaluates all of them.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import dagster as dg

from fruits_assets.class_checks import check_classes
from fruits_assets.figures import percent
from fruits_assets.provenance import DATA_VERSION, last_observations, versions_by_class
from resources.settings import Settings
from spark_jobs.extract_features import made_with
from spark_jobs.since_fit import SinceFit, since_fit
from spark_jobs.store.classes import current_versions
from spark_jobs.store.pointers import current_one
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import (
    FEATURE_EXTRACTOR,
    FRUIT_PHOTOS,
    MOBILENET_FEATURES,
    PCA_FEATURES_CSV,
    PCA_MODEL,
    RAW_IMAGES,
)
from spark_jobs.store.versions import Version, classes_behind
from spark_jobs.wording import counted, named

ONE_FEATURE_PER_IMAGE = "one_feature_per_image"
ONE_ROW_PER_FEATURE = "one_row_per_feature"
ONE_MODEL = "one_model"
FITTED_ON_CURRENT_FEATURES = "fitted_on_current_features"
DESCRIBES_NEW_IMAGES = "describes_new_images"
CSVS_FOLLOW_PHOTOS = "csvs_follow_photos"

# A warning names this many classes.
_NAMED = 5

_SPECS = [
    dg.AssetCheckSpec(
        ONE_FEATURE_PER_IMAGE,
        asset=MOBILENET_FEATURES,
        additional_deps=[RAW_IMAGES],
        description="Every class has features for each of its current photos, made by the current extractor.",
    ),
    dg.AssetCheckSpec(
        ONE_ROW_PER_FEATURE,
        asset=PCA_FEATURES_CSV,
        additional_deps=[MOBILENET_FEATURES],
        description="The CSV of every class has one row for each photo with features.",
    ),
    dg.AssetCheckSpec(
        ONE_MODEL,
        asset=PCA_FEATURES_CSV,
        additional_deps=[PCA_MODEL],
        description="The current model projected all classes.",
    ),
    dg.AssetCheckSpec(
        FITTED_ON_CURRENT_FEATURES,
        asset=PCA_MODEL,
        additional_deps=[MOBILENET_FEATURES],
        description=(
            "The model was fitted on the current features. Else it tells what has come since. Dagster's own "
            "staleness ignores inputs with 100 or more partitions; this check does not."
        ),
    ),
    dg.AssetCheckSpec(
        DESCRIBES_NEW_IMAGES,
        asset=PCA_MODEL,
        additional_deps=[MOBILENET_FEATURES],
        description=(
            "Of the variance of the images that came since the fit, the model keeps at most "
            "FRUITS_MAX_DRIFT less than of the images that it was fitted on. Else it is time to refit it."
        ),
    ),
    dg.AssetCheckSpec(
        CSVS_FOLLOW_PHOTOS,
        asset=PCA_FEATURES_CSV,
        additional_deps=[MOBILENET_FEATURES],
        description=(
            "The CSV of every class has the photos that were there FRUITS_LATE_HOURS ago. Dagster's own "
            "freshness looks at an asset's last materialization, not at each partition."
        ),
    ),
]


class _Store:
    """The versions that the checks compare. Each table is read when a check needs it first."""

    def __init__(self, instance: dg.DagsterInstance, settings: Settings) -> None:
        self.instance, self.settings = instance, settings
        self.root = open_root(settings.store)
        self._tables: dict[str, Mapping[str, Version]] = {}
        self._since: SinceFit | None = None

    def table(self, name: str) -> Mapping[str, Version]:
        if name not in self._tables:
            self._tables[name] = current_versions(self.root, name)
        return self._tables[name]

    @property
    def since(self) -> SinceFit | None:
        """What has come since the fit; None if there is no model."""
        model = current_one(self.root, PCA_MODEL)
        if self._since is None and model is not None:
            self._since = since_fit(self.root, model, self.table(MOBILENET_FEATURES))
        return self._since


def _one_feature_per_image(store: _Store) -> dg.AssetCheckResult:
    features, extractor = store.table(MOBILENET_FEATURES), current_one(store.root, FEATURE_EXTRACTOR)
    inputs = made_with(extractor.data_version, store.settings.decodes_scaled) if extractor else {}
    behind = classes_behind(features, store.table(RAW_IMAGES), source=RAW_IMAGES, other_inputs=inputs)
    return check_classes(
        ONE_FEATURE_PER_IMAGE,
        behind,
        warning=_behind(behind, "features are", "the images or the extractor"),
        features=sum(version.rows for version in features.values()),
    )


def _one_row_per_feature(store: _Store) -> dg.AssetCheckResult:
    features, csvs = store.table(MOBILENET_FEATURES), store.table(PCA_FEATURES_CSV)
    behind = classes_behind(csvs, features, source=MOBILENET_FEATURES)
    return check_classes(
        ONE_ROW_PER_FEATURE,
        behind,
        warning=_behind(behind, "CSVs are", "the features"),
        rows=sum(version.rows for version in csvs.values()),
    )


def _behind(labels: list[str], result: str, source: str) -> str:
    """A warning, not an error: another run may be at work on these classes."""
    classes, some = counted(len(labels), "class", "classes"), named(labels, _NAMED)
    return f"In {classes}, {result} older than {source}: {some}. To bring them up to date: fruits run"


def _one_model(store: _Store) -> dg.AssetCheckResult:
    model = current_one(store.root, PCA_MODEL)
    version = model.data_version if model else ""
    csvs = store.table(PCA_FEATURES_CSV)
    older = [label for label, csv in csvs.items() if csv.inputs.get(PCA_MODEL) != version]
    return check_classes(
        ONE_MODEL,
        older,
        warning=(
            f"An older model projected {len(older)} classes. Do not compare their components "
            "with the components of the other classes. To project them again: fruits run"
        ),
        pca_model=version,
    )


def _fitted_on_current_features(store: _Store) -> dg.AssetCheckResult:
    since = store.since
    return dg.AssetCheckResult(
        check_name=FITTED_ON_CURRENT_FEATURES,
        passed=since is not None and since.is_current,
        severity=dg.AssetCheckSeverity.WARN,
        description="There is no model yet." if since is None else since.sentence or None,
        metadata=_figures(since),
    )


def _describes_new_images(store: _Store) -> dg.AssetCheckResult:
    since, most = store.since, store.settings.max_drift
    lost = 0.0 if since is None or since.kept_variance is None else since.kept_at_fit - since.kept_variance
    return dg.AssetCheckResult(
        check_name=DESCRIBES_NEW_IMAGES,
        passed=lost <= most,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"It is time for a new model: {since.sentence}" if since and lost > most else None,
        metadata={"lost_percent": percent(lost), "allowed_percent": percent(most), **_figures(since)},
    )


def _csvs_follow_photos(store: _Store) -> dg.AssetCheckResult:
    hours = store.settings.late_hours
    before = datetime.now(UTC) - timedelta(hours=hours)
    late = {label: seen for label, seen in _changed_at(store).items() if seen < before}
    return check_classes(
        CSVS_FOLLOW_PHOTOS,
        {label: f"changed at {seen:%Y-%m-%d %H:%M} UTC" for label, seen in late.items()},
        warning=f"The CSVs of {counted(len(late), 'class', 'classes')} are late: their photos changed more "
        f"than {hours:g} hours ago. To bring them up to date: fruits run",
    )


def _changed_at(store: _Store) -> dict[str, datetime]:
    """When the photos of each class changed whose CSV does not follow them."""
    storage, photos = store.instance.event_log_storage, dg.AssetKey(FRUIT_PHOTOS)
    observation, materialization = (
        dg.DagsterEventType.ASSET_OBSERVATION,
        dg.DagsterEventType.ASSET_MATERIALIZATION,
    )
    versions = versions_by_class(store.instance, photos, observation)
    observed = storage.get_latest_storage_id_by_partition(photos, observation)
    ingested = storage.get_latest_storage_id_by_partition(dg.AssetKey(RAW_IMAGES), materialization)

    newer = {label: ingested.get(label, 0) for label in versions if observed[label] > ingested.get(label, 0)}
    # Photos may have changed back to those that were ingested.
    at_ingest = last_observations(store.instance, photos, newer)

    images, features, csvs = map(store.table, (RAW_IMAGES, MOBILENET_FEATURES, PCA_FEATURES_CSV))
    behind = {
        *(label for label in newer if _observed_version(at_ingest.get(label)) != versions[label]),
        *classes_behind(features, images, source=RAW_IMAGES),
        *classes_behind(csvs, features, source=MOBILENET_FEATURES),
    }
    late = {label: observed[label] + 1 for label in behind & observed.keys()}
    last = last_observations(store.instance, photos, late)
    return {label: datetime.fromtimestamp(record.timestamp, UTC) for label, record in last.items()}


def _observed_version(record: dg.EventLogRecord | None) -> str | None:
    """The data version of an observation."""
    event = record.asset_observation if record else None
    return (event.tags or {}).get(DATA_VERSION) if event else None


def _figures(since: SinceFit | None) -> dict[str, float]:
    """Counts as they are, and shares of the variance in percent."""
    figures = {}
    for name, value in asdict(since).items() if since else ():
        if isinstance(value, float):
            figures[f"{name}_percent"] = percent(value)
        elif value is not None:
            figures[name] = value
    return figures


_EVALUATE: Mapping[str, Callable[[_Store], dg.AssetCheckResult]] = {
    ONE_FEATURE_PER_IMAGE: _one_feature_per_image,
    ONE_ROW_PER_FEATURE: _one_row_per_feature,
    ONE_MODEL: _one_model,
    FITTED_ON_CURRENT_FEATURES: _fitted_on_current_features,
    DESCRIBES_NEW_IMAGES: _describes_new_images,
    CSVS_FOLLOW_PHOTOS: _csvs_follow_photos,
}


def evaluate(
    instance: dg.DagsterInstance, settings: Settings, names: Collection[str] = _EVALUATE.keys()
) -> Iterator[dg.AssetCheckResult]:
    """Evaluates the checks of these names on what is current in the store."""
    store = _Store(instance, settings)
    for spec in _SPECS:
        if spec.name in names:
            yield _EVALUATE[spec.name](store)._replace(asset_key=spec.asset_key)


@dg.multi_asset_check(name="store_checks", specs=_SPECS, can_subset=True)
def store_checks(
    context: dg.AssetCheckExecutionContext, settings: dg.ResourceParam[Settings]
) -> Iterator[dg.AssetCheckResult]:
    yield from evaluate(context.instance, settings, {key.name for key in context.selected_asset_check_keys})


def evaluation(result: dg.AssetCheckResult, key: dg.AssetKey | None = None) -> dg.AssetCheckEvaluation:
    """The evaluation of a check, as Dagster records it. `key` is for a result that names no asset."""
    asset_key = result.asset_key or key
    assert asset_key is not None and result.check_name is not None
    return dg.AssetCheckEvaluation(
        asset_key=asset_key,
        check_name=result.check_name,
        passed=result.passed,
        metadata=result.metadata,
        severity=result.severity,
        description=result.description,
    )


def report_store_checks(instance: dg.DagsterInstance, settings: Settings) -> None:
    """Evaluates all checks of the store, and tells Dagster the results outside of a run."""
    for result in evaluate(instance, settings):
        instance.report_runless_asset_event(evaluation(result))


def report_after_step(context: dg.AssetExecutionContext, settings: Settings) -> None:
    """`report_store_checks` for an asset in a run of its own. A job over all assets evaluates them once."""
    if context.op_execution_context.has_assets_def:
        report_store_checks(context.instance, settings)
