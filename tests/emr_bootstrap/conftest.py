"""The CloudFormation template deployed on moto, with the policies of its roles and of people."""

import json
import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import boto3
import pytest
from moto import mock_aws

from rehearsal import cloudformation
from rehearsal.judge import Judge
from rehearsal.policies import Document
from rehearsal.principals import managed_policy, policies_of_role
from rehearsal.server import judged_moto, served
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


class Account(NamedTuple):
    """A deployed stack and the documents of its roles and policies, by role and by name.

    `clients` makes clients of a server that judges every call, with the keys of a user who has the same
    policies. `judge` has the decisions.
    """

    stack: Stack
    policies: dict[str, dict[str, Document]]
    trust: dict[str, Document]
    keys: dict[str, tuple[str, str]]
    endpoint: str
    judge: Judge

    def client(self, service: str, who: str) -> Any:
        """A client of the judging server with the policies of `who`."""
        key, secret = self.keys[who]
        return boto3.client(
            service, endpoint_url=self.endpoint, aws_access_key_id=key, aws_secret_access_key=secret
        )


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    """The template deployed on moto, with one object under each prefix of the bucket."""
    logging.getLogger("werkzeug").disabled = True
    judge = judged_moto(judging=True)
    # The service role has EMR's policy, which AWS manages.
    with (
        pytest.MonkeyPatch.context() as patch,
        mock_aws(config={"iam": {"load_aws_managed_policies": True}}),
        served(judge) as endpoint,
    ):
        cloudformation.install()
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        settings = AccountSettings(_env_file=None)
        stack = deploy(settings, plan(settings, Deployment(wheelhouse=False, session_manager=True)))
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="other", CreateBucketConfiguration={"LocationConstraint": REGION})
        for bucket, key in [(stack.bucket, f"{prefix}/here/1.jpg") for prefix in PREFIXES] + [("other", "x")]:
            s3.put_object(Bucket=bucket, Key=key, Body=b"photo")
        iam = boto3.client("iam")
        profile = iam.get_instance_profile(InstanceProfileName=stack.instance_profile)["InstanceProfile"]
        roles = {NODES: profile["Roles"][0]["RoleName"], SERVICE: stack.service_role}
        policies = {who: policies_of_role(role) for who, role in roles.items()}
        for who, arn in ((OPERATOR, stack.operator_policy_arn), (ERASURE, stack.erasure_policy_arn)):
            policies[who] = {who: managed_policy(arn)}
        trust = {
            who: iam.get_role(RoleName=role)["Role"]["AssumeRolePolicyDocument"]
            for who, role in roles.items()
        }
        yield Account(
            stack=stack,
            policies=policies,
            trust=trust,
            keys={who: _user(who, documents) for who, documents in policies.items()},
            endpoint=endpoint,
            judge=judge,
        )


def _user(who: str, documents: dict[str, Document]) -> tuple[str, str]:
    """Keys of a user with these policies."""
    iam = boto3.client("iam")
    iam.create_user(UserName=who)
    for number, document in enumerate(documents.values()):
        iam.put_user_policy(UserName=who, PolicyName=f"policy-{number}", PolicyDocument=json.dumps(document))
    key = iam.create_access_key(UserName=who)["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]
