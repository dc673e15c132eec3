"""`fruits report`: one HTML file that shows a person what the store holds."""

import json
import os
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import click

from fruits_assets.terminal import Command, echo, echo_table, set_dagster_home
from spark_jobs.wording import counted


class _ReportCommand(Command):
    after_interruption = "The report of before, if there is one, has not changed."


@click.command(cls=_ReportCommand)
@click.option("--open/--no-open", "opens", default=True, help="Open it in a browser, if there is one.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print its place and figures as JSON, and open nothing."
)
def report(opens: bool, as_json: bool) -> None:
    """Writes a report of the store into it: one HTML file, for a browser without a network.

    It shows the classes and photos, the quarantine with the reasons, the principal components, confused
    classes, near-duplicates, and time and cost. Of a large store it shows a sample.
    """
    from fruits_assets.report.copies import keep_copy
    from fruits_assets.report.write import write_report
    from resources.settings import StoreSettings, load_settings
    from spark_jobs.store.root import open_root
    from spark_jobs.store.schemas import REPORT_FILE

    settings = load_settings(StoreSettings)
    set_dagster_home()
    store = open_root(settings.store)
    written = write_report(store)
    if as_json:
        click.echo(json.dumps(asdict(written)))
        return
    lines = [
        ("report", f"{written.path}, {written.bytes / 1e6:.1f} MB"),
        ("photos", f"{written.photos:,} shown"),
    ]
    if written.problems:
        things = counted(len(written.problems), "thing", "things")
        lines.append(("damaged", f"{things} in the store cannot be read; the report names them"))
    if store.is_local:
        file = Path(written.path)
    else:
        file = keep_copy(store.read(REPORT_FILE), Path(os.environ["DAGSTER_HOME"]))
        lines.append(("copy", str(file)))
    echo_table(lines)
    if not (opens and _opened(file)):
        echo(f"Open it in a browser: {file.as_uri()}")


def _opened(file: Path) -> bool:
    """Whether a browser with a window opens a file. One in the terminal would show no picture."""
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or os.environ.get("BROWSER")
    ):
        return False
    import webbrowser

    with suppress(webbrowser.Error, OSError):
        return webbrowser.open(file.as_uri())
    return False
