"""Renders the rows of a comparison as CSV and as a Markdown table."""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from itertools import chain

from fruits_assets.costs.comparison import REPORTED_HOUR, Row
from fruits_assets.costs.run_records import STAGES
from resources.prices import Prices
from spark_jobs.store.csv_rows import without_formulas


def as_csv(rows: Iterable[Row], prices: Prices) -> str:
    """Returns one line per row with all figures. A value that is not known is empty."""
    out = io.StringIO()
    # A text that is not quoted would become two cells where a semicolon separates them.
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(
        [
            *("run", "environment", "as_reported", "finished", "instance_type", "nodes", "cores"),
            *("images", "classes", "known_classes"),
            *(f"{figure}_{stage}" for stage in STAGES for figure in ("images", "seconds")),
            *("seconds", "images_per_second"),
            *("compute_usd_1000_images", "storage_usd_1000_images_month"),
            *("weights", "versions"),
        ]
    )
    for row in rows:
        stages = [row.stages.get(stage) for stage in STAGES]
        by_stage = [(stage.images, round(stage.seconds, 2)) if stage else (None, None) for stage in stages]
        figures = [
            *(row.run, row.environment, str(row.reported).lower(), row.finished),
            *(row.instance_type, row.nodes, row.cores),
            *(row.images, row.classes, row.known_classes),
            *chain.from_iterable(by_stage),
            *(round(row.seconds, 2), round(row.images_per_second, 2)),
            *(_digits(row.compute_usd_for_1000), _digits(row.storage_usd_for_1000(prices))),
            row.weights,
            " ".join(f"{name}={version}" for name, version in row.versions.items()),
        ]
        writer.writerow(without_formulas(each) if isinstance(each, str) else each for each in figures)
    return out.getvalue()


def as_markdown(rows: Iterable[Row], prices: Prices) -> str:
    """Returns the table, and notes below it that explain the figures."""
    head = [
        *("environment", "machines", "images", "classes"),
        *(f"{stage}, s" for stage in STAGES),
        *("all, s", "images/s", "compute, USD for 1,000 images", "storage, USD for 1,000 images a month"),
    ]
    lines = [head, ["---"] * 4 + ["---:"] * (len(head) - 4)]
    lines += [list(_cells(row, prices)) for row in rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = "\n".join(f"- {note}" for note in _notes(prices))
    return f"{table}\n\n{notes}\n"


def _cells(row: Row, prices: Prices) -> Iterator[str]:
    yield _cell(row.name)
    nodes = f"{row.nodes} x {row.instance_type}" if row.nodes and row.instance_type else None
    nodes = nodes or (f"{row.nodes} nodes" if (row.nodes or 1) > 1 else None)
    yield _cell(", ".join(filter(None, [nodes, f"{row.cores} cores" if row.cores else None]))) or "-"
    yield f"{row.images:,}"
    total = f" of {row.known_classes:,}" if row.classes != row.known_classes else ""
    yield "-" if row.classes is None else f"{row.classes:,}{total}"
    for stage in STAGES:
        yield f"{row.stages[stage].seconds:,.1f}" if stage in row.stages else "-"
    yield f"{row.seconds:,.1f}" + ("" if row.complete else f" ({len(row.stages)} of {len(STAGES)} stages)")
    yield f"{row.images_per_second:,.1f}"
    for cost in (row.compute_usd_for_1000, row.storage_usd_for_1000(prices)):
        yield "-" if cost is None else _digits(cost)


def _notes(prices: Prices) -> Iterator[str]:
    yield (
        "Each command or backfill is one row. Images/s are over all stages that ran, one after another. The "
        "seconds of a stage are the time of its Spark job. They exclude the start of Spark or of the EMR "
        "step, and Dagster's work between the stages."
    )
    yield (
        "Compute is the on-demand price of all nodes of the cluster, from the start of each step to its end, "
        "with the prices of that time and the nodes at the end of the step. It excludes the start of the "
        "cluster, its idle time, and failed steps that were repeated. If steps share a cluster, each of them "
        "counts the whole cluster. A local machine has no price."
    )
    yield (
        "The machines of a cluster are its core nodes. The primary node is in the price only; reported rows "
        "count it as a machine too."
    )
    yield (
        f"Storage is the price of the stages' results in S3: {prices.s3_gb_month} USD per GB and month "
        f"({prices.region}, {prices.date}). It excludes the photos. A local store "
        "is priced in the same way."
    )
    yield (
        'Rows "as reported" are the figures of the earlier project and were not measured here. They have '
        "no time by stage: mobilenet_features includes the reading of the photos. The PCA took 1,000 s."
    )
    hour = prices.instance_hour("m5.xlarge")
    listed = "" if hour is None else f" ({3 * hour:.2f} USD with the prices used here)"
    yield (
        f"The compute of these rows uses the {REPORTED_HOUR} USD an hour that the earlier project gave. "
        f"Three m5.xlarge at 0.224 USD an hour, the price that it showed, cost less even with EMR's "
        f"fee{listed}."
    )
    yield (
        "The earlier project reported 72 % of the variance with 15 components, on photos of 131 classes. "
        "Here, the ImageNet weights keep 56.3 % and 56.1 % on 5,928 and 22,688 photos of 60 classes."
    )


def _digits(value: float | None) -> str:
    """Returns at least two decimals and three significant digits, without an exponent: prices are small."""
    if value is None:
        return ""
    return f"{value:.{max(2, 2 - _magnitude(value))}f}"


def _magnitude(value: float) -> int:
    return int(f"{value:e}".partition("e")[2])


def _cell(text: str) -> str:
    """Escapes text for a cell of a Markdown table: it becomes one line without markup, links or HTML tags."""
    return " ".join(re.sub(r"[\\`*_~\[\]!<>|]", lambda special: f"&#{ord(special[0])};", text).split())
