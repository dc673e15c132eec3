"""Removes the stack, with all objects in its bucket."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from resources.emr.account import Stack, check_region, describe_stack, wait_for_stack
from resources.emr.aws import aws_errors_named, client
from resources.settings import AccountSettings
from spark_jobs.errors import FruitsError

_ALIVE = ["STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING", "TERMINATING"]


class Contents(NamedTuple):
    """The number of current objects and of old versions in a bucket, and the bytes of both."""

    objects: int
    old_versions: int
    bytes: int


def contents(settings: AccountSettings, stack: Stack) -> Contents:
    """Counts the content of the stack's bucket."""
    objects = old = size = 0
    with aws_errors_named():
        for page in _versions(client("s3", settings.region), stack.bucket):
            for version in page.get("Versions", []):
                objects, old = objects + version["IsLatest"], old + (not version["IsLatest"])
                size += version["Size"]
    return Contents(objects, old, size)


def destroy(settings: AccountSettings, stack: Stack) -> None:
    """Empties the stack's bucket, old versions included, and deletes the stack with all its resources.

    Raises `FruitsError` outside the allowed regions and while a cluster uses the stack's network, before
    anything is deleted. Raises it with the reasons of CloudFormation where that fails. `destroy` can then be
    repeated.
    """
    check_region(settings)
    with aws_errors_named():
        _check_no_cluster(settings, stack)
        _empty(client("s3", settings.region), stack.bucket)
        _revoke_rules(client("ec2", settings.region), stack)
        for policy in (stack.operator_policy_arn, stack.erasure_policy_arn):
            _detach(client("iam", settings.region), policy)
        _delete(settings)


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


def _delete(settings: AccountSettings) -> None:
    cloudformation = client("cloudformation", settings.region)
    found = describe_stack(settings)
    if found is not None:
        # By its id, because CloudFormation describes a deleted stack by its id only.
        cloudformation.delete_stack(StackName=found["StackId"])
        wait_for_stack(cloudformation, "stack_delete_complete", found["StackId"])


def _check_no_cluster(settings: AccountSettings, stack: Stack) -> None:
    emr = client("emr", settings.region)
    for page in emr.get_paginator("list_clusters").paginate(ClusterStates=_ALIVE):
        for listed in page["Clusters"]:
            cluster = emr.describe_cluster(ClusterId=listed["Id"])["Cluster"]
            if cluster.get("Ec2InstanceAttributes", {}).get("Ec2SubnetId") == stack.subnet:
                raise FruitsError(
                    f"The cluster {listed['Id']} ({listed['Name']}) in this network is "
                    f"{listed['Status']['State']}. Wait for its end, or terminate it with `aws emr "
                    f"terminate-clusters --region {settings.region} --cluster-ids {listed['Id']}`."
                )


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


def _revoke_rules(ec2: Any, stack: Stack) -> None:
    """Revokes all inbound rules of the stack's security groups, with the rules that EMR added.

    AWS deletes no group that a rule of another group names, and CloudFormation deletes only its own rules.
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
