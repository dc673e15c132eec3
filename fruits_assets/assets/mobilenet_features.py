"""`mobilenet_features`: 1280 numbers for each photo."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import dagster as dg

from fruits_assets.assets.feature_extractor import feature_extractor
from fruits_assets.assets.raw_images import raw_images
from fruits_assets.by_class import ClassConfig, ClassJob, ClassStep, class_asset
from fruits_assets.class_checks import check_classes
from fruits_assets.decorators import column_lineage
from spark_jobs.errors import FruitsError
from spark_jobs.extract_features import ClassFeatures, ExtractParams, extract_features, up_to_date
from spark_jobs.photos.model_input import preprocessing
from spark_jobs.store.pointers import current_one
from spark_jobs.store.root import Root, concurrently
from spark_jobs.store.schemas import FEATURE_EXTRACTOR, MOBILENET_FEATURES, RAW_IMAGES, described
from spark_jobs.store.tables import current


@class_asset(
    name=MOBILENET_FEATURES,
    group="features",
    deps=[raw_images, feature_extractor],
    kinds={"spark", "openvino", "deltalake"},
    code_version=preprocessing(scaled=False),
    description=(
        "MobileNetV2's features of each photo. The photo is decoded, turned upright and resized to 224 x 224 "
        "(bicubic); the features are average-pooled."
    ),
    columns=described(MOBILENET_FEATURES),
    checks={
        "finite_and_varied": "No feature is NaN or infinite, and no photo's features are all equal.",
    },
)
def mobilenet_features(step: ClassStep[ClassConfig]) -> ClassJob[ExtractParams, ClassFeatures]:
    extractor = current_one(step.store, FEATURE_EXTRACTOR)
    if extractor is None:
        raise FruitsError("There is no feature_extractor yet. Materialize it first.")
    weights = {name: extractor.details[name] for name in ("weights", "weights_sha256")}
    params = ExtractParams(
        store=step.settings.store,
        version=step.run,
        classes=step.classes,
        extractor_directory=extractor.directory,
        extractor_sha256=extractor.details["ir_sha256"],
        extractor_version=extractor.data_version,
        keep_hours=step.settings.keep_hours,
        recompute=step.config.recompute,
        limits=step.settings.decode_limits,
        scaled=step.settings.decodes_scaled,
    )
    images, features = concurrently(
        lambda table: current(step.store, table, step.classes), (RAW_IMAGES, MOBILENET_FEATURES)
    )
    done = up_to_date(params, images, features)
    to_do = [label for label in step.classes if label not in done]
    return ClassJob(
        run=extract_features,
        params=replace(params, classes=to_do),
        to_do=to_do,
        done=done,
        describe=lambda *_: weights,
        table=column_lineage(
            {
                **{name: (RAW_IMAGES, [name]) for name in ("path", "label", "sha256")},
                "features": (RAW_IMAGES, ["content", "input"]),
            }
        ),
        checks=_checks,
        extractor=extractor.details,
    )


def _checks(store: Root, figures: Mapping[str, ClassFeatures]) -> Iterator[dg.AssetCheckResult]:
    details = {
        label: version.details
        for label, version in current(store, MOBILENET_FEATURES).items()
        if not version.damage
    }
    yield check_classes(
        "finite_and_varied",
        {label: counts for label, counts in details.items() if counts["non_finite"] or counts["constant"]},
    )
