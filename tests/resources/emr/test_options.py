"""Options of `fruits emr deploy` whose values the command checks before it changes anything."""

from collections.abc import Sequence

import boto3
import pytest

from resources.emr.stack import stack_outputs
from tests.resources.emr.commands import REGION, change_sets, deploy, fruits, moto_stack, settings

pytestmark = pytest.mark.usefixtures("aws_account", "no_wheels")


def _stacks() -> list[object]:
    stacks: list[object] = boto3.client("cloudformation").list_stacks()["StackSummaries"]
    return stacks


# Prefixes.


@pytest.mark.parametrize("prefix", ["photos", "photos/results", "bootstrap", "logs/runs"])
def test_prefixes_inside_each_other_are_refused(prefix: str) -> None:
    output = fruits("deploy", "--yes", "--store-prefix", prefix, exits=1)
    assert "lie inside each other" in output and prefix in output
    assert not _stacks()


@pytest.mark.parametrize(("option", "old"), [("--photos-prefix", "photos"), ("--store-prefix", "store")])
def test_another_prefix_is_refused_while_the_old_one_holds_objects(
    subnet: str, option: str, old: str
) -> None:
    deploy("--subnet", subnet)
    s3, bucket = boto3.client("s3"), stack_outputs(settings()).bucket
    s3.put_object(Bucket=bucket, Key=f"{old}/Kiwi/1", Body=b"x")
    s3.put_object(Bucket=bucket, Key=f"{old}-2/Kiwi/1", Body=b"x")
    output = deploy(option, "elsewhere", exits=1)
    assert f"{option} elsewhere: s3://{bucket}/{old} still holds objects" in output
    assert f"aws s3 mv --recursive s3://{bucket}/{old} s3://{bucket}/elsewhere" in output
    assert change_sets() == []
    s3.delete_object(Bucket=bucket, Key=f"{old}/Kiwi/1")
    deploy(option, "elsewhere")
    outputs = stack_outputs(settings())
    assert f"s3://{bucket}/elsewhere" in (outputs.images_uri, outputs.store_uri)


# The network.


def test_index_is_refused_for_a_subnet_that_reaches_no_index() -> None:
    assert "--index needs --subnet" in deploy(exits=2)


def test_the_subnet_of_the_stack_is_in_the_named_zone() -> None:
    fruits("deploy", "--yes", "--zone", f"{REGION}b")
    subnet = stack_outputs(settings()).subnet
    [found] = boto3.client("ec2").describe_subnets(SubnetIds=[subnet])["Subnets"]
    assert found["AvailabilityZone"] == f"{REGION}b"
    fruits("deploy", "--yes", "--zone", f"{REGION}b")
    output = fruits("deploy", "--yes", "--zone", f"{REGION}c", exits=1)
    assert "a subnet cannot move" in output and "FRUITS_EMR_STACK" in output
    assert change_sets() == []


def test_an_unknown_zone_is_refused_with_the_zones_of_the_region() -> None:
    output = fruits("deploy", "--yes", "--zone", "eu-west-1a", exits=1)
    assert "--zone eu-west-1a is not a zone of eu-west-3" in output and f"{REGION}a or {REGION}b" in output
    assert not _stacks()


def test_a_zone_is_refused_for_a_subnet_that_has_one(subnet: str) -> None:
    output = deploy("--subnet", subnet, "--zone", f"{REGION}b", exits=1)
    assert f"the stack uses {subnet}, which has a zone already" in output


# The budget alarm.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budget-usd", "50"], "add --budget-email"),
        (["--budget-email", "a@example.org"], "needs --budget-usd"),
    ],
)
def test_a_budget_needs_an_amount_and_an_address(subnet: str, arguments: Sequence[str], words: str) -> None:
    assert words in deploy("--subnet", subnet, *arguments, exits=1)
    assert not _stacks()


def test_a_budget_alarm_is_off_until_it_is_asked_for(subnet: str) -> None:
    deploy("--subnet", subnet)
    assert not moto_stack().resource_map.lazy_condition_map["WithBudget"]
    deploy("--budget-usd", "50", "--budget-email", "a@example.org")
    assert moto_stack().resource_map.lazy_condition_map["WithBudget"]
    deploy("--budget-usd", "0")
    assert not moto_stack().resource_map.lazy_condition_map["WithBudget"]


def test_a_retention_of_no_days_deletes_nothing(subnet: str) -> None:
    """CloudFormation compares the values of a condition as text, so "0" is quoted:

    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/intrinsic-function-reference-conditions.html
    """
    deploy("--subnet", subnet)
    assert not moto_stack().resource_map.lazy_condition_map["EndData"]
    deploy("--retention-days", "30")
    assert moto_stack().resource_map.lazy_condition_map["EndData"]
