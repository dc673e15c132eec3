"""EMR's network interface in the subnet of a cluster, as moto's EC2 and its callers see it."""

from collections.abc import Callable
from typing import Any

from moto.ec2.exceptions import DependencyViolationError
from moto.ec2.models import EC2Backend
from moto.ec2.models.security_groups import SecurityGroupBackend

from rehearsal.emr import RehearsedCluster

# https://github.com/hashicorp/terraform-provider-aws/issues/3465 quotes it.
_DESCRIPTION = "ElasticMapReduce-eni"


def install() -> None:
    """Makes moto's EC2 refuse the deletion of a security group that a network interface has.

    https://github.com/hashicorp/terraform-provider-aws/issues/1454 quotes the error of EC2.
    """
    backend: Any = SecurityGroupBackend
    if backend.delete_security_group.__module__ != __name__:
        backend.delete_security_group = _checked(backend.delete_security_group)


def add_interface(cluster: RehearsedCluster) -> Callable[[], None]:
    """Creates the interface by which EMR reaches a cluster in a subnet; returns its deletion.

    It is in the security group for EMR's access, which clusters in private subnets have:
    https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-man-sec-groups.html. A cluster without a subnet
    or without that group has no interface.
    """
    subnet, group = cluster.ec2_subnet_id, cluster.service_access_security_group
    if not (subnet and group):
        return lambda: None
    ec2: EC2Backend = cluster.emr_backend.ec2_backend
    interface = ec2.create_network_interface(subnet, [], group_ids=[group], description=_DESCRIPTION)
    return lambda: ec2.delete_network_interface(interface.id)


def _checked(delete: Callable[..., None]) -> Callable[..., None]:
    def delete_security_group(self: EC2Backend, name: str | None = None, group_id: str | None = None) -> None:
        group = self.get_security_group_by_name_or_id(group_id or name or "")
        if group and any(group.id in _groups(interface) for interface in self.enis.values()):
            raise DependencyViolationError(f"resource {group.id} has a dependent object")
        delete(self, name, group_id)

    return delete_security_group


def _groups(interface: Any) -> set[str]:
    return {group.id for group in interface.group_set}
