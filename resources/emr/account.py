"""Makes an AWS account ready for EMR: deploys one CloudFormation stack, and uploads what nodes install."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, get_args

import emr_bootstrap
from resources.emr.aws import aws_errors_named, client
from resources.emr.changes import ChangeSet, discard, execute, propose
from resources.emr.options import Deployment, resolve
from resources.emr.stack import (
    PROJECT_TAG,
    READY,
    UNFINISHED,
    Stack,
    check_ours,
    check_region,
    describe_stack,
    outputs_of,
    parameters_of,
    stack_outputs,
    wait_for_stack,
)
from resources.emr.wheels import download_wheels
from resources.instance_types import Architecture
from resources.prices import Prices
from resources.scratch import scratch_folder
from resources.settings import AccountSettings
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import split_s3_uri

FOLDER = Path(emr_bootstrap.__file__).parent
TEMPLATE, BOOTSTRAP, LOCK = (FOLDER / name for name in ("template.yaml", "bootstrap.sh", "requirements.lock"))

# `PYSPARK_PYTHON` of the nodes, in the environment that bootstrap.sh makes.
NODE_PYTHON = "/opt/fruits/venv/bin/python"

# AWS creates these roles with an account's first cluster and first spot node, but not for an operator, whose
# policy does not allow it.
_SERVICE_LINKED_ROLES = ("elasticmapreduce.amazonaws.com", "spot.amazonaws.com")

# No update of the stack, also from the console, takes the data away.
_STACK_POLICY = {
    "Statement": [
        {"Effect": "Allow", "Action": "Update:*", "Principal": "*", "Resource": "*"},
        {
            "Effect": "Deny",
            "Action": ["Update:Delete", "Update:Replace"],
            "Principal": "*",
            "Resource": "LogicalResourceId/Bucket",
        },
    ]
}

SESSION_ENDPOINTS = 2
HOURS_A_MONTH = 730


class Plan(NamedTuple):
    """A deployment that the user may accept.

    `exists` tells an update from a creation. An update without a change set changes nothing. `notes` are
    sentences that the user reads before the question.
    """

    parameters: dict[str, str]
    exists: bool
    change_set: ChangeSet | None
    notes: tuple[str, ...]


def plan(settings: AccountSettings, wanted: Deployment) -> Plan:
    """The deployment of the wanted options, with the changes that an update of the present stack makes.

    Raises `FruitsError` outside the allowed regions, before any call of AWS; for a stack that belongs to
    another project or cannot be updated, after a call that describes it; for options that `resolve` refuses;
    and for an update that removes or replaces data. `discarded_on_error` belongs around the question.
    """
    check_region(settings)
    with aws_errors_named():
        found = describe_stack(settings)
        if found is not None:
            check_ours(settings, found)
            _check_updatable(settings, found)
        cloudformation = client("cloudformation", settings.region)
        summary = cloudformation.get_template_summary(TemplateBody=TEMPLATE.read_text())
        parameters, notes = resolve(
            settings,
            wanted,
            {each["ParameterKey"]: each.get("DefaultValue", "") for each in summary["Parameters"]},
            parameters_of(found or {}),
            outputs_of(found or {}).get("Bucket"),
        )
        changes = propose(cloudformation, _request(settings, parameters)) if found else None
    return Plan(parameters, found is not None, changes, notes)


def _check_updatable(settings: AccountSettings, stack: Mapping[str, Any]) -> None:
    status, name = stack["StackStatus"], settings.emr_stack
    if status in UNFINISHED:
        raise FruitsError(
            f"The stack {name} is {status}: its creation or removal failed half-way. Remove the rest with "
            "`fruits emr destroy`, then run `fruits emr deploy` again."
        )
    if status not in READY or status.endswith("_IN_PROGRESS"):
        raise FruitsError(
            f"The stack {name} is {status}, so it cannot be updated. Wait until it is complete. After a "
            f"failed update, run `aws cloudformation continue-update-rollback --region {settings.region} "
            f"--stack-name {name}`."
        )


@contextmanager
def discarded_on_error(settings: AccountSettings, planned: Plan) -> Iterator[None]:
    """Deletes the change set of a plan if the block raises, as when the user declines or interrupts."""
    try:
        yield
    except BaseException:
        if planned.change_set is not None:
            with aws_errors_named():
                discard(client("cloudformation", settings.region), planned.change_set.id)
        raise


def makes_network(parameters: Mapping[str, str]) -> bool:
    """Whether the stack creates its own subnet, which has no route to the internet."""
    return not parameters["SubnetId"]


def idle_hour(parameters: Mapping[str, str], prices: Prices) -> float:
    """USD for an hour without a cluster: interface endpoints and the disks' key. Storage is not included."""
    with_endpoints = parameters["SessionManager"] == "yes" and makes_network(parameters)
    endpoints = SESSION_ENDPOINTS * prices.interface_endpoint_hour if with_endpoints else 0.0
    key = prices.kms_key_month / HOURS_A_MONTH if parameters["EncryptDisks"] == "yes" else 0.0
    return endpoints + key


def deploy(settings: AccountSettings, planned: Plan) -> Stack:
    """Creates or updates the stack, then uploads the bootstrap action and the packages of the nodes.

    Raises `FruitsError` with the reasons of CloudFormation where that fails.
    """
    check_region(settings)
    with aws_errors_named():
        with discarded_on_error(settings, planned):
            _make_service_linked_roles(settings)
        _create_or_update(settings, planned)
        stack = stack_outputs(settings)
        s3 = client("s3", settings.region)
        _upload(s3, BOOTSTRAP, stack.bootstrap_uri)
        _upload(s3, LOCK, stack.lock_uri)
        if stack.wheelhouse_uri is not None:
            with tempfile.TemporaryDirectory(dir=scratch_folder()) as folder:
                for architecture in get_args(Architecture):
                    download_wheels(LOCK, Path(folder) / architecture, architecture)
                _replace_files(s3, Path(folder), stack.wheelhouse_uri)
    return stack


def _make_service_linked_roles(settings: AccountSettings) -> None:
    from botocore.exceptions import ClientError

    iam = client("iam", settings.region)
    for service in _SERVICE_LINKED_ROLES:
        if iam.list_roles(PathPrefix=f"/aws-service-role/{service}/")["Roles"]:
            continue
        try:
            iam.create_service_linked_role(AWSServiceName=service)
        except ClientError as error:
            code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
            if code == "AccessDenied":
                raise FruitsError(
                    f"Clusters need the service-linked role of {service}, and you may not create it. Ask the "
                    "owner of the account to run `aws iam create-service-linked-role --aws-service-name "
                    f"{service}`, then deploy again. AWS says: {message}"
                ) from error
            # "Service role name ... has been taken in this account": it was created meanwhile.
            # https://github.com/awslabs/cdk-eks-blueprints/issues/865
            if code != "InvalidInput":
                raise


def _request(settings: AccountSettings, parameters: Mapping[str, str]) -> dict[str, Any]:
    """The members that CreateStack and CreateChangeSet share."""
    return {
        "StackName": settings.emr_stack,
        "TemplateBody": TEMPLATE.read_text(),
        "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        "Capabilities": ["CAPABILITY_NAMED_IAM"],
        # CloudFormation adds the stack's tags to each of its resources that can have tags.
        "Tags": [{"Key": key, "Value": value} for key, value in PROJECT_TAG.items()],
    }


def _create_or_update(settings: AccountSettings, planned: Plan) -> None:
    cloudformation = client("cloudformation", settings.region)
    name = settings.emr_stack
    if not planned.exists:
        request = _request(settings, planned.parameters)
        created = cloudformation.create_stack(**request, OnFailure="DELETE")["StackId"]
        wait_for_stack(cloudformation, "stack_create_complete", created)
    cloudformation.set_stack_policy(StackName=name, StackPolicyBody=json.dumps(_STACK_POLICY))
    if planned.change_set is not None:
        execute(cloudformation, planned.change_set)
        wait_for_stack(cloudformation, "stack_update_complete", name)
    # Not before the stack is complete: CloudFormation could not remove a creation that failed.
    # https://github.com/Kotaimen/awscfncli/issues/33
    cloudformation.update_termination_protection(StackName=name, EnableTerminationProtection=True)


def _upload(s3: Any, file: Path, uri: str) -> None:
    bucket, key = split_s3_uri(uri)
    s3.upload_file(str(file), bucket, key)


def _replace_files(s3: Any, folder: Path, uri: str) -> None:
    """Uploads the files below a folder, then deletes all other objects under the same prefix.

    Each node downloads all that is there.
    """
    files = {str(file.relative_to(folder)): file for file in sorted(folder.rglob("*.*"))}
    for name, file in files.items():
        _upload(s3, file, f"{uri}{name}")
    bucket, prefix = split_s3_uri(uri)
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for key in (entry["Key"] for entry in page.get("Contents", [])):
            if key.removeprefix(prefix) not in files:
                s3.delete_object(Bucket=bucket, Key=key)
