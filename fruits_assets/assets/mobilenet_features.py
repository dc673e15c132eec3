"""`mobilenet_features`: 1280 numbers for each photo."""

from collections.abc import Iterator, Mapping
from functools import partial

import dagster as dg

from fruits_assets.assets.feature_extractor import feature_extractor
from fruits_assets.assets.raw_images import raw_images
from fruits_assets.by_class import ClassJob, class_asset
from fruits_assets.class_checks import check_classes, classes_behind
from resources.settings import Settings
from spark_jobs.errors import FruitsError
from spark_jobs.extract_features import ClassFeatures, ExtractParams, extract_features
from spark_jobs.images import PREPROCESSING
from spark_jobs.store.pointers import current_one
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import FEATURE_EXTRACTOR, MOBILENET_FEATURES, RAW_IMAGES, described
from spark_jobs.store.tables import current


@class_asset(
    name=MOBILENET_FEATURES,
    deps=[raw_images, feature_extractor],
    kinds={"spark", "openvino", "deltalake"},
    code_version=PREPROCESSING,
    description=(
        "MobileNetV2's features of each photo. The photo is decoded, turned upright and resized to 224 x 224 "
        "(bicubic); the features are average-pooled."
    ),
    columns=described(MOBILENET_FEATURES),
    checks={
        "one_feature_per_image": (
            "Every class has features for each of its current photos, made by the current extractor."
        ),
        "finite_and_varied": "No feature is NaN or infinite, and no photo's features are all equal.",
    },
)
def mobilenet_features(
    context: dg.AssetExecutionContext, settings: Settings
) -> ClassJob[ExtractParams, ClassFeatures]:
    extractor = current_one(open_root(settings.store), FEATURE_EXTRACTOR)
    if extractor is None:
        raise FruitsError("There is no feature_extractor yet. Materialize it first.")
    weights = {name: extractor.details[name] for name in ("weights", "weights_sha256")}
    return ClassJob(
        run=extract_features,
        params=ExtractParams(
            store=settings.store,
            version=context.run.run_id,
            classes=list(context.partition_keys),
            extractor_directory=extractor.directory,
            extractor_sha256=extractor.details["ir_sha256"],
            extractor_version=extractor.data_version,
            keep_hours=settings.keep_hours,
        ),
        describe=lambda figures: weights,
        checks=partial(_checks, extractor_version=extractor.data_version),
        extractor=extractor.details,
    )


def _checks(
    store: Root, figures: Mapping[str, ClassFeatures], *, extractor_version: str
) -> Iterator[dg.AssetCheckResult]:
    images, features = (current(store, table) for table in (RAW_IMAGES, MOBILENET_FEATURES))
    yield check_classes(
        "one_feature_per_image",
        classes_behind(
            features, images, source=RAW_IMAGES, other_inputs={FEATURE_EXTRACTOR: extractor_version}
        ),
        features=sum(version.rows for version in features.values()),
    )
    details = {label: version.details for label, version in features.items() if not version.damage}
    yield check_classes(
        "finite_and_varied",
        {label: counts for label, counts in details.items() if counts["non_finite"] or counts["constant"]},
    )
