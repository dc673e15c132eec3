"""What EMR needs in an AWS account: one CloudFormation stack, made, read and removed here."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import combinations, takewhile
from pathlib import Path
from typing import Any, NamedTuple

from resources.aws import AwsError, aws_errors_named, client
from resources.instances import Prices
from resources.settings import AccountSettings

FOLDER = Path(__file__).parents[1] / "emr_bootstrap"
TEMPLATE, BOOTSTRAP, LOCK = (FOLDER / name for name in ("template.yaml", "bootstrap.sh", "requirements.lock"))

# What `PYSPARK_PYTHON` is on nodes that ran the bootstrap.
NODE_PYTHON = "/opt/fruits/venv/bin/python"

# The operator's policy allows calls on clusters with the first tag only, EMR's managed policy lets EMR itself
# work on what has the second one only. Both stand in the template too.
EMR_TAG = {"for-use-with-amazon-emr-managed-policies": "true"}
PROJECT_TAG = {"project": "fruits"}
CLUSTER_TAGS = PROJECT_TAG | EMR_TAG

# AWS makes them for an account's first cluster and first spot node, if whoever starts these may; an operator
# may not.
_SERVICE_LINKED_ROLES = ("elasticmapreduce.amazonaws.com", "spot.amazonaws.com")

_READY = frozenset(
    {
        "CREATE_COMPLETE",
        "UPDATE_COMPLETE",
        "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS",
        "UPDATE_ROLLBACK_COMPLETE",
    }
)
# What is left when a removal failed can be removed.
_REMOVABLE = _READY | {"DELETE_FAILED", "UPDATE_FAILED", "UPDATE_ROLLBACK_FAILED"}
_ALIVE = ["STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING", "TERMINATING"]
_YES_NO = {True: "yes", False: "no", None: None}
SESSION_ENDPOINTS = 2
HOURS_A_MONTH = 730


class Stack(NamedTuple):
    """The outputs of the stack, by which clusters are made."""

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

    def bootstrap_action(self) -> dict[str, Any]:
        """The member of RunJobFlow's `BootstrapActions` that gives every node its Python environment."""
        arguments = [self.lock_uri, *([self.wheelhouse_uri] if self.wheelhouse_uri else [])]
        return {
            "Name": "python environment",
            "ScriptBootstrapAction": {"Path": self.bootstrap_uri, "Args": arguments},
        }


class Deployment(NamedTuple):
    """What a deployment is asked for; None leaves it as it is, or to the template's default.

    `subnet` is an existing private subnet in the place of a new one. `retention_days` is when photos and
    results are erased, 0 for never.
    """

    photos_prefix: str | None = None
    store_prefix: str | None = None
    retention_days: int | None = None
    subnet: str | None = None
    session_manager: bool | None = None
    wheelhouse: bool | None = None


class Contents(NamedTuple):
    """What lies in a bucket, old versions and the marks of deletions apart."""

    objects: int
    old_versions: int
    bytes: int


def stack_outputs(settings: AccountSettings, to_remove: bool = False) -> Stack:
    """The outputs of the stack `FRUITS_EMR_STACK`.

    Raises `AwsError` where there is none that is ready: to be used, or only to be removed.
    """
    with aws_errors_named():
        found = _describe(settings)
    if found is None:
        raise AwsError(
            f"There is no stack {settings.emr_stack} in {settings.region}. Make it by `fruits emr deploy`, "
            "or name another in FRUITS_EMR_STACK and FRUITS_REGION."
        )
    if found["StackStatus"] not in (_REMOVABLE if to_remove else _READY):
        raise AwsError(
            f"The stack {settings.emr_stack} is {found['StackStatus']}. Wait for it to be complete, or run "
            "`fruits emr deploy` again."
        )
    values = {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])}
    fields = {field: values.get(field.title().replace("_", "")) for field in Stack._fields}
    missing = [field for field, value in fields.items() if value is None and field != "wheelhouse_uri"]
    if missing:
        raise AwsError(
            f"The stack {settings.emr_stack} has no output for {', '.join(missing)}: it is not this "
            "project's, or an older one. Run `fruits emr deploy`, or name another in FRUITS_EMR_STACK."
        )
    return Stack(**fields)  # type: ignore[arg-type]  # what may not be None is not


def plan(settings: AccountSettings, wanted: Deployment) -> dict[str, str]:
    """The template's parameters: as asked for, else as in the stack that is there, else its defaults.

    Raises `AwsError` outside the allowed regions, before anything is called, and for a subnet that EMR
    may not use.
    """
    _check_region(settings)
    with aws_errors_named():
        cloudformation = client("cloudformation", settings.region)
        summary = cloudformation.get_template_summary(TemplateBody=TEMPLATE.read_text())
        parameters = {each["ParameterKey"]: each["DefaultValue"] for each in summary["Parameters"]}
        found = _describe(settings) or {}
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
    """Whether the stack has a subnet of its own, from which there is no way to the internet."""
    return not parameters["SubnetId"]


def idle_hour(parameters: Mapping[str, str], prices: Prices) -> float:
    """USD for an hour in which no cluster runs, without what is stored: the interface endpoints."""
    endpoints = SESSION_ENDPOINTS if parameters["SessionManager"] == "yes" else 0
    return endpoints * prices.interface_endpoint_hour if makes_network(parameters) else 0.0


def deploy(settings: AccountSettings, parameters: Mapping[str, str]) -> Stack:
    """Creates or updates the stack by a plan, then uploads what nodes install.

    Raises `AwsError` with CloudFormation's own reasons where it fails.
    """
    _check_region(settings)
    with aws_errors_named():
        _make_service_linked_roles(settings)
        _create_or_update(settings, parameters)
        stack = stack_outputs(settings)
        s3 = client("s3", settings.region)
        _upload(s3, BOOTSTRAP, stack.bootstrap_uri)
        _upload(s3, LOCK, stack.lock_uri)
        if stack.wheelhouse_uri is not None:
            with tempfile.TemporaryDirectory() as folder:
                download_wheels(Path(folder))
                for wheel in sorted(Path(folder).iterdir()):
                    _upload(s3, wheel, f"{stack.wheelhouse_uri}{wheel.name}")
    return stack


def download_wheels(folder: Path) -> None:
    """Puts the wheels of the nodes' lock into a folder, each checked against its hash.

    They are for EMR's nodes whatever runs this: CPython 3.11, x86-64, and the glibc 2.34 of Amazon Linux
    2023. Raises `AwsError` with the end of what pip says.
    """
    platforms = ["manylinux2014_x86_64", *(f"manylinux_2_{minor}_x86_64" for minor in range(17, 35))]
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--require-hashes", "--no-deps", "--only-binary", ":all:"),
        *("--python-version", "3.11", "--implementation", "cp"),
        *(part for platform in platforms for part in ("--platform", platform)),
        *("--dest", str(folder), "--requirement", str(LOCK)),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise AwsError(f"The nodes' packages could not be downloaded; pip says\n{done.stderr[-1500:]}")


def contents(settings: AccountSettings, stack: Stack) -> Contents:
    """How much is in the stack's bucket."""
    objects = old = size = 0
    with aws_errors_named():
        for page in _versions(client("s3", settings.region), stack.bucket):
            for version in page.get("Versions", []):
                objects, old = objects + version["IsLatest"], old + (not version["IsLatest"])
                size += version["Size"]
    return Contents(objects, old, size)


def destroy(settings: AccountSettings, stack: Stack) -> None:
    """Empties the stack's bucket, old versions included, and deletes the stack with all that is in it.

    Raises `AwsError` outside the allowed regions and while a cluster still uses the stack's network,
    before anything is deleted, and with CloudFormation's own reasons where it fails; it can be called again
    then.
    """
    _check_region(settings)
    with aws_errors_named():
        _check_no_cluster(settings, stack)
        _empty(client("s3", settings.region), stack.bucket)
        _revoke_rules(client("ec2", settings.region), stack)
        for policy in (stack.operator_policy_arn, stack.erasure_policy_arn):
            _detach(client("iam", settings.region), policy)
        _delete(settings)


def _detach(iam: Any, policy: str) -> None:
    """Takes a policy, if it is there, from whoever was given it; an attached one can't be deleted."""
    from botocore.exceptions import ClientError

    try:
        pages = list(iam.get_paginator("list_entities_for_policy").paginate(PolicyArn=policy))
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchEntity":
            raise
        return
    for page in pages:
        for user in page["PolicyUsers"]:
            iam.detach_user_policy(UserName=user["UserName"], PolicyArn=policy)
        for group in page["PolicyGroups"]:
            iam.detach_group_policy(GroupName=group["GroupName"], PolicyArn=policy)
        for role in page["PolicyRoles"]:
            iam.detach_role_policy(RoleName=role["RoleName"], PolicyArn=policy)


def _check_region(settings: AccountSettings) -> None:
    if settings.region not in settings.allowed_regions:
        raise AwsError(
            f"FRUITS_REGION={settings.region} is not one of {', '.join(settings.allowed_regions)}, which "
            "photos may not leave. Use one of these, or name the region in FRUITS_ALLOWED_REGIONS."
        )


def _check_prefixes(photos: str, store: str) -> None:
    """Raises `AwsError` where who may write one place of the bucket could write another."""
    for one, other in combinations((photos, store, "logs", "bootstrap"), 2):
        if f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/"):
            raise AwsError(
                f"The prefixes {one} and {other} lie inside each other, and different rights hold in them. "
                "Give --photos-prefix and --store-prefix others, apart from logs and bootstrap."
            )


def _describe(settings: AccountSettings) -> dict[str, Any] | None:
    from botocore.exceptions import ClientError

    try:
        cloudformation = client("cloudformation", settings.region)
        [stack] = cloudformation.describe_stacks(StackName=settings.emr_stack)["Stacks"]
    except ClientError as error:
        if "does not exist" in str(error):
            return None
        raise
    return stack


def _vpc_of(settings: AccountSettings, subnet: str) -> str:
    """The VPC of a subnet, which must have EMR's tag."""
    [found] = client("ec2", settings.region).describe_subnets(SubnetIds=[subnet])["Subnets"]
    [(key, value)] = EMR_TAG.items()
    if {"Key": key, "Value": value} not in found.get("Tags", []):
        raise AwsError(
            f"The subnet {subnet} lacks the tag without which EMR may not use it. Give it by `aws ec2 "
            f"create-tags --region {settings.region} --resources {subnet} --tags Key={key},Value={value}`."
        )
    return found["VpcId"]


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
        "Capabilities": ["CAPABILITY_IAM"],
        # CloudFormation gives them to everything in the stack that can have tags.
        "Tags": [{"Key": key, "Value": value} for key, value in PROJECT_TAG.items()],
    }
    if _describe(settings) is None:
        identity = cloudformation.create_stack(**request, OnFailure="DELETE")["StackId"]
        _wait(cloudformation, "stack_create_complete", identity)
        return
    try:
        identity = cloudformation.update_stack(**request)["StackId"]
    except ClientError as error:
        if "No updates are to be performed" in str(error):
            return
        raise
    _wait(cloudformation, "stack_update_complete", identity)


def _delete(settings: AccountSettings) -> None:
    cloudformation = client("cloudformation", settings.region)
    found = _describe(settings)
    if found is not None:
        # By its id, under which a deleted stack can still be described.
        cloudformation.delete_stack(StackName=found["StackId"])
        _wait(cloudformation, "stack_delete_complete", found["StackId"])


def _wait(cloudformation: Any, until: str, stack: str) -> None:
    from botocore.exceptions import WaiterError

    try:
        cloudformation.get_waiter(until).wait(StackName=stack, WaiterConfig={"Delay": 5, "MaxAttempts": 360})
    except WaiterError as error:
        events = cloudformation.describe_stack_events(StackName=stack)["StackEvents"]
        reasons = [
            f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason', 'no reason given')}"
            # The newest come first: those since this was asked for.
            for event in takewhile(
                lambda event: event.get("ResourceStatusReason") != "User Initiated", events
            )
            if event["ResourceStatus"].endswith("_FAILED")
        ]
        raise AwsError(
            f"CloudFormation did not bring {stack} to the end: {'; '.join(reversed(reasons)) or error}"
        ) from error


def _upload(s3: Any, file: Path, uri: str) -> None:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    s3.upload_file(str(file), bucket, key)


def _check_no_cluster(settings: AccountSettings, stack: Stack) -> None:
    emr = client("emr", settings.region)
    for page in emr.get_paginator("list_clusters").paginate(ClusterStates=_ALIVE):
        for listed in page["Clusters"]:
            cluster = emr.describe_cluster(ClusterId=listed["Id"])["Cluster"]
            if cluster.get("Ec2InstanceAttributes", {}).get("Ec2SubnetId") == stack.subnet:
                raise AwsError(
                    f"The cluster {listed['Id']} ({listed['Name']}) in this network is "
                    f"{listed['Status']['State']}. Wait for it to end, or end it by `aws emr "
                    f"terminate-clusters --region {settings.region} --cluster-ids {listed['Id']}`."
                )


def _versions(s3: Any, bucket: str) -> Iterator[dict[str, Any]]:
    """Pages of all versions and deletion marks in a bucket; none where the bucket is gone."""
    with suppress(s3.exceptions.NoSuchBucket):
        yield from s3.get_paginator("list_object_versions").paginate(Bucket=bucket)


def _empty(s3: Any, bucket: str) -> None:
    # Always the first page of what is left, so that no page is counted from what is deleted already.
    while page := next(_versions(s3, bucket), None):
        found = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        if not found:
            return
        names = [{"Key": version["Key"], "VersionId": version["VersionId"]} for version in found]
        answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": names, "Quiet": True})
        for error in answer.get("Errors", []):
            raise AwsError(f"s3://{bucket}/{error['Key']} could not be deleted: {error['Message']}")


def _revoke_rules(ec2: Any, stack: Stack) -> None:
    """Takes the inbound rules from the stack's security groups, those too that EMR has added.

    A group that another one's rule names can't be deleted, and CloudFormation knows only of its own rules.
    """
    groups = [stack.primary_security_group, stack.core_security_group, stack.service_security_group]
    rules = ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": groups}])
    for group in groups:
        inbound = [
            rule["SecurityGroupRuleId"]
            for rule in rules["SecurityGroupRules"]
            if rule["GroupId"] == group and not rule["IsEgress"]
        ]
        if inbound:
            ec2.revoke_security_group_ingress(GroupId=group, SecurityGroupRuleIds=inbound)
