"""The commands that look, and compute nothing: `fruits observe` and `fruits status`."""

import json
import sys
from dataclasses import asdict, replace

import click

from fruits_assets.terminal import Command, echo_table, set_dagster_home


class _ObserveCommand(Command):
    after_interruption = "Classes that were registered stay registered."


@click.command(cls=_ObserveCommand)
def observe() -> None:
    """Lists the photos, and registers new classes in Dagster.

    Dagster then marks the classes whose photos have changed. `fruits run` observes by itself.
    """
    from fruits_assets.dagster_runs import dagster_runs
    from resources.settings import Settings, load_settings

    settings = load_settings(Settings)
    set_dagster_home()
    with dagster_runs(settings) as runs:
        runs.observe()


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print the status as JSON.")
def status(as_json: bool) -> None:
    """Says what is new, changed, gone or failed, and what a run would take.

    It changes nothing. The exit status is 1 if a class or a check has failed.
    """
    from fruits_assets.dagster_runs import last_failed_checks
    from fruits_assets.pipeline import run_pipeline
    from resources.settings import Settings, load_settings

    settings = load_settings(Settings)
    set_dagster_home()
    summary = run_pipeline(settings, [], {}, dry_run=True)
    summary = replace(summary, failed_checks=last_failed_checks(settings))
    if as_json:
        click.echo(json.dumps(asdict(summary)))
    else:
        echo_table(summary.lines_without_run)
    sys.exit(1 if summary.failed else 0)
