"""The commands that take classes out of the store and bring them back."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

import click

from fruits_assets.terminal import GRACE_OF_JOBS, Command, echo, echo_table, set_dagster_home
from spark_jobs.errors import FruitsError
from spark_jobs.wording import counted


class _ForgetCommand(Command):
    grace = 30.0
    after_interruption = "Some tables may still have the classes. Run the command again to finish."


class _RestoreCommand(Command):
    grace = GRACE_OF_JOBS
    after_interruption = "Some tables may be restored and others not. Run the command again to finish."


@click.command(cls=_ForgetCommand)
@click.argument("labels", nargs=-1, required=True, metavar="CLASS...")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--json", "as_json", is_flag=True, help="Print what was taken out as JSON; needs --yes.")
def forget(labels: Sequence[str], yes: bool, as_json: bool) -> None:
    """Takes classes without photos out of the store.

    They leave raw_images, quarantined_images, mobilenet_features, the CSVs and Dagster's partitions. The PCA
    model keeps them until the next fit. `fruits restore` brings them back within FRUITS_KEEP_HOURS.
    """
    if as_json and not yes:
        raise click.UsageError("--json needs --yes: a question is no JSON.")
    labels = list(dict.fromkeys(labels))
    import dagster as dg

    from fruits_assets import forget as forgetting
    from resources.settings import Settings, load_settings

    settings = load_settings(Settings)
    set_dagster_home()
    with dg.DagsterInstance.get() as instance:
        held = forgetting.held(settings, instance, labels)
        if not as_json:
            echo_table([(label, forgetting.described(holding)) for label, holding in held.items()])
            classes = counted(len(held), "class", "classes")
            echo(
                f"This takes {classes} out of {settings.store} and out of Dagster's partitions. For "
                f"FRUITS_KEEP_HOURS={settings.keep_hours:g}, `fruits restore` can bring back all of it. A "
                "later run then removes the files."
            )
        if not yes:
            click.confirm("Take them out?", abort=True)
        forgotten = forgetting.forget(settings, instance, labels)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "classes": {label: holding._asdict() for label, holding in held.items()},
                    "at": forgotten.at.isoformat(),
                    "restorable_until": forgotten.restorable_until.isoformat(),
                    "writing_runs": list(forgotten.writing_runs),
                }
            )
        )
        return
    echo(f"Taken out. {forgetting.restore_hint(labels, forgotten)}")
    echo("The PCA model keeps them until the next fit: fruits run")
    if forgotten.writing_runs:
        echo(
            f"Runs that write to the store at this moment: {', '.join(forgotten.writing_runs)}. If one of "
            "them read photos of these classes before, it brings them back: forget them again when it ends."
        )


@click.command(cls=_RestoreCommand)
@click.argument("labels", nargs=-1, required=True, metavar="CLASS...")
@click.option("--to", "time", metavar="TIME", help="As they were at this time: ISO 8601, local if no zone.")
@click.option("--run", "run_id", metavar="ID", help="As they were after the commits of this Dagster run.")
@click.option("--json", "as_json", is_flag=True, help="Print what was restored as JSON.")
def restore(labels: Sequence[str], time: str | None, run_id: str | None, as_json: bool) -> None:
    """Brings classes back as they were at an earlier time or after a run.

    They come back in quarantined_images, raw_images and mobilenet_features. The current PCA model projects
    them. Replaced data can be restored for FRUITS_KEEP_HOURS.
    """
    if (time is None) == (run_id is None):
        raise click.UsageError("Give either --to TIME or --run ID.")
    moment = _moment(time) if time is not None else str(run_id)
    labels = list(dict.fromkeys(labels))
    from fruits_assets import restore as restoring
    from resources.settings import Settings, load_settings

    settings = load_settings(Settings)
    set_dagster_home()
    restored = restoring.restore(settings, labels, moment)
    if as_json:
        click.echo(json.dumps(asdict(restored)))
    else:
        bad = restored.quarantined_images
        lines = [
            (label, f"{counted(images, 'image', 'images')}, {bad.get(label, 0):,} in quarantine")
            for label, images in restored.images.items()
        ]
        failures = [("failed", f"{label}: {reason}") for label, reason in restored.failed_classes.items()]
        echo_table([*lines, *failures])
        echo("If FRUITS_IMAGES has photos of a class, the next run of the class reads them and replaces it.")
    sys.exit(1 if restored.failed_classes else 0)


def _moment(text: str) -> datetime:
    """The time in a text. Raises `FruitsError` if it is none, or lies ahead."""
    try:
        time = datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise FruitsError(
            f"--to {text!r} is no time. Write it as 2026-11-23T10:00 or 2026-11-23T10:00Z"
        ) from None
    if time > datetime.now().astimezone():
        raise FruitsError(f"--to {text!r} lies ahead. Give a time in the past")
    return time
