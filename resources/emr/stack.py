"""The stack of the account: whose it is, its state, and the outputs with which clusters are started."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from itertools import takewhile
from typing import Any, NamedTuple

from resources.emr.aws import aws_errors_named, client
from resources.instance_types import Architecture
from resources.settings import AccountSettings
from spark_jobs.errors import FruitsError

# The operator's policy allows calls on clusters with this tag only. The template contains it too.
PROJECT_TAG = {"project": "fruits"}
# EMR's managed policy lets EMR work on resources with this tag only. The template contains it too.
EMR_TAG = {"for-use-with-amazon-emr-managed-policies": "true"}
CLUSTER_TAGS = PROJECT_TAG | EMR_TAG

READY = frozenset(
    {
        "CREATE_COMPLETE",
        "UPDATE_COMPLETE",
        "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS",
        "UPDATE_ROLLBACK_COMPLETE",
    }
)
# A stack that can only be removed: its creation or its removal failed half-way.
UNFINISHED = frozenset({"CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_FAILED"})
# Outputs that the template has had since its first version.
_ALL_VERSIONS = ("Bucket", "ImagesUri", "StoreUri", "OperatorPolicyArn")


class Stack(NamedTuple):
    """The outputs of the stack, with which clusters are started.

    `instance_types` are the patterns, separated by commas, of the types that EMR may start.
    """

    bucket: str
    images_uri: str
    store_uri: str
    log_uri: str
    bootstrap_uri: str
    lock_uri: str
    wheelhouse_uri: str | None
    service_role: str
    instance_profile: str
    instance_types: str
    security_configuration: str
    subnet: str
    primary_security_group: str
    core_security_group: str
    service_security_group: str
    operator_policy_arn: str
    erasure_policy_arn: str

    def check_instance_type(self, instance_type: str) -> None:
        """Raises `FruitsError` for an instance type that EMR may not start with the roles of the stack."""
        if not any(fnmatchcase(instance_type, pattern) for pattern in self.instance_types.split(",")):
            raise FruitsError(
                f"The stack permits no instances {instance_type}, but {self.instance_types}. Use one of "
                "these types, or let an administrator permit more: `fruits emr deploy --instance-types`."
            )

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


def stack_outputs(settings: AccountSettings) -> Stack:
    """The outputs of the stack `FRUITS_EMR_STACK`.

    Raises `FruitsError` where there is no stack, where it is not ready, and where it lacks an output.
    """
    with aws_errors_named():
        found = describe_stack(settings)
    if found is None:
        raise no_stack(settings)
    if found["StackStatus"] not in READY:
        raise FruitsError(
            f"The stack {settings.emr_stack} is {found['StackStatus']}. Wait until it is complete, or run "
            "`fruits emr deploy` again."
        )
    values = outputs_of(found)
    fields = {field: values.get(_output(field)) for field in Stack._fields}
    missing = [field for field, value in fields.items() if value is None and field != "wheelhouse_uri"]
    if missing:
        raise FruitsError(
            f"The stack {settings.emr_stack} has no output for {', '.join(missing)}: it belongs to "
            "another project or an older version. Run `fruits emr deploy`, or name another stack in "
            "FRUITS_EMR_STACK."
        )
    return Stack(**fields)  # type: ignore[arg-type]  # only wheelhouse_uri may be None


def _output(field: str) -> str:
    """The name of the template's output for a field of `Stack`."""
    return field.title().replace("_", "")


def outputs_of(stack: Mapping[str, Any]) -> dict[str, str]:
    """The outputs in CloudFormation's description of a stack; a stack whose creation failed has none."""
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}


def parameters_of(stack: Mapping[str, Any]) -> dict[str, str]:
    """The parameters of the template in CloudFormation's description of a stack."""
    return {each["ParameterKey"]: each["ParameterValue"] for each in stack.get("Parameters", [])}


def no_stack(settings: AccountSettings) -> FruitsError:
    """The error of a stack that does not exist."""
    return FruitsError(
        f"There is no stack {settings.emr_stack} in {settings.region}. Create it with `fruits emr "
        "deploy`, or name another stack in FRUITS_EMR_STACK and FRUITS_REGION."
    )


def check_ours(settings: AccountSettings, stack: Mapping[str, Any]) -> None:
    """Raises `FruitsError` for a stack that this project did not create.

    A stack is of this project if it has the tag of the project, and outputs that all versions of its template
    have. A stack whose creation failed has no outputs, so its tag decides.
    """
    key, value = next(iter(PROJECT_TAG.items()))
    tagged = {"Key": key, "Value": value} in stack.get("Tags", [])
    unfinished = stack["StackStatus"] in UNFINISHED and not outputs_of(stack)
    missing = [name for name in _ALL_VERSIONS if name not in outputs_of(stack)]
    if tagged and (unfinished or not missing):
        return
    lacks = f"the output {missing[0]}" if tagged else f"the tag {key}={value}"
    raise FruitsError(
        f"The stack {settings.emr_stack} in {settings.region} belongs to another project: it lacks {lacks}. "
        "Nothing was changed. Choose a name that no other stack has, in FRUITS_EMR_STACK."
    )


def check_region(settings: AccountSettings) -> None:
    """Raises `FruitsError` where FRUITS_REGION is not among FRUITS_ALLOWED_REGIONS."""
    if settings.region not in settings.allowed_regions:
        raise FruitsError(
            f"FRUITS_REGION={settings.region} is not one of {', '.join(settings.allowed_regions)}, which "
            "photos may not leave. Use one of these regions, or add yours to FRUITS_ALLOWED_REGIONS."
        )


def describe_stack(settings: AccountSettings) -> dict[str, Any] | None:
    """CloudFormation's description of the stack `FRUITS_EMR_STACK`; None where there is no stack."""
    from botocore.exceptions import ClientError

    try:
        cloudformation = client("cloudformation", settings.region)
        stack: dict[str, Any] = cloudformation.describe_stacks(StackName=settings.emr_stack)["Stacks"][0]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ValidationError" and "does not exist" in str(error):
            return None
        raise
    return stack


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
