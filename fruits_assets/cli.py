"""`fruits`: what Dagster's own commands don't do."""

import gc
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from spark_jobs.dimensions import DEFAULT_COMPONENTS, FEATURES
from spark_jobs.errors import FruitsError

# Dagster and Spark are imported where they are used, so that --help and a mistyped option answer at once.


class _Command(click.Command):
    """A command of which a `FruitsError` is printed as its sentence, with exit status 1."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except FruitsError as error:
            sys.exit(f"{ctx.command_path}: {error}")


class _Group(click.Group):
    command_class = _Command
    group_class = type


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
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
    """Copies sample photos of 8 fruit classes to FOLDER, one folder for each class."""
    from fruits_assets.samples import copy_samples

    labels = copy_samples(folder, images)
    click.echo(f"{len(labels)} classes with {images} photos each are in {folder}")


@main.command()
@click.option("--class", "labels", multiple=True, metavar="NAME", help="Only this class; can be repeated.")
@click.option(
    "--components",
    type=click.IntRange(1, FEATURES),
    help=f"Components of the PCA.  [default: {DEFAULT_COMPONENTS}]",
)
@click.option(
    "--variance",
    type=click.FloatRange(0, 1, min_open=True),
    help="Keep as many components as reach this share of the variance.",
)
def run(labels: Sequence[str], components: int | None, variance: float | None) -> None:
    """Observes the photos, then materializes every asset for every class, in one Spark session.

    With --class, the PCA is not fitted again: the classes are projected by the current model.
    """
    if labels and (components or variance):
        raise click.UsageError("--components and --variance fit a new model, which --class never does.")
    _use_dagster_home()
    with _without_garbage_collection():
        from fruits_assets.pipeline import run_pipeline
        from resources.settings import Settings, load_settings

    # SIGTERM, which ends a container or a service, is an interruption too; and a script's background job
    # would ignore both. Steps and clusters end with the run.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    config = {"components": components, "variance": variance}
    config = {key: value for key, value in config.items() if value is not None}
    try:
        summary = run_pipeline(load_settings(Settings), labels, config)
    except KeyboardInterrupt:
        click.echo(
            "fruits run: interrupted. The assets that were finished stand, the others are as they were."
        )
        sys.exit(130)  # 128 and the number of SIGINT, as shells have it
    click.echo("\n".join(_described(summary.lines)))
    gc.freeze()  # or the end of the process looks for garbage for half a second
    sys.exit(1 if summary.failed else 0)


@main.command()
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="On 127.0.0.1. Links from Dagster go to the default.  [default: 18080]",
)
def history(port: int | None) -> None:
    """Serves Spark's History of all runs that wrote to the store, until Ctrl-C."""
    from resources.event_logs import PORT
    from resources.local.history_server import serve
    from resources.settings import StoreSettings, load_settings

    serve(load_settings(StoreSettings).store, port or PORT)


@main.command()
@click.option("--images", type=click.IntRange(min=1), required=True, help="How many photos.")
@click.option("--nodes", type=click.IntRange(min=1), required=True, help="How many core nodes.")
@click.option("--instance-type", metavar="TYPE", help="Of the core nodes.  [default: FRUITS_EMR_CORE_TYPE]")
def plan(images: int, nodes: int, instance_type: str | None) -> None:
    """Projects time and cost of a run on an EMR cluster, from runs that the store has records of.

    It asks nothing of AWS but the records, where FRUITS_STORE is in S3, and starts nothing.
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
            f"the records of runs in FRUITS_STORE={settings.store} can't be read: {error}. "
            "Name another store, or see to its credentials."
        ) from None
    core_type = instance_type or settings.emr_core_type
    projection = project(
        images=images,
        nodes=nodes,
        instance_type=core_type,
        primary_type=settings.emr_primary_type,
        records=records,
        prices=prices,
    )
    click.echo("\n".join(_described(list(described(projection, prices)))))
    click.echo("\nAssumed:")
    for sentence in assumptions(projection):
        click.echo(f"- {sentence}")
    if projection.hour_usd > settings.emr_max_hourly_cost:
        click.echo(
            f"\nNo cluster of {projection.hour_usd:.3f} USD an hour is started, because "
            f"FRUITS_EMR_MAX_HOURLY_COST={settings.emr_max_hourly_cost}. Raise the limit for it."
        )
    for path in bad:
        click.echo(f"fruits plan: {path} in the store is no record of a run; it is left out.", err=True)


@main.group()
def emr() -> None:
    """Prepares an AWS account for EMR clusters, and clears it again. Needs an administrator's credentials."""


@emr.command()
@click.option("--photos-prefix", help="Where photos lie in the bucket.  [default: photos]")
@click.option("--store-prefix", help="Where runs write in the bucket.  [default: store]")
@click.option(
    "--retention-days",
    type=click.IntRange(min=0),
    help="Erase photos and results after so many days, 0 for never.  [default: 0]",
)
@click.option("--subnet", metavar="ID", help="Use this private subnet instead of making one.")
@click.option(
    "--session-manager/--no-session-manager",
    default=None,
    help="Let Session Manager reach the nodes.  [default: no]",
)
@click.option(
    "--wheelhouse/--index",
    default=None,
    help="Let nodes install packages from the bucket, or from a package index.  [default: wheelhouse]",
)
@click.option("--yes", is_flag=True, help="Don't ask.")
def deploy(
    photos_prefix: str | None,
    store_prefix: str | None,
    retention_days: int | None,
    subnet: str | None,
    session_manager: bool | None,
    wheelhouse: bool | None,
    yes: bool,
) -> None:
    """Makes or updates the bucket, the network, and the roles and policies, as one CloudFormation stack.

    What an update does not name stays as it is.
    """
    from resources.emr.account import HOURS_A_MONTH, Deployment, deploy, idle_hour, makes_network, plan
    from resources.prices import load_prices
    from resources.settings import AccountSettings, load_settings

    wanted = Deployment(
        photos_prefix=photos_prefix,
        store_prefix=store_prefix,
        retention_days=retention_days,
        subnet=subnet,
        session_manager=session_manager,
        wheelhouse=wheelhouse,
    )
    settings = load_settings(AccountSettings)
    prices = load_prices(settings.prices)
    parameters = plan(settings, wanted)
    if wheelhouse is False and makes_network(parameters):
        raise click.UsageError("--index needs --subnet: the subnet that is made here reaches no index.")
    hour = idle_hour(parameters, prices)
    click.echo(
        f"The stack {settings.emr_stack} in {settings.region} costs {hour:.3f} USD an hour "
        f"({hour * HOURS_A_MONTH:.2f} a month) while no cluster runs, and what is stored "
        f"{prices.s3_gb_month} USD a GB and month. Prices of {prices.region}, {prices.date}."
    )
    if not yes:
        click.confirm("Make or update it?", abort=True)
    stack = deploy(settings, parameters)
    click.echo(f"Attach {stack.operator_policy_arn} to who runs Dagster.")
    click.echo(f"Attach {stack.erasure_policy_arn} to who may erase photos and results for good.")
    click.echo("Put into .env:")
    for name, value in {
        "FRUITS_ENV": "emr",
        "FRUITS_REGION": settings.region,
        "FRUITS_EMR_STACK": settings.emr_stack,
        "FRUITS_IMAGES": stack.images_uri,
        "FRUITS_STORE": stack.store_uri,
    }.items():
        click.echo(f"{name}={value}")


@emr.command()
@click.option("--yes", is_flag=True, help="Don't ask.")
def destroy(yes: bool) -> None:
    """Removes what deploy made, with all photos and results in the bucket."""
    from resources.emr.account import stack_outputs
    from resources.emr.teardown import contents, destroy
    from resources.settings import AccountSettings, load_settings

    settings = load_settings(AccountSettings)
    stack = stack_outputs(settings, to_remove=True)
    found = contents(settings, stack)
    click.echo(
        f"This removes the stack {settings.emr_stack} in {settings.region}: its network, roles and "
        f"policies, and the bucket {stack.bucket} with {found.objects} objects and "
        f"{found.old_versions} old versions ({found.bytes / 1e9:.2f} GB). None of it can be brought back."
    )
    if not yes:
        click.confirm("Remove it?", abort=True)
    destroy(settings, stack)
    click.echo("Removed.")


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """For imports: their many objects stay, and are not looked through for garbage, now or later."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _described(lines: Sequence[tuple[str, str]]) -> Iterator[str]:
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        yield f"{name:>{width}}  {value}"


def _use_dagster_home() -> None:
    """DAGSTER_HOME from the environment or .env, as Dagster's own commands find it, else ./.dagster."""
    from dotenv import load_dotenv

    load_dotenv(".env")
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(Path(".dagster").absolute())))
    home.mkdir(parents=True, exist_ok=True)
