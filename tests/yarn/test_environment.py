"""The rehearsal environment: its EMR API, its steps on YARN, and the end of its processes."""

import gzip
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from botocore.exceptions import ClientError

from rehearsal.environment import RehearsalEnvironment, start_cluster, start_environment
from rehearsal.faults import Fault
from rehearsal.processes import marked_processes
from tests.support import REPOSITORY, wait_for

SUM = """
    context.parallelize(range(100), 4).map(str).saveAsTextFile(sys.argv[1])
    def node(numbers):
        import importlib.util
        absent = ("dagster", "tensorflow", "keras")
        return [(sum(map(int, numbers)), [name for name in absent if importlib.util.find_spec(name)])]
    parts = context.textFile(sys.argv[1]).mapPartitions(node).collect()
    print(sum(part for part, _ in parts), {name for _, names in parts for name in names})
"""

SLEEP = """
    seconds = float(sys.argv[2])
    def work(number):
        import time
        time.sleep(seconds)
        return number
    done = context.parallelize(range(int(sys.argv[1])), int(sys.argv[1])).map(work).collect()
    print(f"{len(set(done))} done")
"""


TWO_EXECUTORS = ("--num-executors", "2", "--executor-memory", "512m")


def add_step(
    rehearsal: RehearsalEnvironment,
    program: str,
    *arguments: str,
    cluster: str = "",
    mode: str = "client",
    options: Sequence[str] = TWO_EXECUTORS,
) -> str:
    """Adds a step with a Spark program, which gets a `context`. Returns the id of the step."""
    key = f"programs/{time.monotonic_ns()}.py"
    head = "import sys\nfrom pyspark.sql import SparkSession\n"
    session = "context = SparkSession.builder.getOrCreate().sparkContext\n"
    body = (head + session + dedent(program)).encode()
    rehearsal.aws.client("s3").put_object(Bucket=rehearsal.bucket, Key=key, Body=body)
    submit = ["spark-submit", *options, "--deploy-mode", mode]
    step = {
        "Name": "test",
        "ActionOnFailure": "CONTINUE",
        "HadoopJarStep": {
            "Jar": "command-runner.jar",
            "Args": [*submit, f"s3://{rehearsal.bucket}/{key}", *arguments],
        },
    }
    emr = rehearsal.aws.client("emr")
    return emr.add_job_flow_steps(JobFlowId=cluster or rehearsal.cluster, Steps=[step])["StepIds"][0]


def status_of(rehearsal: RehearsalEnvironment, step: str, cluster: str = "") -> dict[str, Any]:
    emr = rehearsal.aws.client("emr")
    return emr.describe_step(ClusterId=cluster or rehearsal.cluster, StepId=step)["Step"]["Status"]


def wait_for_end(rehearsal: RehearsalEnvironment, step: str, cluster: str = "") -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        status = status_of(rehearsal, step, cluster)
        return None if status["State"] in ("PENDING", "RUNNING", "CANCEL_PENDING") else status

    return wait_for(ended)


def wait_for_tasks(rehearsal: RehearsalEnvironment, step: str) -> str:
    """Waits until the tasks of a step run on both executors. Returns the id of its application."""
    log = rehearsal.aws.step_folder / step / "stderr"
    wait_for(lambda: log.exists() and log.read_text().count("Starting task") >= 2)
    return next(app["id"] for app in rehearsal.yarn.applications() if app["id"] in log.read_text())


def log_of(rehearsal: RehearsalEnvironment, step: str, name: str, cluster: str = "") -> str:
    s3 = rehearsal.aws.client("s3")
    key = f"logs/{cluster or rehearsal.cluster}/steps/{step}/{name}.gz"
    wait_for(lambda: s3.list_objects_v2(Bucket=rehearsal.bucket, Prefix=key)["KeyCount"])
    return gzip.decompress(s3.get_object(Bucket=rehearsal.bucket, Key=key)["Body"].read()).decode()


def test_a_step_completes_on_nodes_without_dagster_and_tensorflow(
    rehearsal: RehearsalEnvironment,
) -> None:
    step = add_step(rehearsal, SUM, f"s3://{rehearsal.bucket}/out")
    status = wait_for_end(rehearsal, step)
    assert status["State"] == "COMPLETED", log_of(rehearsal, step, "stderr")
    timeline = status["Timeline"]
    assert timeline["CreationDateTime"] <= timeline["StartDateTime"] <= timeline["EndDateTime"]
    assert log_of(rehearsal, step, "stdout") == "4950 set()\n"
    listed = rehearsal.aws.client("s3").list_objects_v2(Bucket=rehearsal.bucket, Prefix="out/part-")
    assert listed["KeyCount"] == 4
    cluster = rehearsal.aws.client("emr").describe_cluster(ClusterId=rehearsal.cluster)["Cluster"]
    assert cluster["Status"]["State"] == "WAITING"
    assert ":eu-west-3:" in cluster["ClusterArn"]
    assert cluster["Ec2InstanceAttributes"]["Ec2AvailabilityZone"] == "eu-west-3a"


def test_the_log_of_a_failed_step_in_s3_has_the_error(rehearsal: RehearsalEnvironment) -> None:
    step = add_step(rehearsal, "raise ValueError('no such fruit')")
    status = wait_for_end(rehearsal, step)
    assert status["State"] == "FAILED"
    assert status["FailureDetails"]["LogFile"].endswith(f"/{rehearsal.cluster}/steps/{step}/stderr.gz")
    # Spark writes the stderr of a Python driver to stdout.
    assert "ValueError: no such fruit" in log_of(rehearsal, step, "stdout")
    assert "exiting with ret '1'" in log_of(rehearsal, step, "controller")


@pytest.mark.parametrize("option", ["SEND_INTERRUPT", "TERMINATE_PROCESS"])
def test_a_cancelled_step_ends_with_its_application_within_30_seconds(
    rehearsal: RehearsalEnvironment, option: str
) -> None:
    emr = rehearsal.aws.client("emr")
    step, waiting = add_step(rehearsal, SLEEP, "8", "300"), add_step(rehearsal, SLEEP, "1", "1")
    application = wait_for_tasks(rehearsal, step)
    answer = emr.cancel_steps(
        ClusterId=rehearsal.cluster, StepIds=[step, waiting], StepCancellationOption=option
    )
    cancelled = time.monotonic()
    assert [info["Status"] for info in answer["CancelStepsInfoList"]] == ["SUBMITTED"] * 2
    mark = str(rehearsal.aws.step_folder / step)
    wait_for(lambda: not marked_processes(mark), 30)
    wait_for(lambda: rehearsal.yarn.application(application)["state"] in ("FINISHED", "FAILED", "KILLED"), 30)
    assert time.monotonic() - cancelled < 30
    assert wait_for_end(rehearsal, step)["State"] == "CANCELLED"
    assert wait_for_end(rehearsal, waiting)["State"] == "CANCELLED"
    [again] = emr.cancel_steps(ClusterId=rehearsal.cluster, StepIds=[step])["CancelStepsInfoList"]
    assert again["Status"] == "FAILED"


def test_an_application_in_cluster_mode_outlives_its_cancelled_step(
    rehearsal: RehearsalEnvironment,
) -> None:
    step = add_step(rehearsal, SLEEP, "8", "300", mode="cluster")
    [application] = wait_for(
        lambda: [a for a in rehearsal.yarn.applications() if a["state"] == "RUNNING"], 60
    )
    rehearsal.aws.client("emr").cancel_steps(
        ClusterId=rehearsal.cluster, StepIds=[step], StepCancellationOption="TERMINATE_PROCESS"
    )
    assert wait_for_end(rehearsal, step)["State"] == "CANCELLED"
    assert rehearsal.yarn.application(application["id"])["state"] == "RUNNING"
    rehearsal.yarn.kill_application(application["id"])
    wait_for(lambda: rehearsal.yarn.application(application["id"])["state"] == "KILLED", 30)


def test_invalid_requests_are_refused_as_by_emr(rehearsal: RehearsalEnvironment) -> None:
    emr = rehearsal.aws.client("emr")
    with pytest.raises(ClientError, match="10280 characters"):
        add_step(rehearsal, SUM, "x" * 10_281)
    with pytest.raises(ClientError, match="is not valid"):
        emr.describe_step(ClusterId=rehearsal.cluster, StepId="s-NONE")
    with pytest.raises(ClientError, match="is not valid"):
        emr.list_steps(ClusterId="j-NONE")
    with pytest.raises(ClientError, match="does not exist"):
        emr.terminate_job_flows(JobFlowIds=["j-NONE"])


def test_policies_of_a_cluster_can_be_written_read_and_removed(rehearsal: RehearsalEnvironment) -> None:
    emr = rehearsal.aws.client("emr")
    idle = {"IdleTimeout": 3600}
    emr.put_auto_termination_policy(ClusterId=rehearsal.cluster, AutoTerminationPolicy=idle)
    assert emr.get_auto_termination_policy(ClusterId=rehearsal.cluster)["AutoTerminationPolicy"] == idle
    limits = {"UnitType": "Instances", "MinimumCapacityUnits": 1, "MaximumCapacityUnits": 4}
    scaling = {"ComputeLimits": limits}
    emr.put_managed_scaling_policy(ClusterId=rehearsal.cluster, ManagedScalingPolicy=scaling)
    assert emr.get_managed_scaling_policy(ClusterId=rehearsal.cluster)["ManagedScalingPolicy"] == scaling
    emr.remove_managed_scaling_policy(ClusterId=rehearsal.cluster)
    assert "ManagedScalingPolicy" not in emr.get_managed_scaling_policy(ClusterId=rehearsal.cluster)


def test_injected_faults_fail_or_delay_calls(rehearsal: RehearsalEnvironment) -> None:
    emr, s3 = rehearsal.aws.client("emr"), rehearsal.aws.client("s3")
    before = rehearsal.aws.calls().get("elasticmapreduce DescribeCluster", 0)
    try:
        rehearsal.aws.inject(
            Fault(
                service="elasticmapreduce", operation="DescribeCluster", error="ThrottlingException", times=2
            )
        )
        emr.describe_cluster(ClusterId=rehearsal.cluster)  # botocore retries
        assert rehearsal.aws.calls()["elasticmapreduce DescribeCluster"] == before + 3
        rehearsal.aws.inject(Fault(service="elasticmapreduce", error="ExpiredTokenException"))
        with pytest.raises(ClientError, match="ExpiredTokenException"):
            emr.list_clusters()
        rehearsal.aws.inject(Fault(service="s3", operation="PUT", path="/never", error="AccessDenied"))
        with pytest.raises(ClientError, match="AccessDenied"):
            s3.put_object(Bucket=rehearsal.bucket, Key="never", Body=b"")
        rehearsal.aws.inject(Fault(service="s3", operation="GET", seconds=0.3))
        started = time.monotonic()
        s3.list_objects_v2(Bucket=rehearsal.bucket, Prefix="nothing")
        assert time.monotonic() - started > 0.3
    finally:
        rehearsal.aws.clear_faults()
    emr.list_clusters()


def test_a_terminated_cluster_ends_its_steps_and_its_application(rehearsal: RehearsalEnvironment) -> None:
    emr = rehearsal.aws.client("emr")
    cluster = start_cluster(rehearsal.aws, rehearsal.bucket)
    step = add_step(rehearsal, SLEEP, "8", "300", cluster=cluster)
    waiting = add_step(rehearsal, SLEEP, "1", "1", cluster=cluster)
    application = wait_for_tasks(rehearsal, step)
    emr.terminate_job_flows(JobFlowIds=[cluster])
    wait_for(
        lambda: emr.describe_cluster(ClusterId=cluster)["Cluster"]["Status"]["State"] == "TERMINATED", 30
    )
    assert [status_of(rehearsal, each, cluster)["State"] for each in (step, waiting)] == ["CANCELLED"] * 2
    assert not marked_processes(str(rehearsal.aws.step_folder / step))
    wait_for(lambda: rehearsal.yarn.application(application)["state"] in ("FINISHED", "FAILED", "KILLED"), 30)
    with pytest.raises(ClientError, match="may not be modified"):
        add_step(rehearsal, SLEEP, "1", "1", cluster=cluster)


def test_a_failed_step_can_terminate_its_cluster(rehearsal: RehearsalEnvironment) -> None:
    emr = rehearsal.aws.client("emr")
    cluster = start_cluster(rehearsal.aws, rehearsal.bucket)
    arguments = {"Jar": "command-runner.jar", "Args": ["false"]}
    step = {"Name": "false", "ActionOnFailure": "TERMINATE_CLUSTER", "HadoopJarStep": arguments}
    emr.add_job_flow_steps(JobFlowId=cluster, Steps=[step])

    def status() -> dict[str, Any]:
        return emr.describe_cluster(ClusterId=cluster)["Cluster"]["Status"]

    wait_for(lambda: status()["State"] == "TERMINATED_WITH_ERRORS", 30)
    assert status()["StateChangeReason"]["Code"] == "STEP_FAILURE"


@pytest.mark.slow
@pytest.mark.parametrize("node", ["the master's", "the other"])
def test_a_killed_node_does_not_stop_a_running_job(tmp_path: Path, node: str) -> None:
    with start_environment(tmp_path) as rehearsal:
        step = add_step(rehearsal, SLEEP, "40", "1.5")
        application = wait_for_tasks(rehearsal, step)
        master = rehearsal.yarn.node_of_master(application)
        lost = master if node == "the master's" else 1 - master
        rehearsal.yarn.kill_node(lost)
        assert not marked_processes(str(rehearsal.yarn.folder / f"node{lost}"))
        wait_for(lambda: "LOST" in rehearsal.yarn.nodes().values(), 60)
        status = wait_for_end(rehearsal, step)
        assert status["State"] == "COMPLETED", log_of(rehearsal, step, "stderr")
        assert log_of(rehearsal, step, "stdout") == "40 done\n"


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_all_processes_of_a_rehearsal(tmp_path: Path, kind: signal.Signals) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    command = [sys.executable, "-m", "rehearsal"]
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,  # the package `rehearsal` is not installed
        env={**environment, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(7)]
        exported = dict(line.removeprefix("export ").strip().split("=", 1) for line in lines)
        assert exported["FRUITS_EMR_CLUSTER"].startswith("j-")
        [folder] = tmp_path.glob("rehearsal-*")
        # YARN and HDFS have a daemon each for the primary node, and for each of two nodes. One is the server.
        assert len(marked_processes(str(folder))) == 7
        process.send_signal(kind)
        process.wait(60)
    finally:  # a failed test leaves no process to the next
        process.kill()
        process.communicate()
    assert folder.exists() == (kind == signal.SIGKILL)
    wait_for(lambda: not marked_processes(str(folder)), 30)
    port = int(exported["AWS_ENDPOINT_URL"].rpartition(":")[2])

    def closed() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) != 0

    # An ending process loses its environment a moment before its sockets.
    wait_for(closed, 30)
