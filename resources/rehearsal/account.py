"""An account as the project's own stack makes it, whose policies are enforced as far as moto judges them."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from resources.rehearsal.aws import REGION, Aws
from resources.rehearsal.processes import RehearsalError


class Account(NamedTuple):
    """The stack's outputs, and the variables by which its administrator and its operator reach AWS."""

    outputs: dict[str, str]
    administrator: dict[str, str]
    operator: dict[str, str]


def prepare_account(aws: Aws, settings: Mapping[str, str]) -> Account:
    """Deploys the stack as a user does, makes its operator, and has AWS ask for permissions from then on.

    What moto judges wrongly is taken out of its way: it takes every call for one without TLS, and denies
    calls of EMR to whoever may make them on some clusters only.

    Raises `RehearsalError` where the stack can't be deployed.
    """
    everything = {**os.environ, **settings, **aws.environment(), "FRUITS_REGION": REGION}
    fruits = Path(sys.executable).with_name("fruits")
    done = subprocess.run(
        [fruits, "emr", "deploy", "--no-wheelhouse", "--yes"], env=everything, capture_output=True, text=True
    )
    if done.returncode:
        raise RehearsalError(f"`fruits emr deploy` failed: {done.stderr}")
    [stack] = aws.client("cloudformation").describe_stacks()["Stacks"]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
    aws.client("s3").delete_bucket_policy(Bucket=outputs["Bucket"])
    iam = aws.client("iam")
    administrator, operator = (_new_user(aws, iam, name) for name in ("administrator", "operator"))
    _allow(iam, "administrator", "*")
    _allow(iam, "operator", "elasticmapreduce:*")
    iam.attach_user_policy(UserName="operator", PolicyArn=outputs["OperatorPolicyArn"])
    # From now on: after no further call.
    request = urllib.request.Request(f"{aws.endpoint}/moto-api/reset-auth", data=b"0", method="POST")
    urllib.request.urlopen(request, timeout=10).close()
    return Account(outputs, administrator, operator)


def _new_user(aws: Aws, iam: Any, name: str) -> dict[str, str]:
    iam.create_user(UserName=name)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return {
        **aws.environment(),
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
    }


def _allow(iam: Any, user: str, action: str) -> None:
    statement = {"Effect": "Allow", "Action": action, "Resource": "*"}
    document = {"Version": "2012-10-17", "Statement": [statement]}
    iam.put_user_policy(UserName=user, PolicyName="rehearsal", PolicyDocument=json.dumps(document))
