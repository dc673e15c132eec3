"""The commands `fruits emr deploy` and `fruits emr destroy`, and the stacks that they work on."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from cfnlint.decode.cfn_yaml import load
from click.testing import CliRunner, Result
from moto.cloudformation import cloudformation_backends
from moto.cloudformation.models import Event
from moto.cloudformation.models import Stack as MotoStack
from moto.core import DEFAULT_ACCOUNT_ID

from fruits_assets.cli import main
from resources.emr.account import TEMPLATE
from resources.settings import AccountSettings, load_settings

REGION = "eu-west-3"


def fruits(*arguments: str, answer: str | None = None, exits: int = 0) -> str:
    """The output of a `fruits emr` command, which must exit with the status `exits`."""
    result: Result = CliRunner().invoke(main, ["emr", *arguments], input=answer)
    assert result.exit_code == exits, (result.output, result.exception)
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


def make_photos(bucket: str, region: str = REGION, **encryption: str) -> None:
    """Creates a bucket with one photo in fruit/Kiwi/, encrypted by default with AES256 or as given."""
    s3 = boto3.client("s3", region_name=region)
    place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    s3.create_bucket(Bucket=bucket, **place)
    rule = {"ApplyServerSideEncryptionByDefault": encryption or {"SSEAlgorithm": "AES256"}}
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [rule]})
    s3.put_object(Bucket=bucket, Key="fruit/Kiwi/1.jpg", Body=b"photo")


def make_stack(template: Mapping[str, Any], parameters: Mapping[str, str], **tags: str) -> None:
    """Creates the stack `fruits` of another template than today's."""
    boto3.client("cloudformation").create_stack(
        StackName="fruits",
        TemplateBody=json.dumps(template),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
        Capabilities=["CAPABILITY_NAMED_IAM"],
    )


def template() -> dict[str, Any]:
    """Today's template, to be changed."""
    copy: dict[str, Any] = json.loads(json.dumps(load(str(TEMPLATE))))
    return copy


def moto_stack() -> MotoStack:
    """The stack `fruits` in moto."""
    stack: MotoStack = cloudformation_backends[DEFAULT_ACCOUNT_ID][REGION].get_stack("fruits")
    return stack


def change_sets() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = boto3.client("cloudformation").list_change_sets(StackName="fruits")[
        "Summaries"
    ]
    return found


def start_cluster(region: str = REGION, **request: Any) -> str:
    """The id of a new cluster of three nodes. `request` has further parameters of RunJobFlow."""
    cluster = boto3.client("emr", region_name=region).run_job_flow(
        Name="test",
        Instances={
            "MasterInstanceType": "m5.xlarge",
            "SlaveInstanceType": "m5.xlarge",
            "InstanceCount": 3,
            "KeepJobFlowAliveWhenNoSteps": True,
        },
        JobFlowRole="EMR_EC2_DefaultRole",
        ServiceRole="EMR_DefaultRole",
        **request,
    )
    return str(cluster["JobFlowId"])


def add_failure(stack: MotoStack, resource: str, status: str, reason: str) -> None:
    """Adds the failure of a resource to a stack's events."""
    name = stack.stack_id, stack.name
    stack.events.append(Event(*name, resource, "", "AWS::Any", status, reason, None))


@contextmanager
def recorded_calls() -> Iterator[list[str]]:
    """The names of the calls of AWS inside the block."""
    calls: list[str] = []
    real = BaseClient._make_api_call

    def record(self: Any, operation: str, parameters: dict[str, Any]) -> Any:
        calls.append(operation)
        return real(self, operation, parameters)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", record)
        yield calls


@contextmanager
def refused(operation: str, code: str, message: str, **having: Any) -> Iterator[None]:
    """AWS refuses an operation inside the block, if it has the given parameters."""
    real = BaseClient._make_api_call

    def refuse(self: Any, name: str, parameters: dict[str, Any]) -> Any:
        if name == operation and having.items() <= parameters.items():
            raise ClientError({"Error": {"Code": code, "Message": message}}, name)
        return real(self, name, parameters)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", refuse)
        yield
