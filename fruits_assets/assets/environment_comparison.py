"""`environment_comparison`: time and cost of the runs on this machine and on EMR, in one table."""

from collections import defaultdict
from datetime import timedelta

import dagster as dg

from fruits_assets.assets.pca_features_csv import pca_features_csv
from fruits_assets.costs.comparison import REPORTED, Row, newest, rows_of
from fruits_assets.costs.comparison_tables import as_csv, as_markdown
from fruits_assets.costs.run_records import RUN_RECORDS, STAGES, read_records
from fruits_assets.decorators import pipeline_asset
from fruits_assets.plots import costs, stage_times, throughput
from resources.prices import load_prices
from resources.settings import Settings
from spark_jobs.store.leases import held_lease
from spark_jobs.store.pointers import new_directory, publish
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import ENVIRONMENT_COMPARISON
from spark_jobs.store.sweep import sweep_versions
from spark_jobs.store.versions import Version, combined_version

COMPARISON_CSV, COMPARISON_MD = "comparison.csv", "comparison.md"

# An event lists this many paths, and so stays below 30 KB.
_PATHS = 10


@pipeline_asset(
    name=ENVIRONMENT_COMPARISON,
    group="reports",
    # All stages leave records. The last stage stands for them, so that no arrow crosses the graph.
    deps=[pca_features_csv],
    kinds={"csv", "markdown"},
    code_version="1",
    description=(
        "Time by stage, images a second, and the cost of 1,000 images, for each run with records in the "
        "store, on this machine or on EMR. The figures that the earlier project reported come first."
    ),
)
def environment_comparison(
    context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]
) -> dg.MaterializeResult:
    prices = load_prices(settings.prices)
    store = open_root(settings.store)
    records, bad = read_records(store)
    if bad:
        context.log.warning(
            f"Files in {store.uri_of(RUN_RECORDS)} that are not records: {len(bad)}, {bad[:_PATHS]}"
        )
    own = rows_of(records)
    rows = [*REPORTED, *own]
    table = as_csv(rows, prices)
    data_version = combined_version(table, prices.date, prices.region)
    with held_lease(store, context.run.run_id) as lease:
        directory = f"{new_directory(ENVIRONMENT_COMPARISON, lease.run)}/comparison"
        store.write_many(
            [
                (f"{directory}/{COMPARISON_CSV}", table.encode()),
                (f"{directory}/{COMPARISON_MD}", as_markdown(rows, prices).encode()),
            ]
        )
        details = {"runs": len(own)}
        version = Version(label=None, directory=directory, data_version=data_version, details=details)
        publish(store, ENVIRONMENT_COMPARISON, [version])
        sweep_versions(store, ENVIRONMENT_COMPARISON, timedelta(hours=settings.keep_hours), lease)

    shown = [*REPORTED, *newest(own)]
    # A run of one stage would seem fast and cheap beside a run of all stages.
    plotted = [*REPORTED, *newest([row for row in own if row.complete])]
    points: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for row in plotted:
        points[_group(row)].append((row.images, row.images_per_second))
    return dg.MaterializeResult(
        data_version=dg.DataVersion(data_version),
        metadata={
            "runs": len(own),
            "shown": len(shown) - len(REPORTED),
            "plotted": len(plotted) - len(REPORTED),
            "unreadable_records": len(bad),
            **({"unreadable_paths": bad[:_PATHS]} if bad else {}),
            "prices": f"{prices.region}, {prices.date}",
            "store_path": dg.MetadataValue.path(store.uri_of(directory)),
            "comparison": dg.MetadataValue.md(as_markdown(shown, prices)),
            "time_by_stage": stage_times({row.name: row.seconds_for_1000 for row in plotted}, STAGES),
            "throughput": throughput(points),
            "cost_of_1000_images": costs(
                {row.name: row.compute_usd_for_1000 for row in plotted},
                {row.name: row.storage_usd_for_1000(prices) for row in plotted},
            ),
        },
    )


def _group(row: Row) -> str:
    return f"{row.environment}, as reported" if row.reported else row.environment
