"""The commands that create, update, check and remove the AWS resources of EMR clusters."""

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from fruits_assets.terminal import Command, echo
from spark_jobs.wording import counted, visible

if TYPE_CHECKING:
    from resources.emr.account import Plan
    from resources.settings import AccountSettings


class _DeployCommand(Command):
    after_interruption = "AWS finishes the changes that it has begun. Run the command again to check."


@click.group()
def emr() -> None:
    """Creates, checks or removes the AWS resources that EMR clusters need.

    The commands `deploy` and `destroy` need an administrator's credentials.
    """


@emr.command(cls=_DeployCommand)
@click.option(
    "--photos",
    metavar="S3_URI",
    help="Read photos that are there already, as s3://bucket/prefix. The empty string returns to the stack's "
    "own bucket.",
)
@click.option("--photos-prefix", help="Prefix of the photos in the stack's bucket.  [default: photos]")
@click.option("--store-prefix", help="Prefix of the outputs in the bucket.  [default: store]")
@click.option(
    "--retention-days",
    type=click.IntRange(min=0),
    help="Delete photos after this number of days, 0 for never.  [default: 0]",
)
@click.option("--subnet", metavar="ID", help="Use this private subnet. Without it, the stack has its own.")
@click.option(
    "--zone", metavar="NAME", help="Zone of the stack's own subnet, as eu-west-3b.  [default: the first zone]"
)
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
@click.option(
    "--encrypt-disks/--no-encrypt-disks",
    default=None,
    help="Encrypt the disks of nodes with a key of the stack, 1 USD a month.  [default: encrypt]",
)
@click.option(
    "--instance-types",
    metavar="PATTERNS",
    help="Types that clusters may have, as m5.xlarge,m7g.*.  [default: families with a price, up to 9xlarge]",
)
@click.option(
    "--budget-usd",
    type=click.IntRange(min=0),
    help="Let AWS send an alarm at 80 % of these costs of the account in a month, 0 for none.  [default: 0]",
)
@click.option("--budget-email", metavar="ADDRESS", help="Address of the alarm.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def deploy(yes: bool, **options: Any) -> None:
    """Creates or updates the bucket, network, roles and policies, as one stack.

    An update keeps the value of every option that is not given.
    """
    from resources.emr import account
    from resources.emr.options import Deployment
    from resources.settings import AccountSettings, load_settings

    wanted = Deployment(**options)
    if wanted.photos and wanted.photos_prefix:
        raise click.UsageError(
            "--photos is for photos in another bucket, and --photos-prefix for photos in the stack's bucket. "
            "Give only one of them."
        )
    settings = load_settings(AccountSettings)
    planned = account.plan(settings, wanted)
    with account.discarded_on_error(settings, planned):
        if wanted.wheelhouse is False and account.makes_network(planned.parameters):
            raise click.UsageError("--index needs --subnet: the stack's own subnet reaches no package index.")
        _show(settings, planned)
        if not yes:
            click.confirm("Update it?" if planned.exists else "Create it?", abort=True)
    stack = account.deploy(settings, planned)
    echo(f"Attach {stack.operator_policy_arn} to the user or role that runs Dagster.")
    echo(f"Attach {stack.erasure_policy_arn} to the user or role that may erase photos and outputs.")
    click.echo("Put these lines into .env:")
    for name, value in {
        "FRUITS_ENV": "emr",
        "FRUITS_REGION": settings.region,
        "FRUITS_EMR_STACK": settings.emr_stack,
        "FRUITS_IMAGES": stack.images_uri,
        "FRUITS_STORE": stack.store_uri,
    }.items():
        click.echo(visible(f"{name}={value}"))


def _show(settings: "AccountSettings", planned: "Plan") -> None:
    """Prints the costs and the changes of a deployment, before the question."""
    from resources.emr import account
    from resources.prices import load_prices

    prices = load_prices(settings.prices)
    hour = account.idle_hour(planned.parameters, prices)
    echo(
        f"The stack {settings.emr_stack} in {settings.region} costs {hour:.3f} USD an hour "
        f"({hour * account.HOURS_A_MONTH:.2f} a month) while no cluster runs. Stored data cost "
        f"{prices.s3_gb_month} USD a GB and month. Prices of {prices.region}, {prices.date}."
    )
    for note in planned.notes:
        echo(note)
    if planned.exists and planned.change_set is None:
        echo("The stack does not change. The packages of the nodes are uploaded again.")
    for loss in planned.change_set.losses if planned.change_set else ():
        echo(f"The update {loss}.")


@emr.command(cls=_DeployCommand)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def destroy(yes: bool) -> None:
    """Removes the stack, with all photos and outputs in its bucket."""
    from resources.emr import teardown
    from resources.settings import AccountSettings, load_settings

    settings = load_settings(AccountSettings)
    remains = teardown.find(settings)
    echo(f"This removes the stack {settings.emr_stack} in {settings.region}. Nothing restores it. It has:")
    if remains.buckets:
        found = teardown.contents(settings, remains)
        buckets = counted(len(remains.buckets), "bucket", "buckets")
        echo(
            f"- {buckets} ({', '.join(remains.buckets)}) with {counted(found.objects, 'object', 'objects')} "
            f"and {counted(found.old_versions, 'old version', 'old versions')} ({found.bytes / 1e9:.2f} GB)",
            indent="  ",
        )
    echo(f"- {', '.join(remains.resources) or 'no resources'}", indent="  ")
    if remains.photos:
        echo(f"The photos in {remains.photos} stay.")
    if not yes:
        click.confirm("Remove it?", abort=True)
    teardown.destroy(settings, remains, echo)
    click.echo("Removed.")


@emr.command(cls=Command)
@click.option(
    "--operator",
    metavar="ARN",
    help="Simulate the permissions of this user or role, and not your own. An administrator may.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the lines as JSON.")
def check(operator: str | None, as_json: bool) -> None:
    """Asks AWS whether a run would work, before the first run.

    It costs nothing and changes nothing. Each line is a pass, a failure with its remedy, or not known with
    the reason of AWS. The exit status is 1 if a line has failed.
    """
    from resources.emr.check import check_account
    from resources.settings import Settings, load_settings

    lines = []
    for line in check_account(load_settings(Settings), operator):
        lines.append(line)
        if not as_json:
            state = click.style(f"{line.state:>9}", fg="red" if line.state == "failed" else None)
            echo(f"{line.name}: {line.text}", indent=" " * 11, head=f"{state}  ")
    if as_json:
        click.echo(json.dumps([line._asdict() for line in lines]))
    sys.exit(1 if any(line.state == "failed" for line in lines) else 0)
