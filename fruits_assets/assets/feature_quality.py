"""`feature_quality`: how well the features, and the components of the model, separate the classes."""

import json
from dataclasses import asdict

import dagster as dg
from pydantic import Field

from fruits_assets.assets.mobilenet_features import mobilenet_features
from fruits_assets.assets.pca_model import pca_model
from fruits_assets.decorators import pipeline_asset
from fruits_assets.figures import percent
from fruits_assets.model.quality import assess, read_sample, verdict
from fruits_assets.plots import accuracy_by_components, confusions
from resources.settings import Settings
from spark_jobs.dimensions import FEATURES
from spark_jobs.errors import FruitsError
from spark_jobs.fit_pca import inputs_version
from spark_jobs.spark_model import read_components
from spark_jobs.store.pointers import current_one
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import FEATURE_QUALITY, MOBILENET_FEATURES, PCA_MODEL
from spark_jobs.store.tables import current
from spark_jobs.store.versions import combined_version


class QualityConfig(dg.Config):
    """How much accuracy the components may lose."""

    allowed_loss: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description=(
            "The accuracy on the components may be lower than on all features by this share of the images."
        ),
    )


@pipeline_asset(
    name=FEATURE_QUALITY,
    group="reports",
    deps=[mobilenet_features, pca_model],
    kinds={"scikitlearn", "json"},
    code_version="1",
    description=(
        "The accuracy of 1-nearest-neighbour and of a linear probe, on the 1280 features and on the "
        "components of a sample. Neighbouring files of every class form the hold-out."
    ),
    checks={
        "enough_components": "The model's components separate the classes almost as well as all features."
    },
)
def feature_quality(
    context: dg.AssetExecutionContext, config: QualityConfig, settings: dg.ResourceParam[Settings]
) -> dg.MaterializeResult:
    store = open_root(settings.store)
    features = current(store, MOBILENET_FEATURES)
    model = current_one(store, PCA_MODEL)
    if model is None:
        raise FruitsError("There is no pca_model yet. Materialize it first.")
    try:
        quality = assess(read_sample(store, features), read_components(settings.store, model.directory))
    except FruitsError as error:
        reason = f"Not assessed: {error}"
        return dg.MaterializeResult(metadata={"verdict": reason}, check_results=[_check(False, reason)])
    enough, explanation = verdict(quality, config.allowed_loss)
    context.log.info(explanation)
    path = f"{FEATURE_QUALITY}/current.json"
    store.write(path, json.dumps(asdict(quality), ensure_ascii=False).encode())
    plots = {"confusions": confusions(quality.confusions)} if quality.confusions else {}
    curve = {**quality.by_components, FEATURES: quality.on_features}
    return dg.MaterializeResult(
        data_version=dg.DataVersion(combined_version(inputs_version(features), model.data_version)),
        metadata={
            "verdict": explanation,
            "accuracy_by_components": accuracy_by_components(
                {number: accuracy.nearest_neighbour for number, accuracy in curve.items()},
                {number: accuracy.linear_probe for number, accuracy in curve.items()},
                quality.components,
            ),
            **plots,
            "accuracy_on_features_percent": percent(quality.on_features.best),
            "accuracy_on_components_percent": percent(quality.on_components.best),
            "components": quality.components,
            "classes": quality.classes,
            "trained_on": quality.trained_on,
            "held_out": quality.held_out,
            "store_path": dg.MetadataValue.path(store.uri_of(path)),
        },
        check_results=[_check(enough, explanation)],
    )


def _check(passed: bool, explanation: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name="enough_components",
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        description=explanation,
    )
