"""The command `fruits`, for what Dagster's own commands do not do."""

import gc
import json
import os
import shutil
import signal
import socket
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import click

from spark_jobs.dimensions import DEFAULT_COMPONENTS, FEATURES
from spark_jobs.errors import FruitsError
from spark_jobs.wording import counted

# The functions import Dagster and Spark, so that --help and a mistyped option answer at once.

INTERRUPTED = 128 + signal.SIGINT  # the exit status that shells give to a command that SIGINT ends
UI_ADDRESS = "http://127.0.0.1:3000"

COMPLETION = """\b
Completion in Bash (else zsh_source or fish_source):
  eval "$(_FRUITS_COMPLETE=bash_source fruits)"
"""


class _Command(click.Command):
    """A command that ends with a sentence: status 1 for a `FruitsError`, status 130 for Ctrl-C."""

    grace = 3.0  # seconds that the command has for its end after a signal
    after_interruption = ""  # what holds then, as a sentence

    def invoke(self, ctx: click.Context) -> object:
        try:
            with _ended_by_signals(self.grace):
                return super().invoke(ctx)
        except FruitsError as error:
            _fail(ctx, str(error), 1)
        except OSError as error:
            from spark_jobs.store.s3_errors import explained

            if fault := explained(str(error)):
                _fail(ctx, str(fault), 1)
            raise
        except (KeyboardInterrupt, click.Abort) as error:
            # A prompt turns Ctrl-C into an Abort; the answer "no" is an Abort too.
            if isinstance(error, click.Abort) and not isinstance(error.__context__, KeyboardInterrupt):
                raise
            _fail(ctx, f"interrupted. {self.after_interruption}".rstrip(), INTERRUPTED)


class _RunCommand(_Command):
    grace = 60.0  # Spark cancels its tasks; on EMR the step and the cluster end
    after_interruption = "Finished assets stay current, and the others keep their last versions."


class _DeployCommand(_Command):
    after_interruption = "AWS finishes the changes that it has begun. Run the command again to check."


class _Group(click.Group):
    command_class = _Command
    group_class = type


@click.group(
    "fruits",
    cls=_Group,
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
    _echo(f"Copied {classes} with {photos} each to {folder}")


@main.command(cls=_RunCommand)
@click.option("--class", "labels", multiple=True, metavar="NAME", help="Only this class; can be repeated.")
@click.option(
    "--components",
    type=click.IntRange(1, FEATURES),
    help=f"Components of the PCA.  [default: {DEFAULT_COMPONENTS}]",
)
@click.option(
    "--variance",
    type=click.FloatRange(0, 1, min_open=True),
    help="Keep as many components as explain this share of the variance.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def run(labels: Sequence[str], components: int | None, variance: float | None, as_json: bool) -> None:
    """Runs everything: observes photos, then materializes all assets.

    All assets share one Spark session. With --class, the PCA is not fitted again: the current model
    projects the classes.
    """
    if labels and (components or variance):
        raise click.UsageError("--components and --variance fit a new model, which --class never does.")
    from resources.settings import Settings, load_settings

    settings = load_settings(Settings)
    _set_dagster_home()
    _echo(
        f"Photos {settings.images}, store {settings.store}, weights {settings.weights}, "
        f"environment {settings.env}",
        err=True,
    )
    from fruits_assets.pipeline import run_pipeline

    config = {"components": components, "variance": variance}
    summary = run_pipeline(
        settings, labels, {key: value for key, value in config.items() if value is not None}
    )
    if as_json:
        click.echo(json.dumps(asdict(summary)))
    else:
        _echo_table([*summary.lines, ("UI", f"`make ui` opens Dagster's UI on {UI_ADDRESS}")])
    gc.freeze()  # else Python looks for garbage for a quarter of a second before the process ends
    sys.exit(1 if summary.failed else 0)


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
        _echo(f"fruits plan: {path} in the store is not a record of a run. It is ignored.", err=True)
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
    _echo_table(list(described(projection, prices)))
    click.echo("\nAssumptions:")
    for sentence in assumptions(projection):
        _echo(f"- {sentence}", indent="  ")
    if not allowed:
        click.echo()
        _echo(
            f"This cluster does not start: it costs {projection.hour_usd:.3f} USD an hour, and "
            f"FRUITS_EMR_MAX_HOURLY_COST={settings.emr_max_hourly_cost}. Raise the limit to start it."
        )


@main.group()
def emr() -> None:
    """Creates or removes the AWS resources that EMR clusters need.

    Both commands need an administrator's credentials.
    """


@emr.command(cls=_DeployCommand)
@click.option("--photos-prefix", help="Prefix of the photos in the bucket.  [default: photos]")
@click.option("--store-prefix", help="Prefix of the outputs in the bucket.  [default: store]")
@click.option(
    "--retention-days",
    type=click.IntRange(min=0),
    help="Erase photos and outputs after this number of days, 0 for never.  [default: 0]",
)
@click.option("--subnet", metavar="ID", help="Use this private subnet. Without it, the stack has its own.")
@click.option(
    "--session-manager/--no-session-manager",
    default=None,
    help="Let Session Manager reach the nodes.  [default: no]",
)
@click.option(
    "--wheelhouse/--index",
    default=None,
    help="Nodes install packages from the bucket, or from a package index.  [default: wheelhouse]",
)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def deploy(
    photos_prefix: str | None,
    store_prefix: str | None,
    retention_days: int | None,
    subnet: str | None,
    session_manager: bool | None,
    wheelhouse: bool | None,
    yes: bool,
) -> None:
    """Creates or updates the bucket, network, roles and policies, as one stack.

    An update keeps the value of every option that is not given.
    """
    from resources.emr import account
    from resources.prices import load_prices
    from resources.settings import AccountSettings, load_settings

    wanted = account.Deployment(
        photos_prefix=photos_prefix,
        store_prefix=store_prefix,
        retention_days=retention_days,
        subnet=subnet,
        session_manager=session_manager,
        wheelhouse=wheelhouse,
    )
    settings = load_settings(AccountSettings)
    prices = load_prices(settings.prices)
    parameters = account.plan(settings, wanted)
    if wheelhouse is False and account.makes_network(parameters):
        raise click.UsageError("--index needs --subnet: the stack's own subnet reaches no package index.")
    hour = account.idle_hour(parameters, prices)
    _echo(
        f"The stack {settings.emr_stack} in {settings.region} costs {hour:.3f} USD an hour "
        f"({hour * account.HOURS_A_MONTH:.2f} a month) while no cluster runs. Stored data cost "
        f"{prices.s3_gb_month} USD a GB and month. Prices of {prices.region}, {prices.date}."
    )
    if not yes:
        click.confirm("Create or update it?", abort=True)
    stack = account.deploy(settings, parameters)
    _echo(f"Attach {stack.operator_policy_arn} to the user or role that runs Dagster.")
    _echo(f"Attach {stack.erasure_policy_arn} to the user or role that may erase photos and outputs.")
    click.echo("Put these lines into .env:")
    for name, value in {
        "FRUITS_ENV": "emr",
        "FRUITS_REGION": settings.region,
        "FRUITS_EMR_STACK": settings.emr_stack,
        "FRUITS_IMAGES": stack.images_uri,
        "FRUITS_STORE": stack.store_uri,
    }.items():
        click.echo(f"{name}={value}")


@emr.command(cls=_DeployCommand)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def destroy(yes: bool) -> None:
    """Removes the stack, with all photos and outputs in its bucket."""
    from resources.emr import teardown
    from resources.emr.account import stack_outputs
    from resources.settings import AccountSettings, load_settings

    settings = load_settings(AccountSettings)
    stack = stack_outputs(settings, to_remove=True)
    found = teardown.contents(settings, stack)
    _echo(
        f"This removes the stack {settings.emr_stack} in {settings.region}: its network, roles and "
        f"policies, and the bucket {stack.bucket} with {counted(found.objects, 'object', 'objects')} and "
        f"{counted(found.old_versions, 'old version', 'old versions')} ({found.bytes / 1e9:.2f} GB). "
        "Nothing restores them."
    )
    if not yes:
        click.confirm("Remove it?", abort=True)
    teardown.destroy(settings, stack)
    click.echo("Removed.")


@contextmanager
def _ended_by_signals(grace: float) -> Iterator[None]:
    """Raises `KeyboardInterrupt` for SIGINT and SIGTERM, and ends the process where that is too slow.

    SIGTERM ends a container or a service, and a shell lets a script's background jobs ignore SIGINT. Python
    calls a handler only between two of its own instructions: where pyarrow waits for S3, that takes minutes.
    `set_wakeup_fd` reports a signal at once, so a thread waits `grace` seconds after it and ends the process.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    previous = signal.set_wakeup_fd(writer.fileno())

    def end_after_signal() -> None:
        with reader:
            while received := reader.recv(1):  # the number of a signal; nothing once the writer is closed
                if received[0] in (signal.SIGINT, signal.SIGTERM):
                    time.sleep(grace)
                    os._exit(INTERRUPTED)

    threading.Thread(target=end_after_signal, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        writer.close()


def _fail(ctx: click.Context, message: str, status: int) -> NoReturn:
    """Prints a message on stderr after the name of the command, and ends the process."""
    _echo(f"{click.style(ctx.command_path, fg='red')}: {message}", err=True)
    sys.exit(status)


def _echo(text: str, indent: str = "", err: bool = False) -> None:
    """Prints text. On a terminal it wraps between words, and lines after the first begin with `indent`."""
    if (sys.stderr if err else sys.stdout).isatty():
        width = shutil.get_terminal_size().columns
        text = textwrap.fill(
            text,
            width,
            subsequent_indent=indent,
            replace_whitespace=False,
            break_long_words=False,
            break_on_hyphens=False,
        )
    click.echo(text, err=err)


def _echo_table(lines: Sequence[tuple[str, str]]) -> None:
    """Prints (name, value) lines, with the names in a column; failures are red on a terminal."""
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        label = click.style(f"{name:>{width}}", fg="red" if name == "failed" else None)
        _echo(f"{label}  {value}", indent=" " * (width + 2))


def _set_dagster_home() -> None:
    """Sets DAGSTER_HOME to ./.dagster where the environment names none, and makes the folder."""
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(Path(".dagster").absolute())))
    home.mkdir(parents=True, exist_ok=True)
