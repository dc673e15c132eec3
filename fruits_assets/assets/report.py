"""`report`: one HTML file of photos, quarantine, components and doubtful labels, for people."""

import dagster as dg

from fruits_assets.assets.feature_quality import feature_quality
from fruits_assets.assets.pca_features_csv import pca_features_csv
from fruits_assets.decorators import pipeline_asset
from fruits_assets.figures import size
from fruits_assets.report.write import write_report
from fruits_assets.ui.links import report_page
from resources.settings import Settings
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import REPORT


@pipeline_asset(
    name=REPORT,
    group="reports",
    personal=True,
    deps=[pca_features_csv, feature_quality],
    kinds={"html"},
    code_version="1",
    description=(
        "A page with the photos of each class, the quarantine, the components, and photos that may have a "
        "wrong label. The link `report` of the last materialization opens it; `fruits report` writes it too."
    ),
)
def report(context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
    written = write_report(open_root(settings.store))
    for problem in written.problems:
        context.log.warning(problem)
    return dg.MaterializeResult(
        metadata={
            "report": report_page(),
            "photos": written.photos,
            "size": size(written.bytes),
            "problems": len(written.problems),
            "store_path": dg.MetadataValue.path(written.path),
        }
    )
