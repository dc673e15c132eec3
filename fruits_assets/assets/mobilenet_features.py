"""`mobilenet_features`: 1280 numbers for each photo."""

from collections.abc import Iterator

import dagster as dg

from fruits_assets.assets.feature_extractor import feature_extractor
from fruits_assets.assets.raw_images import raw_images
from fruits_assets.by_class import GROUP, OWNERS, ClassResult, Event, materialize_classes, share_of_run
from fruits_assets.columns import columns
from fruits_assets.costs.recording import leave_record
from fruits_assets.partitions import fruit_classes, known_classes
from fruits_assets.provenance import provenance
from resources.job_runner import JobRunner
from resources.settings import Settings
from spark_jobs.extract_features import PREPROCESSING, ExtractParams, extract_features
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import FEATURE_EXTRACTOR, MOBILENET_FEATURES, RAW_IMAGES, described
from spark_jobs.store.tables import current, current_one


@dg.asset(
    name=MOBILENET_FEATURES,
    deps=[raw_images, feature_extractor],
    partitions_def=fruit_classes,
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name=GROUP,
    owners=OWNERS,
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
        raise dg.Failure("There is no feature_extractor yet. Materialize it first.", allow_retries=False)
    params = ExtractParams(
        settings.store,
        context.run.run_id,
        list(context.partition_keys),
        extractor.directory,
        extractor.details["ir_sha256"],
        extractor.data_version,
        settings.keep_hours,
    )
    run = job_runner.run(context, extract_features, params)
    total = sum(figures.images for figures in run.report.classes.values())
    size = sum(figures.bytes for figures in run.report.classes.values())
    leave_record(context, settings, run, total, len(run.report.classes), size, extractor.details)
    yield from materialize_classes(
        context,
        tags,
        {
            label: ClassResult(
                figures.data_version,
                share_of_run(run.metadata, figures.images, total)
                | {
                    "bytes": figures.bytes,
                    "weights": extractor.details["weights"],
                    "weights_sha256": extractor.details["weights_sha256"],
                    "store_path": dg.MetadataValue.path(store.uri_of(MOBILENET_FEATURES)),
                },
            )
            for label, figures in run.report.classes.items()
        },
        run.report.failed,
        _checks(store, known_classes(context.instance), extractor.data_version),
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
