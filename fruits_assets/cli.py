"""The command `fruits`, for what Dagster's own commands do not do."""

import gc
import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from fruits_assets.cli_emr import emr
from fruits_assets.cli_erase import erase, retention
from fruits_assets.cli_report import report
from fruits_assets.cli_status import observe, status
from fruits_assets.cli_store import forget, restore
from fruits_assets.cli_ui import ui
from fruits_assets.terminal import GRACE_OF_JOBS, Command, Group, echo, echo_table, set_dagster_home
from spark_jobs.dimensions import DEFAULT_COMPONENTS, FEATURES
from spark_jobs.errors import FruitsError
from spark_jobs.wording import counted

# The functions import Dagster and Spark, so that --help and a mistyped option answer at once.

UI_ADDRESS = "http://127.0.0.1:3000"

COMPLETION = """\b
Completion in Bash (else zsh_source or fish_source):
  eval "$(_FRUITS_COMPLETE=bash_source fruits)"
"""


class _RunCommand(Command):
    grace = GRACE_OF_JOBS
    after_interruption = "Finished assets stay current, and the others keep their last versions."


@click.group(
    "fruits",
    cls=Group,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": shutil.get_terminal_size().columns,
    },
    epilog=COMPLETION,
)
@click.version_option(package_name="fruits-platform", message="%(prog)s %(version)s")
def main() -> None:
    """Fruit photos in, PCA features out. Settings are FRUITS_* variables; see .env.example."""


@main.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--images",
    type=click.IntRange(1, 20),
    default=20,
    show_default=True,
    help="Photos of each class.",
)
def samples(folder: Path, images: int) -> None:
    """Copies photos of 8 fruit classes to FOLDER, one folder a class."""
    from fruits_assets.samples import copy_samples

    labels = copy_samples(folder, images)
    classes, photos = counted(len(labels), "class", "classes"), counted(images, "photo", "photos")
    echo(f"Copied {classes} with {photos} each to {folder}")


@main.command(cls=_RunCommand)
@click.option("--class", "labels", multiple=True, metavar="NAME", help="Only this class; can be repeated.")
@click.option(
    "--components",
    type=click.IntRange(1, FEATURES),
    help=f"Components of a new model.  [default: as many as the current model, else {DEFAULT_COMPONENTS}]",
)
@click.option(
    "--variance",
    type=click.FloatRange(0, 1, min_open=True),
    help="Keep as many components as explain this share of the variance.",
)
@click.option("--refit", is_flag=True, help="Fit a new PCA model on all classes.")
@click.option("--all", "recompute", is_flag=True, help="Compute everything again, except the PCA model.")
@click.option(
    "--accept-removals",
    is_flag=True,
    help="Let photos go, even if most photos of a class or of the store, or the store itself, have vanished.",
)
@click.option("--dry-run", is_flag=True, help="Only say what the run would do.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def run(
    labels: Sequence[str],
    components: int | None,
    variance: float | None,
    refit: bool,
    recompute: bool,
    accept_removals: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Brings everything up to date with the photos, and does no more.

    New and changed photos are read, and their features computed; the CSVs of their classes are written
    again. The current PCA model stays: a classifier was trained on its components. --refit, --components or
    --variance fit a new one, and then all CSVs follow. All assets share one Spark session.
    """
    if labels and (components or variance or refit):
        raise click.UsageError(
            "--refit, --components and --variance fit a new model on all classes, which --class never does."
        )
    from resources.rights import open_to_all
    from resources.settings import Settings, load_settings

    settings = load_settings(Settings)
    set_dagster_home()
    echo(
        f"Photos {settings.images}, store {settings.store}, weights {settings.weights}, "
        f"environment {settings.env}",
        err=True,
    )
    for folder in (settings.store, os.environ["DAGSTER_HOME"]):
        if not folder.startswith("s3://") and open_to_all(Path(folder)):
            close = f"chmod -R go= {shlex.quote(folder)}"
            echo(f"Every user of this machine can read {folder}. To keep them out: {close}", err=True)
    from fruits_assets.pipeline import run_pipeline

    config = {"components": components, "variance": variance}
    summary = run_pipeline(
        settings,
        labels,
        {key: value for key, value in config.items() if value is not None},
        refit=refit,
        recompute=recompute,
        accept_removals=accept_removals,
        dry_run=dry_run,
    )
    if as_json:
        click.echo(json.dumps(asdict(summary)))
    else:
        lines = summary.lines_without_run if dry_run else summary.lines
        links = [
            ("report", "`fruits report` shows photos, quarantine and model on one page"),
            ("UI", f"`make ui` opens Dagster's UI on {UI_ADDRESS}"),
        ]
        echo_table([*lines, *links])
    gc.freeze()  # else Python looks for garbage for a quarter of a second before the process ends
    sys.exit(1 if summary.failed else 0)


for command in (ui, observe, status, report, forget, restore, erase, retention, emr):
    main.add_command(command)


@main.command()
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Port on 127.0.0.1. Links in Dagster name the default.  [default: 18080]",
)
def history(port: int | None) -> None:
    """Serves Spark's History Server of the store until Ctrl-C."""
    from resources.local.history_server import serve
    from resources.settings import StoreSettings, load_settings
    from resources.spark_events import PORT

    serve(load_settings(StoreSettings).store, port or PORT)


@main.command()
@click.option("--images", type=click.IntRange(min=1), required=True, help="Number of photos.")
@click.option("--nodes", type=click.IntRange(min=1), required=True, help="Number of core nodes.")
@click.option(
    "--instance-type", metavar="TYPE", help="Type of the core nodes.  [default: FRUITS_EMR_CORE_TYPE]"
)
@click.option("--json", "as_json", is_flag=True, help="Print the projection as JSON.")
def plan(images: int, nodes: int, instance_type: str | None, as_json: bool) -> None:
    """Projects the time and cost of a run on EMR from earlier runs.

    It reads the records of runs in FRUITS_STORE, calls AWS for nothing else, and starts nothing.
    """
    from fruits_assets.costs.plan import assumptions, described, project
    from fruits_assets.costs.run_records import read_records
    from resources.prices import load_prices
    from resources.settings import StoreSettings, load_settings
    from spark_jobs.store.root import open_root

    settings = load_settings(StoreSettings)
    prices = load_prices(settings.prices)
    try:
        records, bad = read_records(open_root(settings.store))
    except OSError as error:
        raise FruitsError(
            f"The records of runs in FRUITS_STORE={settings.store} can't be read: {error}. "
            "Name another store, or check its credentials."
        ) from None
    for path in bad:
        echo(f"fruits plan: {path} in the store is not a record of a run. It is ignored.", err=True)
    core_type = instance_type or settings.emr_core_type
    projection = project(
        images=images,
        nodes=nodes,
        instance_type=core_type,
        primary_type=settings.emr_primary_type,
        records=records,
        prices=prices,
    )
    allowed = projection.hour_usd <= settings.emr_max_hourly_cost
    if as_json:
        figures = asdict(projection) | {
            "rates": {stage: rate._asdict() for stage, rate in projection.rates.items()},
            "start_seconds": projection.starts,
            "total_seconds": projection.all_seconds,
            "compute_usd": projection.compute_usd,
            "within_hourly_limit": allowed,
            "assumptions": list(assumptions(projection)),
        }
        click.echo(json.dumps(figures))
        return
    echo_table(list(described(projection, prices)))
    click.echo("\nAssumptions:")
    for sentence in assumptions(projection):
        echo(f"- {sentence}", indent="  ")
    if not allowed:
        click.echo()
        echo(
            f"This cluster does not start: it costs {projection.hour_usd:.3f} USD an hour, and "
            f"FRUITS_EMR_MAX_HOURLY_COST={settings.emr_max_hourly_cost}. Raise the limit to start it."
        )
