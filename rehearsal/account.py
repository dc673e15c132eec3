"""A simulated AWS account with the project's CloudFormation stack. moto enforces the stack's policies."""

import ast
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rehearsal.aws import REGION, Aws
from spark_jobs.errors import FruitsError


class Account(NamedTuple):
    """The stack's outputs, and the environment variables of an administrator and of the stack's operator."""

    outputs: dict[str, str]
    administrator: dict[str, str]
    operator: dict[str, str]


def prepare_account(aws: Aws, settings: Mapping[str, str]) -> Account:
    """Deploys the stack with `fruits emr deploy`, creates its operator, and then switches permissions on.

    `settings` are FRUITS_* variables for the deployment. Raises `FruitsError` if the deployment fails.
    """
    fruits = Path(sys.executable).with_name("fruits")
    done = subprocess.run(
        # With Session Manager: moto fails on a policy that the stack leaves out without it.
        [fruits, "emr", "deploy", "--session-manager", "--yes"],
        env={**os.environ, **settings, **aws.variables(), "FRUITS_REGION": REGION},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise FruitsError(f"`fruits emr deploy` failed: {done.stderr[-1500:]}")
    [stack] = aws.client("cloudformation").describe_stacks()["Stacks"]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
    iam = aws.client("iam")
    _make_role_enforceable(iam, outputs["InstanceProfile"])
    administrator, operator = (_new_user(aws, iam, name) for name in ("administrator", "operator"))
    everything, not_enforced = (
        {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]}
        # moto denies these calls to a user who is allowed them on certain clusters or stacks only.
        for actions in (["*"], ["elasticmapreduce:*", "cloudformation:DescribeStacks"])
    )
    _put_policy(iam, "administrator", "everything", everything)
    _put_policy(iam, "operator", "not enforced", not_enforced)
    version = iam.get_policy(PolicyArn=outputs["OperatorPolicyArn"])["Policy"]["DefaultVersionId"]
    document = iam.get_policy_version(PolicyArn=outputs["OperatorPolicyArn"], VersionId=version)
    _put_policy(iam, "operator", "stack", enforceable(document["PolicyVersion"]["Document"]))
    # moto checks permissions after this number of further calls: 0.
    request = urllib.request.Request(
        f"{aws.endpoint}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"}, method="POST"
    )
    urllib.request.urlopen(request, timeout=10).close()
    return Account(outputs=outputs, administrator=administrator, operator=operator)


def enforceable(document: Mapping[str, Any]) -> dict[str, Any]:
    """The policy without conditions on S3 prefixes: moto denies each call that needs such a condition."""
    statements = [
        {name: value for name, value in statement.items() if name != "Condition"}
        if "s3:prefix" in str(statement.get("Condition"))
        else statement
        for statement in document["Statement"]
    ]
    return {**document, "Statement": statements}


def _make_role_enforceable(iam: Any, instance_profile: str) -> None:
    """Writes the policies of the nodes' role again as JSON: moto keeps them as CloudFormation parsed them."""
    profile = iam.get_instance_profile(InstanceProfileName=instance_profile)["InstanceProfile"]
    [role] = [role["RoleName"] for role in profile["Roles"]]
    for name in iam.list_role_policies(RoleName=role)["PolicyNames"]:
        read = iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
        document = enforceable(ast.literal_eval(read) if isinstance(read, str) else read)
        iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=json.dumps(document))


def _new_user(aws: Aws, iam: Any, name: str) -> dict[str, str]:
    """Creates a user, and returns the environment variables with the user's access key."""
    iam.create_user(UserName=name)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return {
        **aws.variables(),
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
    }


def _put_policy(iam: Any, user: str, name: str, document: Mapping[str, Any]) -> None:
    iam.put_user_policy(UserName=user, PolicyName=name, PolicyDocument=json.dumps(document))
