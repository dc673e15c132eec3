"""The ground itself: EMR's API, real steps on real YARN, and nothing left behind. Run by `make test-emr`."""

import gzip
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from botocore.exceptions import ClientError

from rehearsal import jars
from rehearsal.faults import Fault
from rehearsal.ground import Ground, start_cluster, start_ground
from rehearsal.processes import marked_processes
from spark_jobs.errors import FruitsError
from tests.support import wait_for

SUM = """
    context.parallelize(range(100), 4).map(str).saveAsTextFile(sys.argv[1])
    def node(numbers):
        import importlib.util
        heavy = ("dagster", "tensorflow", "keras")
        return [(sum(map(int, numbers)), [name for name in heavy if importlib.util.find_spec(name)])]
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


def add_step(ground: Ground, program: str, *arguments: str, cluster: str = "", mode: str = "client") -> str:
    key = f"programs/{time.monotonic_ns()}.py"
    head = "import sys\nfrom pyspark.sql import SparkSession\n"
    session = "context = SparkSession.builder.getOrCreate().sparkContext\n"
    body = (head + session + dedent(program)).encode()
    ground.aws.client("s3").put_object(Bucket=ground.bucket, Key=key, Body=body)
    submit = ["spark-submit", "--num-executors", "2", "--executor-memory", "512m", "--deploy-mode", mode]
    step = {
        "Name": "test",
        "ActionOnFailure": "CONTINUE",
        "HadoopJarStep": {
            "Jar": "command-runner.jar",
            "Args": [*submit, f"s3://{ground.bucket}/{key}", *arguments],
        },
    }
    emr = ground.aws.client("emr")
    return emr.add_job_flow_steps(JobFlowId=cluster or ground.cluster, Steps=[step])["StepIds"][0]


def status_of(ground: Ground, step: str, cluster: str = "") -> dict[str, Any]:
    emr = ground.aws.client("emr")
    return emr.describe_step(ClusterId=cluster or ground.cluster, StepId=step)["Step"]["Status"]


def wait_for_end(ground: Ground, step: str, cluster: str = "") -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        status = status_of(ground, step, cluster)
        return None if status["State"] in ("PENDING", "RUNNING", "CANCEL_PENDING") else status

    return wait_for(ended)


def wait_for_tasks(ground: Ground, step: str) -> str:
    """The id of the step's application, once tasks of it run on both executors."""
    log = ground.aws.step_folder / step / "stderr"
    wait_for(lambda: log.exists() and log.read_text().count("Starting task") >= 2)
    return next(app["id"] for app in ground.yarn.applications() if app["id"] in log.read_text())


def log_of(ground: Ground, step: str, name: str, cluster: str = "") -> str:
    s3 = ground.aws.client("s3")
    key = f"logs/{cluster or ground.cluster}/steps/{step}/{name}.gz"
    wait_for(lambda: s3.list_objects_v2(Bucket=ground.bucket, Prefix=key)["KeyCount"])
    return gzip.decompress(s3.get_object(Bucket=ground.bucket, Key=key)["Body"].read()).decode()


def test_a_step_writes_to_s3_and_completes_on_nodes_without_dagster_and_tensorflow(ground: Ground) -> None:
    step = add_step(ground, SUM, f"s3://{ground.bucket}/out")
    status = wait_for_end(ground, step)
    assert status["State"] == "COMPLETED", log_of(ground, step, "stderr")
    timeline = status["Timeline"]
    assert timeline["CreationDateTime"] <= timeline["StartDateTime"] <= timeline["EndDateTime"]
    assert log_of(ground, step, "stdout") == "4950 set()\n"
    listed = ground.aws.client("s3").list_objects_v2(Bucket=ground.bucket, Prefix="out/part-")
    assert listed["KeyCount"] == 4
    cluster = ground.aws.client("emr").describe_cluster(ClusterId=ground.cluster)["Cluster"]
    assert cluster["Status"]["State"] == "WAITING"
    assert ":eu-west-3:" in cluster["ClusterArn"]
    assert cluster["Ec2InstanceAttributes"]["Ec2AvailabilityZone"] == "eu-west-3a"


def test_a_failing_step_is_failed_and_its_log_in_s3_says_why(ground: Ground) -> None:
    step = add_step(ground, "raise ValueError('no such fruit')")
    status = wait_for_end(ground, step)
    assert status["State"] == "FAILED"
    assert status["FailureDetails"]["LogFile"].endswith(f"/{ground.cluster}/steps/{step}/stderr.gz")
    # Spark merges what a Python driver says on stderr into stdout.
    assert "ValueError: no such fruit" in log_of(ground, step, "stdout")
    assert "exiting with ret '1'" in log_of(ground, step, "controller")


@pytest.mark.parametrize("option", ["SEND_INTERRUPT", "TERMINATE_PROCESS"])
def test_cancelling_a_step_ends_driver_and_application_within_30_seconds(ground: Ground, option: str) -> None:
    emr = ground.aws.client("emr")
    step, waiting = add_step(ground, SLEEP, "8", "300"), add_step(ground, SLEEP, "1", "1")
    application = wait_for_tasks(ground, step)
    answer = emr.cancel_steps(
        ClusterId=ground.cluster, StepIds=[step, waiting], StepCancellationOption=option
    )
    cancelled = time.monotonic()
    assert [info["Status"] for info in answer["CancelStepsInfoList"]] == ["SUBMITTED"] * 2
    mark = str(ground.aws.step_folder / step)
    wait_for(lambda: not marked_processes(mark), 30)
    wait_for(lambda: ground.yarn.application(application)["state"] in ("FINISHED", "FAILED", "KILLED"), 30)
    assert time.monotonic() - cancelled < 30
    assert wait_for_end(ground, step)["State"] == "CANCELLED"
    assert wait_for_end(ground, waiting)["State"] == "CANCELLED"
    [again] = emr.cancel_steps(ClusterId=ground.cluster, StepIds=[step])["CancelStepsInfoList"]
    assert again["Status"] == "FAILED"


def test_in_cluster_mode_the_application_outlives_its_step_until_yarn_kills_it(ground: Ground) -> None:
    step = add_step(ground, SLEEP, "8", "300", mode="cluster")
    [application] = wait_for(lambda: [a for a in ground.yarn.applications() if a["state"] == "RUNNING"], 60)
    ground.aws.client("emr").cancel_steps(
        ClusterId=ground.cluster, StepIds=[step], StepCancellationOption="TERMINATE_PROCESS"
    )
    assert wait_for_end(ground, step)["State"] == "CANCELLED"
    assert ground.yarn.application(application["id"])["state"] == "RUNNING"
    ground.yarn.kill_application(application["id"])
    wait_for(lambda: ground.yarn.application(application["id"])["state"] == "KILLED", 30)


def test_steps_that_emr_would_refuse_are_refused(ground: Ground) -> None:
    emr = ground.aws.client("emr")
    with pytest.raises(ClientError, match="10280 characters"):
        add_step(ground, SUM, "x" * 10_281)
    with pytest.raises(ClientError, match="is not valid"):
        emr.describe_step(ClusterId=ground.cluster, StepId="s-NONE")
    with pytest.raises(ClientError, match="is not valid"):
        emr.list_steps(ClusterId="j-NONE")
    with pytest.raises(ClientError, match="does not exist"):
        emr.terminate_job_flows(JobFlowIds=["j-NONE"])


def test_policies_are_kept(ground: Ground) -> None:
    emr = ground.aws.client("emr")
    idle = {"IdleTimeout": 3600}
    emr.put_auto_termination_policy(ClusterId=ground.cluster, AutoTerminationPolicy=idle)
    assert emr.get_auto_termination_policy(ClusterId=ground.cluster)["AutoTerminationPolicy"] == idle
    limits = {"UnitType": "Instances", "MinimumCapacityUnits": 1, "MaximumCapacityUnits": 4}
    scaling = {"ComputeLimits": limits}
    emr.put_managed_scaling_policy(ClusterId=ground.cluster, ManagedScalingPolicy=scaling)
    assert emr.get_managed_scaling_policy(ClusterId=ground.cluster)["ManagedScalingPolicy"] == scaling
    emr.remove_managed_scaling_policy(ClusterId=ground.cluster)
    assert "ManagedScalingPolicy" not in emr.get_managed_scaling_policy(ClusterId=ground.cluster)


def test_calls_fail_as_ordered(ground: Ground) -> None:
    emr, s3 = ground.aws.client("emr"), ground.aws.client("s3")
    before = ground.aws.calls().get("elasticmapreduce DescribeCluster", 0)
    try:
        ground.aws.order(
            Fault(
                service="elasticmapreduce", operation="DescribeCluster", error="ThrottlingException", times=2
            )
        )
        emr.describe_cluster(ClusterId=ground.cluster)  # botocore tries again
        assert ground.aws.calls()["elasticmapreduce DescribeCluster"] == before + 3
        ground.aws.order(Fault(service="elasticmapreduce", error="ExpiredTokenException"))
        with pytest.raises(ClientError, match="ExpiredTokenException"):
            emr.list_clusters()
        ground.aws.order(Fault(service="s3", operation="PUT", path="/never", error="AccessDenied"))
        with pytest.raises(ClientError, match="AccessDenied"):
            s3.put_object(Bucket=ground.bucket, Key="never", Body=b"")
        ground.aws.order(Fault(service="s3", operation="GET", seconds=0.3))
        started = time.monotonic()
        s3.list_objects_v2(Bucket=ground.bucket, Prefix="nothing")
        assert time.monotonic() - started > 0.3
    finally:
        ground.aws.clear_faults()
    emr.list_clusters()


def test_terminating_a_cluster_ends_its_step_and_its_application(ground: Ground) -> None:
    emr = ground.aws.client("emr")
    cluster = start_cluster(ground.aws, ground.bucket)
    step = add_step(ground, SLEEP, "8", "300", cluster=cluster)
    waiting = add_step(ground, SLEEP, "1", "1", cluster=cluster)
    application = wait_for_tasks(ground, step)
    emr.terminate_job_flows(JobFlowIds=[cluster])
    wait_for(
        lambda: emr.describe_cluster(ClusterId=cluster)["Cluster"]["Status"]["State"] == "TERMINATED", 30
    )
    assert [status_of(ground, one, cluster)["State"] for one in (step, waiting)] == ["CANCELLED"] * 2
    assert not marked_processes(str(ground.aws.step_folder / step))
    wait_for(lambda: ground.yarn.application(application)["state"] in ("FINISHED", "FAILED", "KILLED"), 30)
    with pytest.raises(ClientError, match="may not be modified"):
        add_step(ground, SLEEP, "1", "1", cluster=cluster)


def test_a_failed_step_terminates_its_cluster_if_it_says_so(ground: Ground) -> None:
    emr = ground.aws.client("emr")
    cluster = start_cluster(ground.aws, ground.bucket)
    arguments = {"Jar": "command-runner.jar", "Args": ["false"]}
    step = {"Name": "false", "ActionOnFailure": "TERMINATE_CLUSTER", "HadoopJarStep": arguments}
    emr.add_job_flow_steps(JobFlowId=cluster, Steps=[step])

    def status() -> dict[str, Any]:
        return emr.describe_cluster(ClusterId=cluster)["Cluster"]["Status"]

    wait_for(lambda: status()["State"] == "TERMINATED_WITH_ERRORS", 30)
    assert status()["StateChangeReason"]["Code"] == "STEP_FAILURE"


def test_a_changed_jar_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    locked = [line.split()[1] for line in jars._LOCK.read_text().splitlines()]
    folder = tmp_path / "fruits" / f"s3a-{jars.HADOOP}"
    folder.mkdir(parents=True)
    for path in locked:
        if path.startswith("s3a/"):
            (folder / path.removeprefix("s3a/")).write_bytes(b"not a jar")
    with pytest.raises(FruitsError, match=r"aws-java-sdk-bundle-1\.12\.262\.jar has SHA-256"):
        jars.jars("s3a")


@pytest.mark.parametrize("node", ["the master's", "the other"])
def test_a_killed_node_does_not_stop_a_running_job(tmp_path: Path, node: str) -> None:
    with start_ground(tmp_path) as ground:
        step = add_step(ground, SLEEP, "40", "1.5")
        application = wait_for_tasks(ground, step)
        master = ground.yarn.node_of_master(application)
        lost = master if node == "the master's" else 1 - master
        ground.yarn.kill_node_manager(lost)
        assert not marked_processes(str(ground.yarn.folder / f"node{lost}"))
        wait_for(lambda: "LOST" in ground.yarn.nodes().values(), 60)
        status = wait_for_end(ground, step)
        assert status["State"] == "COMPLETED", log_of(ground, step, "stderr")
        assert log_of(ground, step, "stdout") == "40 done\n"


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_ground_that_is_ended_by_a_signal(tmp_path: Path, kind: signal.Signals) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    command = [sys.executable, "-m", "rehearsal"]
    process = subprocess.Popen(
        command, env={**environment, "TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    lines = [process.stdout.readline() for _ in range(7)]
    exported = dict(line.removeprefix("export ").strip().split("=", 1) for line in lines)
    assert exported["FRUITS_EMR_CLUSTER"].startswith("j-")
    [folder] = tmp_path.glob("rehearsal-*")
    assert len(marked_processes(str(folder))) == 4
    process.send_signal(kind)
    process.wait(60)
    process.stdout.close()
    assert folder.exists() == (kind == signal.SIGKILL)
    wait_for(lambda: not marked_processes(str(folder)), 30)
    port = int(exported["AWS_ENDPOINT_URL"].rpartition(":")[2])

    def closed() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) != 0

    # A process that ends loses its mark a moment before its sockets.
    wait_for(closed, 30)
