"""The commands `fruits emr deploy` and `fruits emr destroy`, and the stacks that they work on."""

from typing import Any

import boto3
from click.testing import CliRunner, Result
from moto.cloudformation.models import Event
from moto.cloudformation.models import Stack as MotoStack

from fruits_assets.cli import main
from resources.settings import AccountSettings, load_settings

REGION = "eu-west-3"


def fruits(*arguments: str, answer: str | None = None, exits: int = 0) -> str:
    """The output of a `fruits emr` command, which must exit with the status `exits`."""
    result: Result = CliRunner().invoke(main, ["emr", *arguments], input=answer)
    assert result.exit_code == exits, result.output
    return result.output


def deploy(*arguments: str, **more: Any) -> str:
    """The output of a deployment without wheels, whose download takes seconds."""
    return fruits("deploy", "--yes", "--index", *arguments, **more)


def settings() -> AccountSettings:
    return load_settings(AccountSettings)


def make_subnet(tags: dict[str, str]) -> str:
    ec2 = boto3.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    if tags:
        listed = [{"Key": key, "Value": value} for key, value in tags.items()]
        ec2.create_tags(Resources=[subnet], Tags=listed)
    return subnet


def add_failure(stack: MotoStack, resource: str, status: str, reason: str) -> None:
    """Adds the failure of a resource to a stack's events."""
    name = stack.stack_id, stack.name
    stack.events.append(Event(*name, resource, "", "AWS::Any", status, reason, None))
