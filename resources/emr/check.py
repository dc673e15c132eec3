"""Asks a real account, before the first run, for all that can be known without cost and without a change."""

import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, Literal, NamedTuple

from resources.emr.aws import aws_errors_named, client
from resources.emr.lifecycle import check_hourly_cost, cluster_request, hourly_cost
from resources.emr.residency import BucketQuestions, check_cluster
from resources.emr.run_calls import allows, calls_of_run, policy_source
from resources.emr.stack import (
    PROJECT_TAG,
    Stack,
    check_ours,
    check_region,
    describe_stack,
    no_stack,
    parameters_of,
    stack_outputs,
)
from resources.emr.uploads import missing_uploads
from resources.instance_types import common_architecture, instance
from resources.prices import load_prices
from resources.settings import Settings
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import split_s3_uri
from spark_jobs.wording import named

# Service Quotas' codes for the vCPUs of all running instances of the families A, C, D, H, I, M, R, T and Z in
# a region. A new account has 5 vCPUs of each, or fewer:
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-on-demand-instances.html#ec2-on-demand-instances-limits
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/using-spot-limits.html
ON_DEMAND_VCPUS, SPOT_VCPUS = "L-1216C47A", "L-34B43A08"

# The ARN of a user, of a role, or of a session of a role.
_CALLER = re.compile(
    r"arn:(?P<partition>[a-z-]+):(?:iam|sts)::(?P<account>\d{12}):(?:user|role|assumed-role)/.+"
)

State = Literal["pass", "failed", "not known"]
Question = Callable[[], str]


class Line(NamedTuple):
    """The answer to a question. `text` has the facts that were found, and for a failure the remedy."""

    name: str
    state: State
    text: str


class _NotKnown(Exception):
    """AWS gives no answer, for the reason in the message."""


def check_account(settings: Settings, operator: str | None = None) -> Iterator[Line]:
    """Asks the questions one by one. A call that is refused or fails leaves only its own line "not known".

    `operator` is the ARN of the user or role whose permissions are simulated; without it, the caller's.
    """
    for name, question in _Account(settings, operator).questions():
        yield _line(name, question)


def _line(name: str, question: Question) -> Line:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return Line(name, "pass", question())
    except _NotKnown as unknown:
        return Line(name, "not known", str(unknown))
    except FruitsError as error:
        return Line(name, "not known" if error.retry_helps else "failed", str(error))
    except (ClientError, BotoCoreError) as error:
        return Line(name, "not known", _sentence(error))


def _sentence(error: Exception) -> str:
    """An error of AWS in the words of `aws_errors_named`."""
    try:
        with aws_errors_named():
            raise error
    except FruitsError as sentence:
        return str(sentence)


class _Account:
    """The questions about an account. Each returns the found facts, or raises `FruitsError` for a failure."""

    def __init__(self, settings: Settings, operator: str | None) -> None:
        self._settings = settings
        self._operator = operator
        self._encrypts_disks = False
        self._stack: Stack | None = None

    def questions(self) -> Iterator[tuple[str, Question]]:
        """The questions that matter for the settings, with the names of their lines."""
        settings = self._settings
        yield "identity", self._who
        yield "region", self._region
        if settings.emr_cluster:
            yield "FRUITS_EMR_CLUSTER", lambda: self._cluster(str(settings.emr_cluster))
        else:
            yield "stack", self._deployed
            yield "request", self._request
            yield "uploads", self._uploads
        images = settings.images, settings.images_account
        store = settings.store, settings.store_account
        yield "FRUITS_IMAGES", lambda: self._root("FRUITS_IMAGES", *images, "images_uri")
        yield "FRUITS_STORE", lambda: self._root("FRUITS_STORE", *store, "store_uri")
        if not settings.emr_cluster:
            yield from self._room()
        # Last, because it makes a call for each call of a run.
        yield "permissions", self._permissions

    def _room(self) -> Iterator[tuple[str, Question]]:
        """The questions about the nodes of a new cluster."""
        settings = self._settings
        core = instance(settings.emr_core_type).vcpus * settings.emr_most_nodes
        on_demand = instance(settings.emr_primary_type).vcpus + (0 if settings.emr_spot else core)
        yield "role of EMR", lambda: self._linked_role("elasticmapreduce")
        yield "vCPUs on demand", lambda: self._quota(ON_DEMAND_VCPUS, on_demand)
        if settings.emr_spot:
            yield "role of spot", lambda: self._linked_role("spot")
            yield "vCPUs of spot", lambda: self._quota(SPOT_VCPUS, core)
        yield "instance types", self._instance_types
        yield "addresses", self._addresses
        yield "cost", self._cost
        yield "disks", self._disks

    def _client(self, service: str) -> Any:
        return client(service, self._settings.region)

    def _known_stack(self) -> Stack:
        if self._stack is None:
            raise _NotKnown("It depends on the stack, which is not known.")
        return self._stack

    # The caller.

    @cached_property
    def _identity(self) -> dict[str, str]:
        answer: dict[str, str] = self._client("sts").get_caller_identity()
        return answer

    def _who(self) -> str:
        # The call needs no permission, so a refusal tells that the credentials are not valid.
        with aws_errors_named():
            return f"{self._identity['Arn']} in the account {self._identity['Account']}"

    def _region(self) -> str:
        check_region(self._settings)
        return f"{self._settings.region} is in FRUITS_ALLOWED_REGIONS"

    # The stack, and what `fruits emr deploy` uploads.

    def _deployed(self) -> str:
        found = describe_stack(self._settings)
        if found is None:
            raise no_stack(self._settings)
        check_ours(self._settings, found)
        self._encrypts_disks = parameters_of(found).get("EncryptDisks") == "yes"
        self._stack = stack_outputs(self._settings)
        return f"{self._settings.emr_stack} is {found['StackStatus']}, with all outputs of this version"

    def _uploads(self) -> str:
        settings, stack = self._settings, self._known_stack()
        architecture = common_architecture(settings.emr_primary_type, settings.emr_core_type)
        missing = missing_uploads(self._client("s3"), stack, architecture)
        if missing:
            raise FruitsError(f"{named(missing, 3)}. Upload them: `fruits emr deploy`.")
        wheels = f"the wheels for {architecture}" if stack.wheelhouse_uri else "no wheels: nodes use an index"
        return f"bootstrap.sh and requirements.lock of this version, and {wheels}"

    def _request(self) -> str:
        settings = self._settings
        cluster_request(settings, self._known_stack(), "check")
        return (
            f"a primary node {settings.emr_primary_type} and {settings.emr_core_nodes} to "
            f"{settings.emr_most_nodes} core nodes {settings.emr_core_type} with {settings.emr_release}"
        )

    # The data.

    def _root(self, variable: str, root: str, account: str | None, output: str) -> str:
        """Asks for the bucket of a root, which clusters of the stack reach only below an output of it."""
        settings = self._settings
        if not root.startswith("s3://"):
            raise FruitsError(f"{variable}={root} is on this machine. Set it to s3://bucket/prefix.")
        if self._stack is not None:
            most = getattr(self._stack, output)
            if not f"{root}/".startswith(f"{most}/"):
                raise FruitsError(
                    f"{variable}={root} is not below {most}, which the policies of the stack "
                    f"{settings.emr_stack} open. Set {variable}={most}."
                )
        bucket, owner = split_s3_uri(root)[0], account or self._identity["Account"]
        asked = BucketQuestions(settings, self._client("s3"), bucket, variable, owner)
        region = asked.region()
        if region != settings.region:
            raise FruitsError(
                f"The bucket {bucket} of {variable} is in {region}, and the private subnet of clusters "
                f"reaches S3 in FRUITS_REGION={settings.region} only. Use a bucket there, or set "
                f"FRUITS_REGION={region}."
            )
        asked.replication()
        algorithm = asked.encryption().get("SSEAlgorithm", "")
        found = f"{root} is in {region}, encrypted with {algorithm}"
        if self._stack is None and not settings.emr_cluster:
            raise _NotKnown(f"{found}, but whether the policies of the stack open it is not known.")
        return found

    # The permissions.

    def _permissions(self) -> str:
        from botocore.exceptions import ClientError

        settings = self._settings
        caller = self._operator or self._identity["Arn"]
        stack = None if settings.emr_cluster else self._known_stack()
        named_caller = _CALLER.fullmatch(caller)
        if named_caller is None:
            raise _NotKnown(
                f"{caller} is not the ARN of a user or a role, and AWS simulates no other permissions. "
                "Name one: `fruits emr check --operator ARN`."
            )
        calls = list(calls_of_run(settings, named_caller["account"], named_caller["partition"], stack))
        try:
            iam = self._client("iam")
            source = policy_source(iam, caller)
            refused = [call for call in calls if not allows(iam, source, call)]
        except ClientError as error:
            if _code(error) != "AccessDenied":
                raise
            raise _NotKnown(
                f"{_sentence(error).rstrip('.')}. An administrator can ask: `fruits emr check --operator "
                f"{caller}`."
            ) from error
        if not refused:
            return f"the policies of {source} allow the {len(calls)} calls of a run"
        kind, _, name = source.split(":")[5].partition("/")
        policy = stack.operator_policy_arn if stack else "OPERATOR_POLICY_ARN"
        names = named([f"{call.action} on {call.resource}" for call in refused], 5)
        raise FruitsError(
            f"The policies of {source} do not allow {names}. Attach the policy of the stack: `aws iam "
            f"attach-{kind}-policy --{kind}-name {name.rpartition('/')[2]} --policy-arn {policy}`. If it is "
            "attached, another policy denies the call."
        )

    def _linked_role(self, service: str) -> str:
        iam = self._client("iam")
        roles = iam.list_roles(PathPrefix=f"/aws-service-role/{service}.amazonaws.com/")["Roles"]
        if roles:
            return str(roles[0]["Arn"])
        raise FruitsError(
            f"The account has no service-linked role of {service}, and operators may not create it. Run "
            "`fruits emr deploy`, or `aws iam create-service-linked-role --aws-service-name "
            f"{service}.amazonaws.com`."
        )

    # Room for the nodes.

    def _quota(self, code: str, needed: int) -> str:
        quota = self._client("service-quotas").get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]
        name, value = quota["QuotaName"], int(quota["Value"])
        found = f"{needed} vCPUs of a cluster, and the quota {code} ({name}) is {value}"
        if value < needed:
            raise FruitsError(
                f"{found}. Ask AWS for more: `aws service-quotas request-service-quota-increase --region "
                f"{self._settings.region} --service-code ec2 --quota-code {code} --desired-value {needed}`, "
                "with the vCPUs of your other instances in addition. Or use fewer or smaller nodes."
            )
        return f"{found}, which your other instances share"

    @cached_property
    def _subnet(self) -> dict[str, Any]:
        subnet = self._known_stack().subnet
        found: dict[str, Any] = self._client("ec2").describe_subnets(SubnetIds=[subnet])["Subnets"][0]
        return found

    def _instance_types(self) -> str:
        settings, zone = self._settings, self._subnet["AvailabilityZone"]
        wanted = sorted({settings.emr_primary_type, settings.emr_core_type})
        pages = (
            self._client("ec2")
            .get_paginator("describe_instance_type_offerings")
            .paginate(LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": wanted}])
        )
        offers = [offer for page in pages for offer in page["InstanceTypeOfferings"]]
        for kind in wanted:
            zones = sorted(offer["Location"] for offer in offers if offer["InstanceType"] == kind)
            if zone not in zones:
                raise FruitsError(
                    f"EC2 does not offer {kind} in {zone}, the zone of the subnet "
                    f"{self._subnet['SubnetId']}, but in {', '.join(zones) or 'no zone of the region'}. "
                    "Choose another type in FRUITS_EMR_PRIMARY_TYPE or FRUITS_EMR_CORE_TYPE, or deploy a "
                    "stack of another name with `fruits emr deploy --zone`."
                )
        # `Settings` takes types of EMR 7 only.
        both = "both" if len(wanted) > 1 else "it"
        return f"EC2 offers {' and '.join(wanted)} in {zone}, and EMR 7 supports {both}"

    def _addresses(self) -> str:
        free, needed = self._subnet["AvailableIpAddressCount"], 1 + self._settings.emr_most_nodes
        found = f"{free:,} free addresses in {self._subnet['SubnetId']} for {needed} nodes"
        if free < needed:
            raise FruitsError(f"{found}. Use fewer nodes, or a larger subnet: `fruits emr deploy --subnet`.")
        return found

    def _cost(self) -> str:
        settings = self._settings
        check_hourly_cost(settings)
        prices = load_prices(settings.prices)
        return (
            f"{hourly_cost(settings):.2f} USD an hour at most, at the on-demand prices of {prices.region}, "
            f"{prices.date}; FRUITS_EMR_MAX_HOURLY_COST is {settings.emr_max_hourly_cost:.2f}"
        )

    def _disks(self) -> str:
        if self._encrypts_disks:
            return "the stack encrypts the disks of the nodes"
        if self._client("ec2").get_ebs_encryption_by_default()["EbsEncryptionByDefault"]:
            return f"the account encrypts new disks in {self._settings.region}"
        raise FruitsError(
            "The disks of the nodes, which hold photos while Spark works, are not encrypted. Run `fruits emr "
            "deploy --encrypt-disks`, which costs 1 USD a month, or let the account "
            f"encrypt all new disks: `aws ec2 enable-ebs-encryption-by-default --region "
            f"{self._settings.region}`."
        )

    # A cluster of the user's own.

    def _cluster(self, cluster_id: str) -> str:
        cluster = check_cluster(self._settings, cluster_id)
        [(key, value)] = PROJECT_TAG.items()
        if {"Key": key, "Value": value} not in cluster.get("Tags", []):
            raise FruitsError(
                f"FRUITS_EMR_CLUSTER={cluster_id} lacks the tag {key}={value}, so operators may not use it. "
                f"Run `aws emr add-tags --region {self._settings.region} --resource-id {cluster_id} --tags "
                f"{key}={value}`."
            )
        return f"{cluster_id} is {cluster['Status']['State']} with {cluster.get('ReleaseLabel')}"


def _code(error: Exception) -> str:
    """AWS's code of an error; "" for an error that is not an answer of AWS."""
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))
