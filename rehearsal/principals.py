"""Finds the caller of a call in moto's IAM, with the policies that decide about the caller's calls."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from moto.core import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends
from moto.emr.models import emr_backends
from moto.iam.models import IAMBackend, Role, User, iam_backends
from moto.sts.models import sts_backends

from rehearsal.policies import Context, Document


class Network(NamedTuple):
    """The way from a node of a cluster to S3: the keys of the gateway endpoint, and the endpoint's policy."""

    context: Context
    policy: Document


class Principal(NamedTuple):
    """A user or the session of a role.

    `names` are those by which the policy of a resource may name the principal. `context` has the condition
    keys about the principal, `policies` all identity policies by name.
    """

    arn: str
    names: tuple[str, ...]
    context: Context
    policies: Mapping[str, Document]
    network: Network | None = None


def iam() -> IAMBackend:
    """moto's IAM of the one account of a rehearsal."""
    return iam_backends[DEFAULT_ACCOUNT_ID]["aws"]


def principal_of(access_key: str) -> Principal | None:
    """The owner of an access key; None for a key that does not exist."""
    key = iam().access_keys.get(access_key)
    if key is None:
        return None
    if key.user_name is not None:
        return _principal_of_user(iam().get_user(key.user_name))
    session = sts_backends[DEFAULT_ACCOUNT_ID]["aws"].get_assumed_role_from_access_key(access_key)
    if session is None:
        return None
    role = iam().get_role_by_arn(session.role_arn)
    return Principal(
        arn=session.arn,
        names=(session.arn, role.arn, *_ACCOUNT_NAMES),
        context=_context("AssumedRole", role.arn, role.tags),
        policies=policies_of_role(role.name),
        network=_network_of(session.session_name),
    )


_ACCOUNT_NAMES = (DEFAULT_ACCOUNT_ID, f"arn:aws:iam::{DEFAULT_ACCOUNT_ID}:root")


def _principal_of_user(user: User) -> Principal:
    return Principal(
        arn=user.arn,
        names=(user.arn, *_ACCOUNT_NAMES),
        context={**_context("User", user.arn, user.tags or []), "aws:username": user.name},
        policies=policies_of_user(user),
    )


def policies_of_user(user: User) -> dict[str, Document]:
    """The policies of a user and of the user's groups, by name."""
    policies = _policies(user)
    for group in iam().get_groups_for_user(user.name):
        policies |= _policies(group)
    return policies


def policies_of_role(name: str) -> dict[str, Document]:
    """The inline and the attached policies of a role, by name.

    Raises `NotImplementedError` for a role with a permissions boundary.
    """
    role: Role = iam().get_role(name)
    if role.permissions_boundary_arn:
        raise NotImplementedError("rehearsal/principals.py does not evaluate permissions boundaries")
    return _policies(role)


def managed_policy(arn: str) -> Document:
    """The document of a managed policy."""
    return _default_version(iam().get_policy(arn))


def _policies(owner: Any) -> dict[str, Document]:
    """The inline and attached policies of a user, group or role of moto.

    moto's CloudFormation keeps the inline policies of a role as objects, and other policies as JSON.
    """
    inline = {
        f"{owner.name}:{name}": json.loads(document) if isinstance(document, str) else document
        for name, document in owner.policies.items()
    }
    return inline | {policy.name: _default_version(policy) for policy in owner.managed_policies.values()}


def _default_version(policy: Any) -> Document:
    document = next(version.document for version in policy.versions if version.is_default)
    return dict(json.loads(document))


def _context(kind: str, arn: str, tags: Any) -> dict[str, str]:
    """The condition keys about the principal. For a session, the ARN is that of the role."""
    return {
        "aws:PrincipalType": kind,
        "aws:PrincipalArn": arn,
        "aws:PrincipalAccount": DEFAULT_ACCOUNT_ID,
        **{f"aws:PrincipalTag/{tag['Key']}": tag["Value"] for tag in tags},
    }


def _network_of(cluster_id: str) -> Network | None:
    """The endpoint of S3 in the network of a cluster, whose id is the name of its nodes' session.

    None where there is no endpoint, so that calls reach S3 from elsewhere.
    """
    for region, emr in list(emr_backends[DEFAULT_ACCOUNT_ID].items()):
        cluster = emr.clusters.get(cluster_id)
        if cluster is None or not cluster.ec2_subnet_id:
            continue
        ec2 = ec2_backends[DEFAULT_ACCOUNT_ID][region]
        vpc = ec2.get_subnet(cluster.ec2_subnet_id).vpc_id
        for endpoint in list(ec2.vpc_end_points.values()):
            if endpoint.vpc_id == vpc and endpoint.service_name.endswith(".s3"):
                document = endpoint.policy_document
                return Network(
                    context={"aws:SourceVpc": vpc, "aws:SourceVpce": endpoint.id},
                    policy=json.loads(document) if isinstance(document, str) else document,
                )
    return None
