"""Cancellations, logs and the network interface of EMR, which come or go late. There is no YARN."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from rehearsal.aws import Aws, start_aws
from rehearsal.delays import Delays
from rehearsal.environment import start_bucket
from rehearsal.processes import marked_processes
from tests.support import wait_for

# Long enough that a test sees the state before, also on a busy machine.
DELAYS = Delays(log_seconds=3.0, cancel_seconds=3.0, interface_seconds=3.0)
ROLE, BUCKET = "nodes", "logs"


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    """The server with an instance profile and a bucket."""
    with start_aws(tmp_path_factory.mktemp("aws"), None, Path(sys.executable), DELAYS) as running:
        iam = running.client("iam")
        trust = json.dumps({"Version": "2012-10-17", "Statement": []})
        iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument=trust)
        iam.create_instance_profile(InstanceProfileName=ROLE)
        iam.add_role_to_instance_profile(InstanceProfileName=ROLE, RoleName=ROLE)
        start_bucket(running, BUCKET)
        yield running


def start(aws: Aws, **instances: Any) -> str:
    """The id of a new cluster that runs a step of a minute."""
    groups = [
        {"InstanceRole": role, "InstanceType": "m5.xlarge", "InstanceCount": 1} for role in ("MASTER", "CORE")
    ]
    command = {"Jar": "command-runner.jar", "Args": ["sh", "-c", "echo begins; exec sleep 60"]}
    answer = aws.client("emr").run_job_flow(
        Name="test",
        ReleaseLabel="emr-7.13.0",
        LogUri=f"s3://{BUCKET}/logs/",
        JobFlowRole=ROLE,
        ServiceRole="emr",
        Instances={"KeepJobFlowAliveWhenNoSteps": True, "InstanceGroups": groups, **instances},
        Steps=[{"Name": "sleep", "ActionOnFailure": "CONTINUE", "HadoopJarStep": command}],
    )
    return str(answer["JobFlowId"])


def step_of(aws: Aws, cluster: str) -> tuple[str, str]:
    """The id and the state of the only step of a cluster."""
    [step] = aws.client("emr").list_steps(ClusterId=cluster)["Steps"]
    return step["Id"], step["Status"]["State"]


def running_step(aws: Aws, cluster: str) -> str:
    """Waits until the step of a cluster has a process; returns its id."""
    step, _ = step_of(aws, cluster)
    wait_for(lambda: marked_processes(str(aws.step_folder / step)))
    return step


def end(aws: Aws, cluster: str) -> None:
    """Terminates a cluster and waits for its end."""
    emr = aws.client("emr")
    emr.terminate_job_flows(JobFlowIds=[cluster])
    wait_for(
        lambda: emr.describe_cluster(ClusterId=cluster)["Cluster"]["Status"]["State"] == "TERMINATED", 30
    )


@pytest.mark.parametrize("option", ["SEND_INTERRUPT", "TERMINATE_PROCESS"])
def test_a_cancelled_step_runs_on_until_its_cluster_sees_the_cancellation(aws: Aws, option: str) -> None:
    # "CancelSteps is idempotent but asynchronous":
    # https://docs.aws.amazon.com/emr/latest/APIReference/API_CancelSteps.html
    cluster = start(aws)
    step = running_step(aws, cluster)
    cancelled = time.monotonic()
    aws.client("emr").cancel_steps(ClusterId=cluster, StepIds=[step], StepCancellationOption=option)
    assert step_of(aws, cluster) == (step, "CANCEL_PENDING")
    assert marked_processes(str(aws.step_folder / step))
    wait_for(lambda: step_of(aws, cluster)[1] == "CANCELLED", 30)
    assert time.monotonic() - cancelled >= DELAYS.cancel_seconds
    assert not marked_processes(str(aws.step_folder / step))
    end(aws, cluster)


def test_the_logs_of_a_step_reach_s3_after_the_end_of_its_cluster(aws: Aws) -> None:
    # "Any log files not already saved are uploaded to Amazon S3 if a LogUri was specified":
    # https://docs.aws.amazon.com/emr/latest/APIReference/API_TerminateJobFlows.html
    cluster, s3 = start(aws), aws.client("s3")
    step = running_step(aws, cluster)
    end(aws, cluster)
    assert step_of(aws, cluster) == (step, "CANCELLED")

    def logs() -> set[str]:
        listed = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"logs/{cluster}/").get("Contents", [])
        return {entry["Key"].rpartition("/")[2] for entry in listed}

    assert not logs()
    wait_for(lambda: logs() == {"controller.gz", "stderr.gz", "stdout.gz"}, 30)


def test_emrs_network_interface_outlives_a_cluster_and_holds_its_security_group(aws: Aws) -> None:
    # https://github.com/hashicorp/terraform-provider-aws/issues/3465 describes the interface, and
    # https://github.com/hashicorp/terraform-provider-aws/issues/1454 quotes the error.
    ec2 = aws.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.0.0/24")["Subnet"]["SubnetId"]
    service, other = (
        ec2.create_security_group(GroupName=name, Description=name, VpcId=vpc)["GroupId"]
        for name in ("service", "other")
    )

    def interfaces() -> list[str]:
        held = [{"Name": "group-id", "Values": [service]}]
        return [
            each["Description"] for each in ec2.describe_network_interfaces(Filters=held)["NetworkInterfaces"]
        ]

    cluster = start(aws, Ec2SubnetId=subnet, ServiceAccessSecurityGroup=service)
    assert interfaces() == ["ElasticMapReduce-eni"]
    end(aws, cluster)
    assert interfaces() == ["ElasticMapReduce-eni"]
    ec2.delete_security_group(GroupId=other)
    with pytest.raises(ClientError, match=rf"DependencyViolation.*resource {service} has a dependent object"):
        ec2.delete_security_group(GroupId=service)
    wait_for(lambda: not interfaces(), 30)
    ec2.delete_security_group(GroupId=service)
