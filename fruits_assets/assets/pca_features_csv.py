"""`pca_features_csv`: one CSV of principal components for each class."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from fruits_assets.assets.mobilenet_features import mobilenet_features
from fruits_assets.assets.pca_model import pca_model
from fruits_assets.by_class import Event, materialize_by_class
from fruits_assets.columns import columns
from fruits_assets.decorators import class_asset
from fruits_assets.partitions import known_classes
from fruits_assets.provenance import provenance
from resources.job_runner import JobRunner
from resources.settings import Settings
from spark_jobs.errors import FruitsError
from spark_jobs.project_to_csv import ClassCsv, ProjectParams, project_to_csv
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_FEATURES_CSV, PCA_MODEL, described
from spark_jobs.store.tables import Pointer, current, current_one


@class_asset(
    name=PCA_FEATURES_CSV,
    deps=[mobilenet_features, pca_model],
    kinds={"spark", "csv"},
    code_version="1",
    description=(
        "The features of each class on the principal components, one CSV a class: what classifiers are "
        "trained from."
    ),
    metadata=columns(
        {name: described(MOBILENET_FEATURES)[name] for name in ("path", "label")}
        | {"pc1": ("double", "Features projected on the first component; then pc2 and so on, up to pck.")}
    ),
    check_specs=[
        dg.AssetCheckSpec(
            "one_row_per_feature",
            asset=PCA_FEATURES_CSV,
            description="Every class's CSV has a row for each of its features.",
        ),
        dg.AssetCheckSpec(
            "one_model", asset=PCA_FEATURES_CSV, description="All classes are projected by the current model."
        ),
    ],
)
def pca_features_csv(
    context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings], job_runner: JobRunner
) -> Iterator[Event]:
    tags = provenance(context)
    store = open_root(settings.store)
    model = current_one(store, PCA_MODEL)
    if model is None:
        raise FruitsError("There is no pca_model yet. Materialize it, or run all classes with: fruits run")
    context.log.info(
        f"Projecting with the model of {model.details['images']:,} images of {model.details['classes']:,} "
        f"classes, {model.details['components']} components, in {store.uri_of(model.directory)}"
    )
    params = ProjectParams(
        store=settings.store,
        version=context.run.run_id,
        classes=list(context.partition_keys),
        model_directory=model.directory,
        model_version=model.data_version,
        keep_hours=settings.keep_hours,
    )

    def describe(figures: ClassCsv) -> dict[str, Any]:
        return {
            "dagster/row_count": figures.images,
            "components": model.details["components"],
            "pca_model": model.data_version,
            "store_path": dg.MetadataValue.path(store.uri_of(figures.path)),
            "preview": dg.MetadataValue.md(f"```\n{figures.head}\n```"),
        }

    yield from materialize_by_class(
        context,
        settings,
        job_runner,
        project_to_csv,
        params,
        tags=tags,
        describe=describe,
        checks=lambda: _checks(store, known_classes(context.instance), model),
    )


def _checks(store: Root, labels: list[str], model: Pointer) -> Iterator[dg.AssetCheckResult]:
    """The checks, over all current classes."""
    features, csvs = (current(store, table, labels) for table in (MOBILENET_FEATURES, PCA_FEATURES_CSV))
    wrong = [
        label
        for label, pointer in features.items()
        if label not in csvs
        or csvs[label].rows != pointer.rows
        or csvs[label].inputs[MOBILENET_FEATURES] != pointer.data_version
    ]
    yield dg.AssetCheckResult(
        check_name="one_row_per_feature",
        passed=not wrong,
        metadata={"failing_classes": wrong, "rows": sum(pointer.rows for pointer in csvs.values())},
    )
    older = [label for label, pointer in csvs.items() if pointer.inputs[PCA_MODEL] != model.data_version]
    yield dg.AssetCheckResult(
        check_name="one_model",
        passed=not older,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(older)} classes are projected by an older model; their components do not compare."
        if older
        else None,
        metadata={"failing_classes": older, "pca_model": model.data_version},
    )
