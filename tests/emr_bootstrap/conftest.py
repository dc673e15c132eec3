"""The CloudFormation template deployed on moto, with the policies of its roles and of people."""

import ast
import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import boto3
import pytest
from moto import mock_aws
from moto.server import ThreadedMotoServer

from rehearsal import cloudformation
from rehearsal.account import enforceable
from resources.emr.account import deploy, plan
from resources.emr.options import Deployment
from resources.emr.stack import Stack
from resources.settings import AccountSettings

REGION, NUMBER = "eu-west-3", "123456789012"
NODES, OPERATOR, ERASURE, SERVICE = WHO = ["nodes", "operator", "erasure", "service"]

PREFIXES = ["photos", "store", "logs", "bootstrap", "elsewhere"]

# The calls that each role or policy may make on objects, by the first part of their key.
READ, WRITE, DELETE, DELETE_VERSION = "get_object", "put_object", "delete_object", "delete_object_versions"
MAY = {
    NODES: {"photos": {READ}, "store": {READ, WRITE, DELETE}, "logs": {WRITE}, "bootstrap": {READ}},
    OPERATOR: {"photos": {READ}, "store": {READ, WRITE, DELETE}, "logs": {READ}, "bootstrap": {READ}},
    ERASURE: {"photos": {DELETE, DELETE_VERSION}, "store": {DELETE, DELETE_VERSION}},
    SERVICE: {},
}

Document = dict[str, Any]


class Account(NamedTuple):
    """A deployed stack, the documents of its roles and policies, and the keys of a user for each."""

    stack: Stack
    policies: dict[str, list[Document]]
    trust: dict[str, Document]
    keys: dict[str, tuple[str, str]]
    endpoint: str


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    """The template deployed on moto, with one object under each prefix of the bucket."""
    logging.getLogger("werkzeug").disabled = True
    # The service role has EMR's policy, which AWS manages.
    with (
        pytest.MonkeyPatch.context() as patch,
        mock_aws(config={"iam": {"load_aws_managed_policies": True}}),
    ):
        cloudformation.install()
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        settings = AccountSettings(_env_file=None)
        stack = deploy(settings, plan(settings, Deployment(wheelhouse=False, session_manager=True)))
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="other", CreateBucketConfiguration={"LocationConstraint": REGION})
        for bucket, key in [(stack.bucket, f"{prefix}/here/1.jpg") for prefix in PREFIXES] + [("other", "x")]:
            s3.put_object(Bucket=bucket, Key=key, Body=b"photo")
        policies, trust = _documents(stack)
        keys = {who: _user(who, documents) for who, documents in policies.items()}
        yield Account(
            stack=stack, policies=policies, trust=trust, keys=keys, endpoint=f"http://{host}:{port}"
        )
        server.stop()


def _documents(stack: Stack) -> tuple[dict[str, list[Document]], dict[str, Document]]:
    iam = boto3.client("iam")
    [nodes] = iam.get_instance_profile(InstanceProfileName=stack.instance_profile)["InstanceProfile"]["Roles"]
    roles = {NODES: nodes["RoleName"], SERVICE: stack.service_role}
    policies = {
        who: [
            _document(iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"])
            for name in iam.list_role_policies(RoleName=role)["PolicyNames"]
        ]
        for who, role in roles.items()
    }
    for who, arn in ((OPERATOR, stack.operator_policy_arn), (ERASURE, stack.erasure_policy_arn)):
        version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
        document = iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]
        policies[who] = [document]
    trust = {
        who: iam.get_role(RoleName=role)["Role"]["AssumeRolePolicyDocument"] for who, role in roles.items()
    }
    return policies, trust


def _document(found: Any) -> Document:
    """A policy document. moto returns the documents of a role as text in Python's syntax."""
    return ast.literal_eval(found) if isinstance(found, str) else found


def _user(who: str, documents: Sequence[Document]) -> tuple[str, str]:
    """Keys of a user with these policies, without the conditions on prefixes, which moto always denies."""
    iam = boto3.client("iam")
    iam.create_user(UserName=who)
    for number, document in enumerate(documents):
        text = json.dumps(enforceable(document))
        iam.put_user_policy(UserName=who, PolicyName=f"policy-{number}", PolicyDocument=text)
    key = iam.create_access_key(UserName=who)["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]
