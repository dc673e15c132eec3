"""Removes the stack, with all objects in its bucket."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from resources.emr.aws import aws_errors_named, client
from resources.emr.stack import (
    READY,
    UNFINISHED,
    check_ours,
    check_region,
    describe_stack,
    no_stack,
    outputs_of,
    wait_for_stack,
)
from resources.settings import AccountSettings
from spark_jobs.errors import FruitsError

_ALIVE = ["STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING"]
_CLUSTER_GROUPS = ("PrimarySecurityGroup", "CoreSecurityGroup", "ServiceSecurityGroup")
# A stack whose update failed can be removed too.
_REMOVABLE = READY | UNFINISHED | {"UPDATE_FAILED", "UPDATE_ROLLBACK_FAILED"}

_POLL_SECONDS = 10.0
_CLUSTER_POLLS = 60  # EMR ends a cluster within 5 minutes, and a cluster with hung steps within 10
_INTERFACE_POLLS = 30
_ATTEMPTS = 5
_PAUSE_SECONDS = 30.0

# Reasons of CloudFormation that pass: logs that EMR uploads late, and its last network interfaces.
# https://github.com/aws/aws-cdk/issues/21776 and https://github.com/aws/aws-cdk/issues/14456 quote them.
_PASSING = ("BucketNotEmpty", "not empty", "DependencyViolation", "dependent object", "has dependencies")


class Remains(NamedTuple):
    """The resources of a stack that exist: all, or as many as its creation made or its removal left.

    `groups` are the security groups of clusters. Buckets, subnets, VPCs and endpoints are those that the
    stack created; `photos` is the place of photos that are not in its bucket.
    """

    stack_id: str
    resources: tuple[str, ...]
    buckets: tuple[str, ...]
    groups: tuple[str, ...]
    subnets: tuple[str, ...]
    vpcs: tuple[str, ...]
    endpoints: tuple[str, ...]
    policies: tuple[str, ...]
    photos: str | None


class Contents(NamedTuple):
    """The number of current objects and of old versions in buckets, and the bytes of both."""

    objects: int
    old_versions: int
    bytes: int


def find(settings: AccountSettings) -> Remains:
    """The stack `FRUITS_EMR_STACK`, for its removal.

    Raises `FruitsError` where there is no stack, where it belongs to another project, and while it changes.
    """
    with aws_errors_named():
        stack = describe_stack(settings)
        if stack is None:
            raise no_stack(settings)
        check_ours(settings, stack)
        if stack["StackStatus"] not in _REMOVABLE:
            raise FruitsError(
                f"The stack {settings.emr_stack} is {stack['StackStatus']}. Wait until that is complete, "
                "then run `fruits emr destroy` again."
            )
        listed = client("cloudformation", settings.region).describe_stack_resources(
            StackName=stack["StackId"]
        )
    existing = [
        resource
        for resource in listed["StackResources"]
        if resource.get("PhysicalResourceId") and resource["ResourceStatus"] != "DELETE_COMPLETE"
    ]

    def ids(kind: str) -> tuple[str, ...]:
        return tuple(each["PhysicalResourceId"] for each in existing if each["ResourceType"] == kind)

    names = {each["LogicalResourceId"]: each["PhysicalResourceId"] for each in existing}
    outputs = outputs_of(stack)
    images, own = outputs.get("ImagesUri"), f"s3://{outputs.get('Bucket')}/"
    return Remains(
        stack_id=stack["StackId"],
        resources=tuple(sorted(names)),
        buckets=ids("AWS::S3::Bucket"),
        groups=tuple(names[name] for name in _CLUSTER_GROUPS if name in names),
        subnets=ids("AWS::EC2::Subnet"),
        vpcs=ids("AWS::EC2::VPC"),
        endpoints=ids("AWS::EC2::VPCEndpoint"),
        policies=ids("AWS::IAM::ManagedPolicy"),
        photos=None if images is None or images.startswith(own) else images,
    )


def contents(settings: AccountSettings, remains: Remains) -> Contents:
    """Counts the content of the buckets that the stack created."""
    objects = old = size = 0
    with aws_errors_named():
        s3 = client("s3", settings.region)
        for bucket in remains.buckets:
            for page in _versions(s3, bucket):
                for version in page.get("Versions", []):
                    objects, old = objects + version["IsLatest"], old + (not version["IsLatest"])
                    size += version["Size"]
    return Contents(objects, old, size)


def destroy(settings: AccountSettings, remains: Remains, say: Callable[[str], None]) -> None:
    """Empties the stack's bucket, old versions included, and deletes the stack with all its resources.

    Waits for clusters that end and for what EMR still has in the network, and tries again where EMR's last
    logs and interfaces hinder the deletion. `say` gets a sentence for each wait. Raises `FruitsError` outside
    the allowed regions, and while a cluster or another user is in the network, before anything is deleted.
    Raises it with the reasons of CloudFormation, and with the rest that is there, where the deletion fails;
    `destroy` can then be repeated.
    """
    check_region(settings)
    with aws_errors_named():
        s3, ec2 = client("s3", settings.region), client("ec2", settings.region)
        iam, cloudformation = client("iam", settings.region), client("cloudformation", settings.region)
        _wait_for_clusters(settings, remains, say)
        if users := _wait_for_network(ec2, remains, say):
            raise FruitsError(
                f"The network of {settings.emr_stack} is still in use: {', '.join(users)}. Nothing was "
                "deleted. Run `fruits emr destroy` again in some minutes, or remove them yourself."
            )
        cloudformation.update_termination_protection(
            StackName=remains.stack_id, EnableTerminationProtection=False
        )
        for attempt in range(1, _ATTEMPTS + 1):
            for bucket in remains.buckets:
                _empty(s3, bucket)
            _revoke_rules(ec2, remains.groups)
            for policy in remains.policies:
                _detach(iam, policy)
            cloudformation.delete_stack(StackName=remains.stack_id)
            try:
                # By its id, because CloudFormation describes a deleted stack by its id only.
                wait_for_stack(cloudformation, "stack_delete_complete", remains.stack_id)
                return
            except FruitsError as error:
                if attempt == _ATTEMPTS or not any(reason in str(error) for reason in _PASSING):
                    left = [*_objects_left(s3, remains), *_users(ec2, remains)]
                    also = f" Still there: {', '.join(left)}." if left else ""
                    raise FruitsError(f"{error}.{also} Run `fruits emr destroy` again.") from error
                say(f"{error}. EMR still works on it: trying again in {_PAUSE_SECONDS:.0f} seconds.")
                time.sleep(_PAUSE_SECONDS)
                _wait_for_network(ec2, remains, say)


def _wait_for_clusters(settings: AccountSettings, remains: Remains, say: Callable[[str], None]) -> None:
    """Waits until no cluster of the stack is terminating. Raises `FruitsError` for one that is alive."""
    emr = client("emr", settings.region)
    for poll in range(_CLUSTER_POLLS):
        ending = []
        for listed in _clusters(emr, remains):
            if listed["Status"]["State"] != "TERMINATING":
                raise FruitsError(
                    f"The cluster {listed['Id']} ({listed['Name']}) in this network is "
                    f"{listed['Status']['State']}. Wait for its end, or terminate it with `aws emr "
                    f"terminate-clusters --region {settings.region} --cluster-ids {listed['Id']}`."
                )
            ending.append(f"{listed['Id']} ({listed['Name']})")
        if not ending:
            return
        if poll == 0:
            say(f"Waiting for the end of {', '.join(ending)}, which takes some minutes.")
        time.sleep(_POLL_SECONDS)
    raise FruitsError(
        f"The cluster {', '.join(ending)} is still TERMINATING. Nothing was deleted. Run `fruits emr "
        "destroy` again when it has ended."
    )


def _clusters(emr: Any, remains: Remains) -> Iterator[dict[str, Any]]:
    """Clusters that have not ended, in the stack's own subnet or with its security groups."""
    for page in emr.get_paginator("list_clusters").paginate(ClusterStates=[*_ALIVE, "TERMINATING"]):
        for listed in page["Clusters"]:
            instances = emr.describe_cluster(ClusterId=listed["Id"])["Cluster"].get(
                "Ec2InstanceAttributes", {}
            )
            members = ("EmrManagedMasterSecurityGroup", "EmrManagedSlaveSecurityGroup", "Ec2SubnetId")
            if {instances.get(member) for member in members} & {*remains.subnets, *remains.groups}:
                yield listed


def _wait_for_network(ec2: Any, remains: Remains, say: Callable[[str], None]) -> list[str]:
    """Waits up to five minutes until nobody uses the network; names who does then.

    EMR removes its interface to a private subnet some minutes after the end of the last cluster, with the
    stack's service role: https://github.com/hashicorp/terraform-provider-aws/issues/3465
    """
    for poll in range(_INTERFACE_POLLS):
        if not (users := _users(ec2, remains)):
            break
        if poll == 0:
            say(f"Waiting up to five minutes until EMR has removed {', '.join(users)}.")
        time.sleep(_POLL_SECONDS)
    return users


def _users(ec2: Any, remains: Remains) -> list[str]:
    """Interfaces in the groups of clusters, and endpoints in the stack's VPC that the stack did not create.

    The newer versions of EMR's policy let EMR create endpoints:
    https://docs.aws.amazon.com/aws-managed-policy/latest/reference/AmazonEMRServicePolicy_v2.html
    """
    found = []
    if remains.groups:
        filters = [{"Name": "group-id", "Values": list(remains.groups)}]
        for page in ec2.get_paginator("describe_network_interfaces").paginate(Filters=filters):
            for each in page["NetworkInterfaces"]:
                about = f" ({each['Description']})" if each.get("Description") else ""
                found.append(f"the network interface {each['NetworkInterfaceId']}{about}")
    if remains.vpcs:
        filters = [{"Name": "vpc-id", "Values": list(remains.vpcs)}]
        for page in ec2.get_paginator("describe_vpc_endpoints").paginate(Filters=filters):
            for each in page["VpcEndpoints"]:
                if each["VpcEndpointId"] not in remains.endpoints and each["State"].lower() != "deleted":
                    found.append(f"the VPC endpoint {each['VpcEndpointId']} ({each['ServiceName']})")
    return found


def _objects_left(s3: Any, remains: Remains) -> list[str]:
    return [
        f"objects in s3://{bucket}"
        for bucket in remains.buckets
        if any(page.get("Versions") or page.get("DeleteMarkers") for page in _versions(s3, bucket))
    ]


def _detach(iam: Any, policy: str) -> None:
    """Detaches a policy, where it exists, from users, groups and roles. AWS deletes no attached policy."""
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


def _versions(s3: Any, bucket: str) -> Iterator[dict[str, Any]]:
    """Pages of all versions and delete markers in a bucket; none where the bucket does not exist."""
    with suppress(s3.exceptions.NoSuchBucket):
        yield from s3.get_paginator("list_object_versions").paginate(Bucket=bucket)


def _empty(s3: Any, bucket: str) -> None:
    # Each round lists the first page of the remaining versions, because it deletes the page before.
    while page := next(_versions(s3, bucket), None):
        found = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        if not found:
            return
        names = [{"Key": version["Key"], "VersionId": version["VersionId"]} for version in found]
        answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": names, "Quiet": True})
        for error in answer.get("Errors", []):
            raise FruitsError(f"s3://{bucket}/{error['Key']} could not be deleted: {error['Message']}")


def _revoke_rules(ec2: Any, groups: tuple[str, ...]) -> None:
    """Revokes all rules of security groups, with the rules that EMR added.

    AWS deletes no group that a rule of another group names, and CloudFormation deletes only its own rules.
    """
    if not groups:
        return
    rules = ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": list(groups)}])
    for group in groups:
        own = [rule for rule in rules["SecurityGroupRules"] if rule["GroupId"] == group]
        for revoke, egress in (
            (ec2.revoke_security_group_ingress, False),
            (ec2.revoke_security_group_egress, True),
        ):
            ids = [rule["SecurityGroupRuleId"] for rule in own if rule["IsEgress"] == egress]
            if ids:
                revoke(GroupId=group, SecurityGroupRuleIds=ids)
