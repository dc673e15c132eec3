"""`mobilenet_features`: 1280 numbers for each photo."""

from collections.abc import Iterator

import dagster as dg

from fruits_assets.assets.feature_extractor import feature_extractor
from fruits_assets.assets.raw_images import raw_images
from fruits_assets.by_class import Event, materialize_by_class
from fruits_assets.columns import columns
from fruits_assets.decorators import class_asset
from fruits_assets.partitions import known_classes
from fruits_assets.provenance import provenance
from resources.job_runner import JobRunner
from resources.settings import Settings
from spark_jobs.errors import FruitsError
from spark_jobs.extract_features import PREPROCESSING, ExtractParams, extract_features
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import FEATURE_EXTRACTOR, MOBILENET_FEATURES, RAW_IMAGES, described
from spark_jobs.store.tables import current, current_one


@class_asset(
    name=MOBILENET_FEATURES,
    deps=[raw_images, feature_extractor],
    kinds={"spark", "openvino", "parquet"},
    code_version=PREPROCESSING,
    description=(
        "MobileNetV2's features of every photo: decoded, upright, bicubic to 224 x 224, average-pooled."
    ),
    metadata=columns(described(MOBILENET_FEATURES)),
    check_specs=[
        dg.AssetCheckSpec(
            "one_feature_per_image",
            asset=MOBILENET_FEATURES,
            description="Every class has features of all its current photos, from the current extractor.",
        ),
        dg.AssetCheckSpec(
            "finite_and_varied",
            asset=MOBILENET_FEATURES,
            description="No feature is NaN or infinite, and no photo's features are all equal.",
        ),
    ],
)
def mobilenet_features(
    context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings], job_runner: JobRunner
) -> Iterator[Event]:
    tags = provenance(context)
    store = open_root(settings.store)
    extractor = current_one(store, FEATURE_EXTRACTOR)
    if extractor is None:
        raise FruitsError("There is no feature_extractor yet. Materialize it first.")
    params = ExtractParams(
        store=settings.store,
        version=context.run.run_id,
        classes=list(context.partition_keys),
        extractor_directory=extractor.directory,
        extractor_sha256=extractor.details["ir_sha256"],
        extractor_version=extractor.data_version,
        keep_hours=settings.keep_hours,
    )
    weights = {name: extractor.details[name] for name in ("weights", "weights_sha256")}
    yield from materialize_by_class(
        context,
        settings,
        job_runner,
        extract_features,
        params,
        tags=tags,
        describe=lambda _: weights,
        checks=lambda: _checks(store, known_classes(context.instance), extractor.data_version),
        extractor=extractor.details,
    )


def _checks(store: Root, labels: list[str], extractor_version: str) -> Iterator[dg.AssetCheckResult]:
    """The checks, over all current classes."""
    images, features = (current(store, table, labels) for table in (RAW_IMAGES, MOBILENET_FEATURES))
    wrong = [
        label
        for label, pointer in images.items()
        if label not in features
        or features[label].rows != pointer.rows
        or features[label].inputs[RAW_IMAGES] != pointer.data_version
        or features[label].inputs[FEATURE_EXTRACTOR] != extractor_version
    ]
    yield dg.AssetCheckResult(
        check_name="one_feature_per_image",
        passed=not wrong,
        metadata={"failing_classes": wrong, "features": sum(pointer.rows for pointer in features.values())},
    )
    odd = {
        label: pointer.details
        for label, pointer in features.items()
        if pointer.details["non_finite"] or pointer.details["constant"]
    }
    yield dg.AssetCheckResult(
        check_name="finite_and_varied", passed=not odd, metadata={"failing_classes": odd}
    )
