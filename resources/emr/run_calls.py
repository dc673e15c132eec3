"""The calls of AWS that a run makes with the operator's credentials, and whether IAM allows them."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from resources.emr.stack import CLUSTER_TAGS, PROJECT_TAG, Stack
from resources.settings import Settings
from spark_jobs.store.root import split_s3_uri

# Calls of EMR on a cluster with the tag of the project.
_ON_CLUSTERS = (
    *("AddJobFlowSteps", "CancelSteps", "DescribeCluster", "DescribeStep", "ListInstanceGroups"),
    "ListSteps",
)
# The same, for clusters that runs start.
_ON_OWN_CLUSTERS = ("PutAutoTerminationPolicy", "PutManagedScalingPolicy", "TerminateJobFlows")

_ON_STORE = ("GetObject", "PutObject", "DeleteObject", "AbortMultipartUpload", "ListMultipartUploadParts")


class RunCall(NamedTuple):
    """An action on a resource, with the condition keys of the request.

    `resource` is the ARN that AWS evaluates. Its `*` stands for itself, as in the ARN of a stack by name, or
    for the id of a cluster or the key of an object.
    """

    action: str
    resource: str
    context: Mapping[str, str] = MappingProxyType({})


def calls_of_run(settings: Settings, account: str, partition: str, stack: Stack | None) -> Iterator[RunCall]:
    """The calls of a run in an account, which has twelve digits.

    `partition` is aws, or another first part of ARNs. Without a stack, these are the calls of a run on
    FRUITS_EMR_CLUSTER. The ARNs and condition keys are those of
    https://docs.aws.amazon.com/service-authorization/latest/reference/ and of EMR's guide:
    https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-fine-grained-cluster-access.html
    """

    def arn(service: str, resource: str, region: str = settings.region) -> str:
        return f"arn:{partition}:{service}:{region}:{account}:{resource}"

    clusters = arn("elasticmapreduce", "cluster/*")
    has_tag = {f"elasticmapreduce:ResourceTag/{key}": value for key, value in PROJECT_TAG.items()}
    for name in _ON_CLUSTERS:
        yield RunCall(f"elasticmapreduce:{name}", clusters, has_tag)
    if stack is not None:
        # By name, AWS asks for a literal asterisk: https://github.com/aws/aws-parallelcluster/pull/754
        by_name = arn("cloudformation", f"stack/{settings.emr_stack}/*")
        yield RunCall("cloudformation:DescribeStacks", by_name)
        tags = {f"elasticmapreduce:RequestTag/{key}": value for key, value in CLUSTER_TAGS.items()}
        yield RunCall("elasticmapreduce:ListClusters", "*")
        yield RunCall("elasticmapreduce:RunJobFlow", clusters, tags)
        yield RunCall("elasticmapreduce:AddTags", clusters, {**tags, **has_tag})
        for name in _ON_OWN_CLUSTERS:
            yield RunCall(f"elasticmapreduce:{name}", clusters, has_tag)
        # EMR asks for the role that has the name of the instance profile.
        for role, service in ((stack.service_role, "elasticmapreduce"), (stack.instance_profile, "ec2")):
            passed = {"iam:PassedToService": f"{service}.amazonaws.com"}
            yield RunCall("iam:PassRole", arn("iam", f"role/{role}", ""), passed)
    for root in (settings.images, settings.store):
        if not root.startswith("s3://"):
            continue
        name, prefix = split_s3_uri(root)
        bucket = f"arn:{partition}:s3:::{name}"
        for action in ("GetBucketLocation", "GetEncryptionConfiguration", "GetReplicationConfiguration"):
            yield RunCall(f"s3:{action}", bucket)
        yield RunCall("s3:ListBucket", bucket, {"s3:prefix": f"{prefix}/"})
        if root == settings.store:
            for action in _ON_STORE:
                yield RunCall(f"s3:{action}", f"{bucket}/{prefix}/*")


def policy_source(iam: Any, caller: str) -> str:
    """The ARN of the user or role that has the policies of a caller; a session has those of its role.

    Raises the error of AWS where the role may not be read. The ARN of a session lacks the path of the role.
    """
    kind, _, name = caller.split(":")[5].partition("/")
    if kind != "assumed-role":
        return caller
    return str(iam.get_role(RoleName=name.partition("/")[0])["Role"]["Arn"])


def allows(iam: Any, source: str, call: RunCall) -> bool:
    """Whether the policies of a user or role allow a call, by IAM's simulator, which makes no call.

    Raises the error of AWS where the simulator may not be asked.
    """
    context = [
        {"ContextKeyName": key, "ContextKeyValues": [value], "ContextKeyType": "string"}
        for key, value in call.context.items()
    ]
    # One action in each call: AWS refuses some together, and does not document which:
    # https://github.com/aws-cloudformation/rain/blob/main/internal/aws/iam/iam.go
    pages = iam.get_paginator("simulate_principal_policy").paginate(
        PolicySourceArn=source,
        ActionNames=[call.action],
        ResourceArns=[call.resource],
        ContextEntries=context,
    )
    return all(result["EvalDecision"] == "allowed" for page in pages for result in page["EvaluationResults"])
