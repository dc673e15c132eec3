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

OUTPUTS = "store/raw_images"
# What later clusters and Dagster trust.
TRUSTED = ["store/feature_extractor", "store/emr/code", "store/run_records", "store"]
PREFIXES = ["photos", OUTPUTS, *TRUSTED, "logs", "bootstrap", "elsewhere"]

# The calls that each role or policy may make on objects, by the prefix of their key.
READ, WRITE, DELETE, DELETE_VERSION = "get_object", "put_object", "delete_object", "delete_object_versions"
MAY = {
    NODES: {
        "photos": {READ},
        OUTPUTS: {READ, WRITE, DELETE},
        **{key: {READ} for key in TRUSTED},
        "logs": {WRITE},
        "bootstrap": {READ},
    },
    OPERATOR: {**{key: {READ, WRITE, DELETE} for key in [OUTPUTS, *TRUSTED]}, "logs": {READ}},
    ERASURE: {
        "photos": {DELETE, DELETE_VERSION},
        **{key: {READ, WRITE, DELETE, DELETE_VERSION} for key in [OUTPUTS, *TRUSTED]},
        "logs": {READ, DELETE, DELETE_VERSION},
    },
    SERVICE: {},
}


class Account(NamedTuple):
    """A deployed stack and the documents of its roles and policies, by role and by name.

    `access` are the credentials of a user with the same policies, or of a node in the stack's network, on a
    server that judges every call. `judge` has the decisions. `way` is the condition key of the S3 endpoint in
    that network.
    """

    stack: Stack
    policies: dict[str, dict[str, Document]]
    trust: dict[str, Document]
    access: dict[str, dict[str, str]]
    endpoint: str
    judge: Judge
    way: dict[str, str]

    def client(self, service: str, who: str) -> Any:
        """A client of the judging server with the policies of `who`."""
        return boto3.client(service, endpoint_url=self.endpoint, **self.access[who])


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
            access={
                **{who: _user(who, documents) for who, documents in policies.items()},
                NODES: _node(stack),
            },
            endpoint=endpoint,
            judge=judge,
            way={"aws:SourceVpce": _endpoint_of_s3()},
        )


def _node(stack: Stack) -> dict[str, str]:
    """The credentials of a node of a cluster in the stack's network."""
    subnet = {"Ec2SubnetId": stack.subnet, "MasterInstanceType": "m5.xlarge", "InstanceCount": 1}
    cluster = boto3.client("emr").run_job_flow(Name="nodes", Instances=subnet)["JobFlowId"]
    role = f"arn:aws:iam::{NUMBER}:role/{stack.instance_profile}"
    session = boto3.client("sts").assume_role(RoleArn=role, RoleSessionName=cluster)["Credentials"]
    return _access(session["AccessKeyId"], session["SecretAccessKey"], session["SessionToken"])


def _endpoint_of_s3() -> str:
    endpoints = boto3.client("ec2").describe_vpc_endpoints()["VpcEndpoints"]
    [gateway] = [each["VpcEndpointId"] for each in endpoints if each["VpcEndpointType"] == "Gateway"]
    return str(gateway)


def _access(key: str, secret: str, token: str = "") -> dict[str, str]:
    """The credentials as boto3 takes them."""
    access = {"aws_access_key_id": key, "aws_secret_access_key": secret}
    return access | ({"aws_session_token": token} if token else {})


def _user(who: str, documents: dict[str, Document]) -> dict[str, str]:
    """The credentials of a user with these policies."""
    iam = boto3.client("iam")
    iam.create_user(UserName=who)
    for number, document in enumerate(documents.values()):
        iam.put_user_policy(UserName=who, PolicyName=f"policy-{number}", PolicyDocument=json.dumps(document))
    key = iam.create_access_key(UserName=who)["AccessKey"]
    return _access(key["AccessKeyId"], key["SecretAccessKey"])
