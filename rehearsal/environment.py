"""The environment of a rehearsal: YARN, AWS, a bucket, and an EMR cluster that waits for steps."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rehearsal.aws import REGION, Aws, start_aws
from rehearsal.delays import NO_DELAYS, Delays
from rehearsal.yarn import Yarn, start_yarn
from resources.emr.stack import PROJECT_TAG
from resources.settings import Settings

# The name of EMR's default role for nodes, and of its instance profile.
_NODE_ROLE = "EMR_EC2_DefaultRole"


@dataclass(frozen=True, kw_only=True)
class RehearsalEnvironment:
    """The running services. `cluster` is the id of an EMR cluster whose core nodes are those of YARN.

    The cluster writes its logs to `bucket`.
    """

    yarn: Yarn
    aws: Aws
    bucket: str
    cluster: str

    def variables(self) -> dict[str, str]:
        """The environment variables that lead the platform to this AWS and this cluster."""
        return {**self.aws.variables(), "FRUITS_EMR_CLUSTER": self.cluster}


@contextmanager
def start_environment(
    folder: Path,
    python: Path | None = None,
    bucket: str = "rehearsal",
    instance_type: str = "m5.xlarge",
    memory_mb: int = 12288,
    vcores: int = 4,
    nodes: int = 2,
    delays: Delays = NO_DELAYS,
) -> Iterator[RehearsalEnvironment]:
    """Starts all services, and stops them when the context ends, also by an error or a signal.

    `nodes` is the number of core nodes. `memory_mb` and `vcores` are the resources that YARN offers on a node
    of `instance_type` on EMR. YARN only counts this memory for its containers, and does not allocate it.
    `start_aws` describes `python`.
    """
    with (
        start_yarn(folder / "yarn", nodes, memory_mb, vcores) as yarn,
        start_aws(folder / "aws", yarn, python, delays) as aws,
    ):
        start_bucket(aws, bucket)
        _make_node_role(aws)
        cluster = start_cluster(aws, bucket, instance_type, nodes)
        yield RehearsalEnvironment(yarn=yarn, aws=aws, bucket=bucket, cluster=cluster)


def start_bucket(aws: Aws, name: str, region: str = REGION) -> None:
    """Creates a bucket with default encryption, which S3 applies to every new bucket since January 2023."""
    s3 = aws.client("s3", region)
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": region})
    by_default = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    s3.put_bucket_encryption(Bucket=name, ServerSideEncryptionConfiguration={"Rules": [by_default]})


def _make_node_role(aws: Aws) -> None:
    """Creates the instance profile of `start_cluster`, whose role may do everything in S3."""
    iam = aws.client("iam")
    trust = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    s3 = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    trusted, allowed = ({"Version": "2012-10-17", "Statement": [statement]} for statement in (trust, s3))
    iam.create_role(RoleName=_NODE_ROLE, AssumeRolePolicyDocument=json.dumps(trusted))
    iam.put_role_policy(RoleName=_NODE_ROLE, PolicyName="s3", PolicyDocument=json.dumps(allowed))
    iam.create_instance_profile(InstanceProfileName=_NODE_ROLE)
    iam.add_role_to_instance_profile(InstanceProfileName=_NODE_ROLE, RoleName=_NODE_ROLE)


def start_cluster(
    aws: Aws, bucket: str, instance_type: str = "m5.xlarge", nodes: int = 2, **request: Any
) -> str:
    """Starts a cluster and returns its id. All clusters share the nodes of YARN.

    `nodes` is the number of core nodes; `request` has further parameters of RunJobFlow.
    """
    answer = aws.client("emr").run_job_flow(
        Name="rehearsal",
        ReleaseLabel=Settings.model_fields["emr_release"].default,
        LogUri=f"s3://{bucket}/logs/",
        Applications=[{"Name": "Spark"}],
        JobFlowRole=_NODE_ROLE,
        ServiceRole="EMR_DefaultRole",
        Tags=[{"Key": key, "Value": value} for key, value in PROJECT_TAG.items()],
        Instances={
            "KeepJobFlowAliveWhenNoSteps": True,
            "InstanceGroups": [
                {
                    "Name": role.lower(),
                    "InstanceRole": role,
                    "InstanceType": instance_type,
                    "InstanceCount": count,
                    "Market": "ON_DEMAND",
                }
                for role, count in (("MASTER", 1), ("CORE", nodes))
            ],
        },
        **request,
    )
    return str(answer["JobFlowId"])
