"""`pca_model`: the principal components of all classes' features."""

from collections.abc import Iterator

import dagster as dg
from pydantic import Field

from fruits_assets.assets.mobilenet_features import mobilenet_features
from fruits_assets.costs.recording import record_stage
from fruits_assets.decorators import pipeline_asset
from fruits_assets.figures import percent, rounded
from fruits_assets.plots import class_counts, scatter, scree
from fruits_assets.provenance import DATA_VERSION
from fruits_assets.store_checks import report_after_step
from resources.job_runner import JobRunner
from resources.settings import Settings
from spark_jobs.dimensions import DEFAULT_COMPONENTS, FEATURES
from spark_jobs.fit_pca import FitParams, FitReport, fit_pca
from spark_jobs.store.pointers import current_one
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import PCA_MODEL
from spark_jobs.store.versions import Version

MAX_ORTHONORMALITY_ERROR = 1e-9  # eigenvectors of a symmetric float64 matrix are orthonormal to 1e-14


class PcaConfig(dg.Config):
    """How many components the model keeps."""

    components: int | None = Field(
        default=None,
        ge=1,
        le=FEATURES,
        description=(
            f"Number of components to keep, from 1 to {FEATURES:,}; by default as many as the current model "
            f"has, or {DEFAULT_COMPONENTS} for the first model."
        ),
    )
    variance: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Keep as many components as reach this share of the variance; overrides `components`.",
    )


@pipeline_asset(
    name=PCA_MODEL,
    group="model",
    deps=[mobilenet_features],
    kinds={"spark", "json"},
    code_version="1",
    description=(
        "A PCA over the current features of all classes of the store, in Spark ML's own format. A JSON file "
        "beside it holds the mean, the variances, and the numbers of images and classes."
    ),
    checks={
        "orthonormal": "The components are orthonormal.",
        "explained_variance_floor": (
            "The components keep at least FRUITS_MIN_EXPLAINED_VARIANCE of the variance."
        ),
    },
    blocking={"orthonormal"},
)
def pca_model(
    context: dg.AssetExecutionContext,
    config: PcaConfig,
    settings: dg.ResourceParam[Settings],
    job_runner: JobRunner,
) -> dg.MaterializeResult:
    store = open_root(settings.store)
    current = current_one(store, PCA_MODEL)
    before = current.details["components"] if current else DEFAULT_COMPONENTS
    params = FitParams(
        store=settings.store,
        version=context.run.run_id,
        components=config.components or before,
        variance=config.variance,
        keep_hours=settings.keep_hours,
    )
    run = job_runner.run(context, fit_pca, params)
    report = run.report
    # The size of the model does not grow with the number of images, so the record counts 0 bytes.
    record_stage(
        context,
        settings,
        run,
        images=report.images,
        classes=len(report.images_by_class),
        bytes_written=0,
    )
    report_after_step(context, settings)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(report.data_version),
        metadata={
            "pc1_pc2": scatter(report.scatter),
            "scree_plot": scree(report.explained_variance),
            "class_counts": class_counts(report.images_by_class),
            "images": report.images,
            "classes": len(report.images_by_class),
            "components": report.components,
            "explained_variance_percent": percent(sum(report.explained_variance)),
            "store_path": dg.MetadataValue.path(store.uri_of(report.directory)),
            "fit_seconds": round(report.fit_seconds, 2),
            "images_per_second": round(report.images / float(run.metadata["seconds"]), 1),
            **run.metadata,
        },
        check_results=list(_checks(report, settings.min_explained_variance)),
    )


def model_event(
    instance: dg.DagsterInstance, store: Root, model: Version
) -> Iterator[dg.AssetMaterialization]:
    """The event of the current model, if Dagster has not heard of it: another Dagster home has its fit."""
    key = dg.AssetKey(PCA_MODEL)
    last = instance.get_latest_materialization_event(key)
    told = last.asset_materialization.tags if last and last.asset_materialization else None
    if (told or {}).get(DATA_VERSION) != model.data_version:
        yield dg.AssetMaterialization(
            key,
            metadata={
                **{name: model.details[name] for name in ("images", "classes", "components")},
                "explained_variance_percent": percent(model.details["explained_variance"]),
                "store_path": dg.MetadataValue.path(store.uri_of(model.directory)),
            },
            tags={DATA_VERSION: model.data_version},
        )


def _checks(report: FitReport, floor: float) -> Iterator[dg.AssetCheckResult]:
    yield dg.AssetCheckResult(
        check_name="orthonormal",
        passed=report.orthonormality_error <= MAX_ORTHONORMALITY_ERROR,
        metadata={"max_abs_error": rounded(report.orthonormality_error), "allowed": MAX_ORTHONORMALITY_ERROR},
    )
    kept = sum(report.explained_variance)
    yield dg.AssetCheckResult(
        check_name="explained_variance_floor",
        passed=kept >= floor,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{report.components} components keep {kept:.1%} of the variance.",
        metadata={"explained_variance_percent": percent(kept), "least_percent": percent(floor)},
    )
