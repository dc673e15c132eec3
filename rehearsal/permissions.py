"""Translates a call of AWS into the requests that IAM evaluates for it: action, ARN and condition keys.

The actions, resources and condition keys of each service are those of the Service Authorization Reference
(https://docs.aws.amazon.com/service-authorization/latest/reference/). `s3_permissions.py` has those of S3.
Every function raises `NotImplementedError` for a call that the rehearsal does not know.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from moto.core import DEFAULT_ACCOUNT_ID
from moto.emr.models import emr_backends

from rehearsal.calls import Call
from rehearsal.policies import Context, Request
from rehearsal.principals import iam


def requests_of(call: Call, policies_see_new_tags: bool) -> list[Request]:
    """The requests that a call of any service but S3 needs; AWS must allow all of them.

    `policies_see_new_tags` tells whether PutAutoTerminationPolicy and PutManagedScalingPolicy inside of
    RunJobFlow see the tags of the new cluster. No document of AWS says it.
    """
    if call.service == "elasticmapreduce":
        return _emr(call, policies_see_new_tags)
    if (call.service, call.operation) in _WITHOUT_PERMISSION:
        return []
    resource = _RESOURCES.get(call.service, {}).get(call.operation)
    if resource is None:
        raise NotImplementedError(
            f"rehearsal/permissions.py does not know which permission {call.service}:{call.operation} needs"
        )
    context = _CONTEXT.get(call.operation)
    return [Request(f"{call.service}:{call.operation}", resource(call), context(call) if context else {})]


# EMR.

# Parameters with the id of a cluster.
_CLUSTER_IDS = ("ClusterId", "JobFlowId", "JobFlowIds", "ResourceId")

_ON_CLUSTERS = frozenset(
    {
        "AddJobFlowSteps",
        "AddTags",
        "CancelSteps",
        "DescribeCluster",
        "DescribeStep",
        "GetAutoTerminationPolicy",
        "GetManagedScalingPolicy",
        "ListBootstrapActions",
        "ListInstanceGroups",
        "ListInstances",
        "ListSteps",
        "ModifyCluster",
        "PutAutoTerminationPolicy",
        "PutManagedScalingPolicy",
        "RemoveAutoTerminationPolicy",
        "RemoveManagedScalingPolicy",
        "RemoveTags",
        "SetTerminationProtection",
        "TerminateJobFlows",
    }
)
# For these actions, EMR defines neither a resource nor a condition key.
_WITHOUT_RESOURCE = frozenset(
    {
        "CreateSecurityConfiguration",
        "DeleteSecurityConfiguration",
        "DescribeReleaseLabel",
        "DescribeSecurityConfiguration",
        "ListClusters",
        "ListReleaseLabels",
        "ListSecurityConfigurations",
        "ListSupportedInstanceTypes",
    }
)


def _emr(call: Call, policies_see_new_tags: bool) -> list[Request]:
    action = f"elasticmapreduce:{call.operation}"
    if call.operation == "RunJobFlow":
        return _run_job_flow(call, policies_see_new_tags)
    if call.operation in _WITHOUT_RESOURCE:
        return [Request(action, "*")]
    if call.operation in _ON_CLUSTERS:
        named = [call.parameters[name] for name in _CLUSTER_IDS if name in call.parameters]
        ids = [each for value in named for each in (value if isinstance(value, list) else [value])]
        context = _request_tags(call.parameters.get("Tags", []), call.parameters.get("TagKeys", []))
        clusters = emr_backends[DEFAULT_ACCOUNT_ID][call.region].clusters
        return [
            Request(
                action,
                _arn("elasticmapreduce", f"cluster/{each}", call.region),
                # A cluster that does not exist has no tags, so a policy on tags denies the call.
                {**context, **_resource_tags(clusters[each].tags if each in clusters else ())},
            )
            for each in ids
        ]
    raise NotImplementedError(f"rehearsal/permissions.py does not know which permission {action} needs")


def _run_job_flow(call: Call, policies_see_new_tags: bool) -> list[Request]:
    """The requests of RunJobFlow.

    AWS evaluates it, and AddTags for its tags, on the ARN of no cluster: a captured refusal reads "is not
    authorized to perform: elasticmapreduce:AddTags on resource: arn:aws:elasticmapreduce:...:cluster/*"
    (https://github.com/segment-boneyard/segment-docs/pull/7000). EMR's guide allows this AddTags by a
    condition on ResourceTag, and names the role of an instance profile by the profile's name:
    https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-fine-grained-cluster-access.html
    """
    given = call.parameters
    new = _arn("elasticmapreduce", "cluster/*", call.region)
    tags = given.get("Tags", [])
    asked = [Request("elasticmapreduce:RunJobFlow", new, _request_tags(tags))]
    if tags:
        context = {**_request_tags(tags), **_resource_tags(tags)}
        asked.append(Request("elasticmapreduce:AddTags", new, context))
    for policy in ("AutoTerminationPolicy", "ManagedScalingPolicy"):
        if policy in given:
            seen = _resource_tags(tags) if policies_see_new_tags else {}
            asked.append(Request(f"elasticmapreduce:Put{policy}", new, seen))
    for parameter, service in (
        ("ServiceRole", "elasticmapreduce"),
        ("JobFlowRole", "ec2"),
        ("AutoScalingRole", "application-autoscaling"),
    ):
        if parameter in given:
            role = _role_arn(given[parameter].rpartition("/")[2])
            asked.append(Request("iam:PassRole", role, {"iam:PassedToService": f"{service}.amazonaws.com"}))
    return asked


def _role_arn(name: str) -> str:
    role = next((role for role in iam().roles.values() if role.name == name), None)
    return str(role.arn) if role else _arn("iam", f"role/{name}")


def _request_tags(tags: Iterable[Mapping[str, str]], keys: Iterable[str] = ()) -> Context:
    """The condition keys of the tags, or of the keys of tags, in a request."""
    values = {tag["Key"]: tag.get("Value", "") for tag in tags}
    named = [*values, *keys]
    return {
        **{f"{kind}:RequestTag/{key}": value for key, value in values.items() for kind in _TAG_KINDS},
        **({"aws:TagKeys": named} if named else {}),
    }


def _resource_tags(tags: Iterable[Any]) -> Context:
    return {f"{kind}:ResourceTag/{tag['Key']}": tag.get("Value", "") for tag in tags for kind in _TAG_KINDS}


_TAG_KINDS = ("elasticmapreduce", "aws")


# Services with the query protocol, and Service Quotas.

# "No permissions are required to perform this operation":
# https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html
_WITHOUT_PERMISSION = frozenset({("sts", "GetCallerIdentity")})

Resource = Callable[[Call], str]


def _arn(service: str, resource: str, region: str = "") -> str:
    return f"arn:aws:{service}:{region}:{DEFAULT_ACCOUNT_ID}:{resource}"


def _all(_: Call) -> str:
    return "*"


def _stack(call: Call) -> str:
    """The ARN of a stack. A stack's name is not resolved: its ARN ends with a literal asterisk.

    A captured refusal: "is not authorized to perform: cloudformation:DescribeStacks on resource:
    arn:aws:cloudformation:us-east-2:...:stack/hpc/*" (https://github.com/aws-samples/aws-hpc-tutorials/issues/271).
    ListStacks without a name is refused on stack/*/*.
    """
    name = call.parameters.get("StackName") or call.parameters.get("ChangeSetName") or "*"
    return name if name.startswith("arn:") else _arn("cloudformation", f"stack/{name}/*", call.region)


def _named(kind: str, parameter: str, service: str = "iam", in_region: bool = False) -> Resource:
    """The ARN of a resource whose name is in a parameter."""
    return lambda call: _arn(
        service, f"{kind}/{_parameter(call, parameter)}", call.region if in_region else ""
    )


def _given(parameter: str) -> Resource:
    """The ARN that is in a parameter."""
    return lambda call: _parameter(call, parameter)


def _parameter(call: Call, name: str) -> str:
    if name not in call.parameters:
        raise NotImplementedError(
            f"rehearsal/permissions.py does not know which permission {call.operation} without {name} needs"
        )
    return str(call.parameters[name])


def _roles_below(call: Call) -> str:
    return _arn("iam", f"role{call.parameters.get('PathPrefix', '/')}")


# The names of roles that AWS makes for a service.
_SERVICE_LINKED = {
    "elasticmapreduce.amazonaws.com": "AWSServiceRoleForEMRCleanup",
    "spot.amazonaws.com": "AWSServiceRoleForEC2Spot",
}


def _service_linked_role(call: Call) -> str:
    service = _parameter(call, "AWSServiceName")
    if service not in _SERVICE_LINKED:
        raise NotImplementedError(
            f"rehearsal/permissions.py does not know the role that AWS makes for {service}"
        )
    return _arn("iam", f"role/aws-service-role/{service}/{_SERVICE_LINKED[service]}")


def _quota(call: Call) -> str:
    """The ARN of a quota."""
    return _arn(
        "servicequotas", f"{_parameter(call, 'ServiceCode')}/{_parameter(call, 'QuotaCode')}", call.region
    )


def _calls(resource: Resource, *operations: str) -> dict[str, Resource]:
    return dict.fromkeys(operations, resource)


_RESOURCES: Mapping[str, Mapping[str, Resource]] = {
    "cloudformation": {
        **_calls(_all, "GetTemplateSummary", "ValidateTemplate"),
        **_calls(
            _stack,
            *(
                "CreateStack",
                "DeleteStack",
                "DescribeStackEvents",
                "DescribeStackResources",
                "DescribeStacks",
            ),
            *(
                "CreateChangeSet",
                "DeleteChangeSet",
                "DescribeChangeSet",
                "ExecuteChangeSet",
                "ListChangeSets",
            ),
            *("GetStackPolicy", "GetTemplate", "ListStackResources", "ListStacks", "SetStackPolicy"),
            *("UpdateStack", "UpdateTerminationProtection"),
        ),
    },
    "ec2": {
        **_calls(
            _all,
            *("DescribeAvailabilityZones", "DescribeInstanceTypeOfferings", "DescribeInstanceTypes"),
            *("DescribeInstances", "DescribeManagedPrefixLists", "DescribeNetworkInterfaces"),
            "DescribeRouteTables",
            *("DescribeSecurityGroupRules", "DescribeSecurityGroups", "DescribeSubnets"),
            *("DescribeVpcEndpoints", "DescribeVpcs", "GetEbsEncryptionByDefault"),
        ),
        **_calls(
            _named("security-group", "GroupId", "ec2", in_region=True),
            *("RevokeSecurityGroupEgress", "RevokeSecurityGroupIngress"),
        ),
    },
    "iam": {
        **_calls(_roles_below, "ListRoles"),
        **_calls(_service_linked_role, "CreateServiceLinkedRole"),
        **_calls(
            _named("user", "UserName"),
            *(
                "AttachUserPolicy",
                "CreateAccessKey",
                "CreateUser",
                "DetachUserPolicy",
                "GetUser",
                "PutUserPolicy",
            ),
            "ListAttachedUserPolicies",
        ),
        **_calls(
            _named("role", "RoleName"),
            *("DetachRolePolicy", "GetRole", "GetRolePolicy", "ListAttachedRolePolicies", "ListRolePolicies"),
        ),
        **_calls(_named("group", "GroupName"), "DetachGroupPolicy"),
        **_calls(_named("instance-profile", "InstanceProfileName"), "GetInstanceProfile"),
        **_calls(_given("PolicyArn"), "GetPolicy", "GetPolicyVersion", "ListEntitiesForPolicy"),
        **_calls(_given("PolicySourceArn"), "SimulatePrincipalPolicy"),
    },
    "servicequotas": {
        **_calls(_quota, "GetServiceQuota", "RequestServiceQuotaIncrease"),
        **_calls(_all, "ListServiceQuotas"),
    },
    "sns": {**_calls(_given("TopicArn"), "Publish")},
}


def _policy_arn(call: Call) -> Context:
    return {"iam:PolicyARN": call.parameters["PolicyArn"]}


_CONTEXT: Mapping[str, Callable[[Call], Context]] = {
    **dict.fromkeys(
        ("AttachUserPolicy", "DetachGroupPolicy", "DetachRolePolicy", "DetachUserPolicy"), _policy_arn
    ),
    "CreateServiceLinkedRole": lambda call: {"iam:AWSServiceName": call.parameters["AWSServiceName"]},
}
