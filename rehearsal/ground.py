"""The whole ground of a rehearsal: YARN, AWS, a bucket, and a cluster that waits for steps."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rehearsal.aws import REGION, Aws, start_aws
from rehearsal.yarn import Yarn, start_yarn

RELEASE = "emr-7.13.0"


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What runs. `cluster` is the id of an EMR cluster with two core nodes, which has the bucket for logs."""

    yarn: Yarn
    aws: Aws
    bucket: str
    cluster: str

    def environment(self) -> dict[str, str]:
        """The variables to set to use it."""
        return {**self.aws.environment(), "FRUITS_EMR_CLUSTER": self.cluster}


@contextmanager
def start_ground(
    folder: Path,
    python: Path | None = None,
    bucket: str = "rehearsal",
    instance_type: str = "m5.xlarge",
    memory_mb: int = 12288,
    vcores: int = 4,
    log_seconds: float = 0.0,
) -> Iterator[Ground]:
    """Starts everything, and stops it when the context ends, however it ends.

    `memory_mb` and `vcores` are what YARN has on a node of `instance_type` on EMR; that memory is promised
    to containers, and not taken. The other parameters are those of `start_yarn` and `start_aws`.
    """
    with (
        start_yarn(folder / "yarn", 2, memory_mb, vcores) as yarn,
        start_aws(folder / "aws", yarn, python, log_seconds) as aws,
    ):
        start_bucket(aws, bucket)
        yield Ground(yarn=yarn, aws=aws, bucket=bucket, cluster=start_cluster(aws, bucket, instance_type))


def start_bucket(aws: Aws, name: str, region: str = REGION) -> None:
    """A bucket with a default encryption, as all of S3's have since 2023."""
    s3 = aws.client("s3", region)
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": region})
    by_default = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    s3.put_bucket_encryption(Bucket=name, ServerSideEncryptionConfiguration={"Rules": [by_default]})


def start_cluster(aws: Aws, bucket: str, instance_type: str = "m5.xlarge", step_concurrency: int = 1) -> str:
    """A new cluster's id. It shares the nodes of YARN with all others."""
    answer = aws.client("emr").run_job_flow(
        Name="rehearsal",
        ReleaseLabel=RELEASE,
        LogUri=f"s3://{bucket}/logs/",
        Applications=[{"Name": "Spark"}],
        StepConcurrencyLevel=step_concurrency,
        JobFlowRole="EMR_EC2_DefaultRole",
        ServiceRole="EMR_DefaultRole",
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
                for role, count in (("MASTER", 1), ("CORE", 2))
            ],
        },
    )
    return answer["JobFlowId"]
