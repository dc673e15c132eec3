"""Makes an AWS account ready for EMR: deploys one CloudFormation stack, and reads its outputs."""

import tempfile
from collections.abc import Mapping
from itertools import combinations, takewhile
from pathlib import Path
from typing import Any, NamedTuple, get_args

import emr_bootstrap
from resources.emr.aws import aws_errors_named, client
from resources.emr.wheels import download_wheels
from resources.instance_types import Architecture
from resources.prices import Prices
from resources.settings import AccountSettings
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import split_s3_uri

FOLDER = Path(emr_bootstrap.__file__).parent
TEMPLATE, BOOTSTRAP, LOCK = (FOLDER / name for name in ("template.yaml", "bootstrap.sh", "requirements.lock"))

# `PYSPARK_PYTHON` of the nodes, in the environment that bootstrap.sh makes.
NODE_PYTHON = "/opt/fruits/venv/bin/python"

# The operator's policy allows calls on clusters with PROJECT_TAG only. EMR's managed policy lets EMR work on
# resources with EMR_TAG only. The template contains both tags too.
EMR_TAG = {"for-use-with-amazon-emr-managed-policies": "true"}
PROJECT_TAG = {"project": "fruits"}
CLUSTER_TAGS = PROJECT_TAG | EMR_TAG

# AWS creates these roles with an account's first cluster and first spot node, but not for an operator, whose
# policy does not allow it.
_SERVICE_LINKED_ROLES = ("elasticmapreduce.amazonaws.com", "spot.amazonaws.com")

_READY = frozenset(
    {
        "CREATE_COMPLETE",
        "UPDATE_COMPLETE",
        "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS",
        "UPDATE_ROLLBACK_COMPLETE",
    }
)
# A stack whose removal or update failed can be removed.
_REMOVABLE = _READY | {"DELETE_FAILED", "UPDATE_FAILED", "UPDATE_ROLLBACK_FAILED"}
_YES_NO = {True: "yes", False: "no", None: None}
SESSION_ENDPOINTS = 2
HOURS_A_MONTH = 730


class Stack(NamedTuple):
    """The outputs of the stack, with which clusters are started."""

    bucket: str
    images_uri: str
    store_uri: str
    log_uri: str
    bootstrap_uri: str
    lock_uri: str
    wheelhouse_uri: str | None
    service_role: str
    instance_profile: str
    subnet: str
    primary_security_group: str
    core_security_group: str
    service_security_group: str
    operator_policy_arn: str
    erasure_policy_arn: str

    def wheelhouse(self, architecture: Architecture) -> str | None:
        """The prefix of the wheels for nodes of an architecture; None where nodes use a package index."""
        return self.wheelhouse_uri and f"{self.wheelhouse_uri}{architecture}/"

    def bootstrap_action(self, architecture: Architecture) -> dict[str, Any]:
        """The member of RunJobFlow's `BootstrapActions` that makes the Python environment of every node.

        Raises `FruitsError` for aarch64 without a wheelhouse.
        """
        wheelhouse = self.wheelhouse(architecture)
        if wheelhouse is None and architecture == "aarch64":
            raise FruitsError(
                "Nodes with Graviton processors (aarch64) can't install openvino from a package index: pip "
                "on Amazon Linux 2023 refuses the name of its wheel. Run `fruits emr deploy --wheelhouse`, "
                "or set FRUITS_EMR_PRIMARY_TYPE and FRUITS_EMR_CORE_TYPE to x86_64 types, such as m5.xlarge."
            )
        arguments = [self.lock_uri, *([wheelhouse] if wheelhouse else [])]
        return {
            "Name": "python environment",
            "ScriptBootstrapAction": {"Path": self.bootstrap_uri, "Args": arguments},
        }


class Deployment(NamedTuple):
    """The options of a deployment. None keeps the value of the stack, or the template's default.

    `subnet` is an existing private subnet, used instead of a new one. S3 deletes photos after
    `retention_days`; 0 keeps them.
    """

    photos_prefix: str | None = None
    store_prefix: str | None = None
    retention_days: int | None = None
    subnet: str | None = None
    session_manager: bool | None = None
    wheelhouse: bool | None = None


def stack_outputs(settings: AccountSettings, to_remove: bool = False) -> Stack:
    """The outputs of the stack `FRUITS_EMR_STACK`.

    Raises `FruitsError` where there is no stack, or where it is not ready to be used (or removed).
    """
    with aws_errors_named():
        found = describe_stack(settings)
    if found is None:
        raise FruitsError(
            f"There is no stack {settings.emr_stack} in {settings.region}. Create it with `fruits emr "
            "deploy`, or name another stack in FRUITS_EMR_STACK and FRUITS_REGION."
        )
    if found["StackStatus"] not in (_REMOVABLE if to_remove else _READY):
        raise FruitsError(
            f"The stack {settings.emr_stack} is {found['StackStatus']}. Wait until it is complete, or run "
            "`fruits emr deploy` again."
        )
    values = {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])}
    fields = {field: values.get(field.title().replace("_", "")) for field in Stack._fields}
    missing = [field for field, value in fields.items() if value is None and field != "wheelhouse_uri"]
    if missing:
        raise FruitsError(
            f"The stack {settings.emr_stack} has no output for {', '.join(missing)}: it belongs to "
            "another project or an older version. Run `fruits emr deploy`, or name another stack in "
            "FRUITS_EMR_STACK."
        )
    return Stack(**fields)  # type: ignore[arg-type]  # only wheelhouse_uri may be None


def plan(settings: AccountSettings, wanted: Deployment) -> dict[str, str]:
    """The template's parameters: the wanted values, else those of the present stack, else the defaults.

    Raises `FruitsError` outside the allowed regions, before any call of AWS, for a subnet that EMR may not
    use, and for prefixes inside each other.
    """
    check_region(settings)
    with aws_errors_named():
        cloudformation = client("cloudformation", settings.region)
        summary = cloudformation.get_template_summary(TemplateBody=TEMPLATE.read_text())
        parameters = {each["ParameterKey"]: each["DefaultValue"] for each in summary["Parameters"]}
        found = describe_stack(settings) or {}
        before = {each["ParameterKey"]: each["ParameterValue"] for each in found.get("Parameters", [])}
        asked = {
            "PhotosPrefix": wanted.photos_prefix,
            "StorePrefix": wanted.store_prefix,
            "RetentionDays": wanted.retention_days,
            "SubnetId": wanted.subnet,
            "VpcId": wanted.subnet and _vpc_of(settings, wanted.subnet),
            "SessionManager": _YES_NO[wanted.session_manager],
            "Wheelhouse": _YES_NO[wanted.wheelhouse],
        }
    given = before | {name: str(value) for name, value in asked.items() if value is not None}
    parameters = {name: given.get(name, default) for name, default in parameters.items()}
    _check_prefixes(parameters["PhotosPrefix"], parameters["StorePrefix"])
    return parameters


def makes_network(parameters: Mapping[str, str]) -> bool:
    """Whether the stack creates its own subnet, which has no route to the internet."""
    return not parameters["SubnetId"]


def idle_hour(parameters: Mapping[str, str], prices: Prices) -> float:
    """USD for an hour without a cluster: the interface endpoints. Storage in S3 is not included."""
    endpoints = SESSION_ENDPOINTS if parameters["SessionManager"] == "yes" else 0
    return endpoints * prices.interface_endpoint_hour if makes_network(parameters) else 0.0


def deploy(settings: AccountSettings, parameters: Mapping[str, str]) -> Stack:
    """Creates or updates the stack, then uploads the bootstrap action and the packages of the nodes.

    Raises `FruitsError` with the reasons of CloudFormation where that fails.
    """
    check_region(settings)
    with aws_errors_named():
        _make_service_linked_roles(settings)
        _create_or_update(settings, parameters)
        stack = stack_outputs(settings)
        s3 = client("s3", settings.region)
        _upload(s3, BOOTSTRAP, stack.bootstrap_uri)
        _upload(s3, LOCK, stack.lock_uri)
        if stack.wheelhouse_uri is not None:
            for architecture in get_args(Architecture):
                with tempfile.TemporaryDirectory() as folder:
                    download_wheels(LOCK, Path(folder), architecture)
                    for wheel in sorted(Path(folder).iterdir()):
                        _upload(s3, wheel, f"{stack.wheelhouse(architecture)}{wheel.name}")
    return stack


def check_region(settings: AccountSettings) -> None:
    """Raises `FruitsError` where FRUITS_REGION is not among FRUITS_ALLOWED_REGIONS."""
    if settings.region not in settings.allowed_regions:
        raise FruitsError(
            f"FRUITS_REGION={settings.region} is not one of {', '.join(settings.allowed_regions)}, which "
            "photos may not leave. Use one of these regions, or add yours to FRUITS_ALLOWED_REGIONS."
        )


def _check_prefixes(photos: str, store: str) -> None:
    """Raises `FruitsError` where one prefix contains another, because each has different permissions."""
    for first, second in combinations((photos, store, "logs", "bootstrap"), 2):
        if f"{first}/".startswith(f"{second}/") or f"{second}/".startswith(f"{first}/"):
            raise FruitsError(
                f"The prefixes {first} and {second} lie inside each other, but have different permissions. "
                "Choose --photos-prefix and --store-prefix apart from each other and from logs and bootstrap."
            )


def describe_stack(settings: AccountSettings) -> dict[str, Any] | None:
    """CloudFormation's description of the stack `FRUITS_EMR_STACK`; None where there is no stack."""
    from botocore.exceptions import ClientError

    try:
        cloudformation = client("cloudformation", settings.region)
        stack: dict[str, Any] = cloudformation.describe_stacks(StackName=settings.emr_stack)["Stacks"][0]
    except ClientError as error:
        if "does not exist" in str(error):
            return None
        raise
    return stack


def _vpc_of(settings: AccountSettings, subnet: str) -> str:
    """The VPC of a subnet. Raises `FruitsError` where the subnet lacks EMR's tag."""
    [found] = client("ec2", settings.region).describe_subnets(SubnetIds=[subnet])["Subnets"]
    [(key, value)] = EMR_TAG.items()
    if {"Key": key, "Value": value} not in found.get("Tags", []):
        raise FruitsError(
            f"The subnet {subnet} lacks the tag without which EMR may not use it. Add it with `aws ec2 "
            f"create-tags --region {settings.region} --resources {subnet} --tags Key={key},Value={value}`."
        )
    return str(found["VpcId"])


def _make_service_linked_roles(settings: AccountSettings) -> None:
    iam = client("iam", settings.region)
    for service in _SERVICE_LINKED_ROLES:
        if not iam.list_roles(PathPrefix=f"/aws-service-role/{service}/")["Roles"]:
            iam.create_service_linked_role(AWSServiceName=service)


def _create_or_update(settings: AccountSettings, parameters: Mapping[str, str]) -> None:
    from botocore.exceptions import ClientError

    cloudformation = client("cloudformation", settings.region)
    request: dict[str, Any] = {
        "StackName": settings.emr_stack,
        "TemplateBody": TEMPLATE.read_text(),
        "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        # The template names the role of the nodes.
        "Capabilities": ["CAPABILITY_NAMED_IAM"],
        # CloudFormation adds the stack's tags to each of its resources that can have tags.
        "Tags": [{"Key": key, "Value": value} for key, value in PROJECT_TAG.items()],
    }
    if describe_stack(settings) is None:
        identity = cloudformation.create_stack(**request, OnFailure="DELETE")["StackId"]
        wait_for_stack(cloudformation, "stack_create_complete", identity)
        return
    try:
        identity = cloudformation.update_stack(**request)["StackId"]
    except ClientError as error:
        if "No updates are to be performed" in str(error):
            return
        raise
    wait_for_stack(cloudformation, "stack_update_complete", identity)


def wait_for_stack(cloudformation: Any, waiter: str, stack: str) -> None:
    """Waits up to 30 minutes with a waiter of boto3. Raises `FruitsError` with the reasons of a failure."""
    from botocore.exceptions import WaiterError

    try:
        cloudformation.get_waiter(waiter).wait(StackName=stack, WaiterConfig={"Delay": 5, "MaxAttempts": 360})
    except WaiterError as error:
        events = cloudformation.describe_stack_events(StackName=stack)["StackEvents"]
        reasons = [
            f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason', 'no reason given')}"
            # The newest events come first. Those above "User Initiated" belong to this deployment or removal.
            for event in takewhile(
                lambda event: event.get("ResourceStatusReason") != "User Initiated", events
            )
            if event["ResourceStatus"].endswith("_FAILED")
        ]
        raise FruitsError(
            f"CloudFormation failed with {stack}: {'; '.join(reversed(reasons)) or error}"
        ) from error


def _upload(s3: Any, file: Path, uri: str) -> None:
    bucket, key = split_s3_uri(uri)
    s3.upload_file(str(file), bucket, key)
