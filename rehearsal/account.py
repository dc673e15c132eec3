"""An account as the project's own stack makes it, whose policies are enforced as far as moto judges them."""

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
    """The stack's outputs, and the variables by which its administrator and its operator reach AWS."""

    outputs: dict[str, str]
    administrator: dict[str, str]
    operator: dict[str, str]


def prepare_account(aws: Aws, settings: Mapping[str, str]) -> Account:
    """Deploys the stack as a user does, makes its operator, and has AWS ask for permissions from then on.

    Raises `FruitsError` where the stack can't be deployed.
    """
    fruits = Path(sys.executable).with_name("fruits")
    done = subprocess.run(
        # moto stumbles over a policy that only a stack with Session Manager has.
        [fruits, "emr", "deploy", "--session-manager", "--yes"],
        env={**os.environ, **settings, **aws.environment(), "FRUITS_REGION": REGION},
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
    everything, unjudged = (
        {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]}
        # moto denies these calls to whoever may make them on some clusters and stacks only.
        for actions in (["*"], ["elasticmapreduce:*", "cloudformation:DescribeStacks"])
    )
    _put_policy(iam, "administrator", "everything", everything)
    _put_policy(iam, "operator", "unjudged", unjudged)
    version = iam.get_policy(PolicyArn=outputs["OperatorPolicyArn"])["Policy"]["DefaultVersionId"]
    document = iam.get_policy_version(PolicyArn=outputs["OperatorPolicyArn"], VersionId=version)
    _put_policy(iam, "operator", "stack", enforceable(document["PolicyVersion"]["Document"]))
    # From now on: after no further call.
    request = urllib.request.Request(
        f"{aws.endpoint}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"}, method="POST"
    )
    urllib.request.urlopen(request, timeout=10).close()
    return Account(outputs=outputs, administrator=administrator, operator=operator)


def enforceable(document: Mapping[str, Any]) -> dict[str, Any]:
    """A policy as moto can enforce it: without conditions on S3 prefixes, since it denies what has one."""
    statements = [
        {name: value for name, value in statement.items() if name != "Condition"}
        if "s3:prefix" in str(statement.get("Condition"))
        else statement
        for statement in document["Statement"]
    ]
    return {**document, "Statement": statements}


def _make_role_enforceable(iam: Any, instance_profile: str) -> None:
    """Puts the policies of the nodes' role anew: moto has them as CloudFormation read them, not as JSON."""
    profile = iam.get_instance_profile(InstanceProfileName=instance_profile)["InstanceProfile"]
    [role] = [role["RoleName"] for role in profile["Roles"]]
    for name in iam.list_role_policies(RoleName=role)["PolicyNames"]:
        read = iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
        document = enforceable(ast.literal_eval(read) if isinstance(read, str) else read)
        iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=json.dumps(document))


def _new_user(aws: Aws, iam: Any, name: str) -> dict[str, str]:
    iam.create_user(UserName=name)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return {
        **aws.environment(),
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
    }


def _put_policy(iam: Any, user: str, name: str, document: Mapping[str, Any]) -> None:
    iam.put_user_policy(UserName=user, PolicyName=name, PolicyDocument=json.dumps(document))
