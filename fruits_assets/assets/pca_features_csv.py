"""`pca_features_csv`: one CSV of principal components for each class."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import dagster as dg

from fruits_assets.assets.mobilenet_features import mobilenet_features
from fruits_assets.assets.pca_model import pca_model
from fruits_assets.by_class import ClassConfig, ClassJob, ClassStep, class_asset
from fruits_assets.class_checks import check_classes
from fruits_assets.decorators import column_lineage, column_schema
from fruits_assets.plots import fenced
from spark_jobs.errors import FruitsError
from spark_jobs.project_to_csv import ClassCsv, ProjectParams, project_to_csv, up_to_date
from spark_jobs.store.csv_copies import stale_copies
from spark_jobs.store.pointers import current_by_class, current_one
from spark_jobs.store.root import Root
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_FEATURES_CSV, PCA_MODEL, described
from spark_jobs.store.tables import current

_NAMES = {name: described(MOBILENET_FEATURES)[name] for name in ("path", "label")}

# With more components, an event would exceed 30 KB.
_MOST_COLUMNS = 60


@class_asset(
    name=PCA_FEATURES_CSV,
    group="model",
    deps=[mobilenet_features, pca_model],
    kinds={"spark", "csv"},
    code_version="1",
    description=(
        "The features of each class, projected on the principal components: one CSV for each class, to "
        "train classifiers on."
    ),
    columns={
        **_NAMES,
        "pc1": ("double", "The features projected on the first component. The columns pc2 to pck follow."),
    },
    checks={
        "copies_match": "Each CSV in the folder pca_features_csv is the current version of its class.",
    },
)
def pca_features_csv(step: ClassStep[ClassConfig]) -> ClassJob[ProjectParams, ClassCsv]:
    store = step.store
    model = current_one(store, PCA_MODEL)
    if model is None:
        raise FruitsError("There is no pca_model yet. Materialize it, or run all classes with: fruits run")
    step.context.log.info(
        "Projecting with the model of {images:,} images of {classes:,} classes, {components} components, in "
        "{directory}".format(**model.details, directory=store.uri_of(model.directory))
    )

    def describe(label: str, figures: ClassCsv) -> dict[str, Any]:
        return {
            **({"preview": fenced(figures.head)} if figures.head else {}),
            "components": model.details["components"],
            "pca_model": model.data_version,
            "file": dg.MetadataValue.path(store.uri_of(figures.path)),
        }

    params = ProjectParams(
        store=step.settings.store,
        version=step.run,
        classes=step.classes,
        model_directory=model.directory,
        model_version=model.data_version,
        keep_hours=step.settings.keep_hours,
        recompute=step.config.recompute,
    )
    features = current(store, MOBILENET_FEATURES, step.classes)
    done = up_to_date(store, params, features, current_by_class(store, PCA_FEATURES_CSV))
    to_do = [label for label in step.classes if label not in done]
    return ClassJob(
        run=project_to_csv,
        params=replace(params, classes=to_do),
        to_do=to_do,
        done=done,
        describe=describe,
        table=_table(model.details["components"]),
        checks=_checks,
    )


def _table(components: int) -> dict[str, Any]:
    """The columns of the CSVs and their sources, as metadata."""
    if components > _MOST_COLUMNS:
        return {}
    numbers = range(1, components + 1)
    return {
        **column_schema({**_NAMES, **{f"pc{number}": ("double", "") for number in numbers}}),
        **column_lineage(
            {
                **{name: (MOBILENET_FEATURES, [name]) for name in _NAMES},
                **{f"pc{number}": (MOBILENET_FEATURES, ["features"]) for number in numbers},
            }
        ),
    }


def _checks(store: Root, figures: Mapping[str, ClassCsv]) -> Iterator[dg.AssetCheckResult]:
    yield check_classes("copies_match", stale_copies(store))
