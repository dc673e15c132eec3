"""The states of steps and nodes on moto's EMR. The tests of the rehearsal run steps on YARN."""

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from resources.emr import cluster as emr_cluster
from resources.emr.cluster import ENDED, Cluster
from spark_jobs.errors import FruitsError

PARIS = "eu-west-3"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        emr = boto3.client("emr", region_name=PARIS)
        instances = {
            "MasterInstanceType": "m5.xlarge",
            "SlaveInstanceType": "m5.xlarge",
            "InstanceCount": 3,
            "KeepJobFlowAliveWhenNoSteps": True,
        }
        started = emr.run_job_flow(Name="a cluster", Instances=instances)
        yield Cluster(emr, started["JobFlowId"], PARIS)


def test_the_wait_for_a_step_ends_with_its_cluster(cluster: Cluster) -> None:
    step = cluster.add_step("fruits raw_images a-run", ["true"])
    cluster.emr.terminate_job_flows(JobFlowIds=[cluster.id])
    assert cluster.follow(step, print).state not in ENDED
    assert cluster.state().is_over


def test_a_step_that_runs_three_minutes_after_its_cancellation_is_named(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = cluster.add_step("fruits raw_images a-run", ["true"])
    monkeypatch.setattr(cluster.emr, "cancel_steps", lambda **_: None)
    monkeypatch.setattr(emr_cluster, "CANCEL_SECONDS", 0.0)
    with pytest.raises(FruitsError, match=f"{step} on cluster {cluster.id} was cancelled three minutes ago"):
        cluster.cancel(step)


def test_requested_nodes_count_before_they_run(cluster: Cluster) -> None:
    assert {(nodes.role, nodes.number, nodes.most) for nodes in cluster.nodes()} == {
        ("MASTER", 1, 1),
        ("CORE", 2, 2),
    }
    groups = cluster.emr.list_instance_groups(ClusterId=cluster.id)["InstanceGroups"]
    half = [{**group, "RunningInstanceCount": 1} for group in groups]

    class HalfStarted:
        def list_instance_groups(self, ClusterId: str) -> dict[str, Any]:
            return {"InstanceGroups": half}

    [core] = [nodes for nodes in Cluster(HalfStarted(), "j-1", PARIS).nodes() if nodes.role == "CORE"]
    assert (core.number, core.most) == (1, 2)
