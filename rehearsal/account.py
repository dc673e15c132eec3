"""A simulated AWS account with the project's CloudFormation stack, whose policies decide about every call."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rehearsal.aws import REGION, Aws
from spark_jobs.errors import FruitsError

_ALL = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}


class Account(NamedTuple):
    """An account with the stack's outputs.

    `administrator` and `operator` are the environment variables of two users: the administrator may do
    everything, and the operator has the stack's policy.
    """

    aws: Aws
    outputs: dict[str, str]
    administrator: dict[str, str]
    operator: dict[str, str]


def prepare_account(aws: Aws, settings: Mapping[str, str]) -> Account:
    """Lets the server judge calls, deploys the stack with `fruits emr deploy`, and creates its operator.

    `settings` are FRUITS_* variables for the deployment. Raises `FruitsError` if the deployment fails.
    """
    iam = aws.client("iam")
    administrator, operator = (_new_user(aws, iam, name) for name in ("administrator", "operator"))
    iam.put_user_policy(UserName="administrator", PolicyName="everything", PolicyDocument=json.dumps(_ALL))
    aws.judge_calls()
    done = subprocess.run(
        # With Session Manager: moto fails on a policy that the stack leaves out without it.
        [Path(sys.executable).with_name("fruits"), "emr", "deploy", "--session-manager", "--yes"],
        env={**os.environ, **settings, **administrator, "FRUITS_REGION": REGION},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise FruitsError(f"`fruits emr deploy` failed: {done.stderr[-1500:]}")
    [stack] = aws.client("cloudformation").describe_stacks()["Stacks"]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
    iam.attach_user_policy(UserName="operator", PolicyArn=outputs["OperatorPolicyArn"])
    return Account(aws=aws, outputs=outputs, administrator=administrator, operator=operator)


def _new_user(aws: Aws, iam: Any, name: str) -> dict[str, str]:
    """Creates a user, and returns the environment variables with the user's access key."""
    iam.create_user(UserName=name)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return {
        **aws.variables(),
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
    }
