"""Steps that go wrong, against moto's EMR; the rehearsal's tests run real ones."""

from collections.abc import Iterator
from typing import Any

import boto3
import dagster as dg
import pytest
from moto import mock_aws

from fruits_assets.decorators import MAX_RETRIES, errors_end_the_step
from resources.emr import cluster as emr_cluster
from resources.emr.cluster import ENDED, Cluster
from resources.emr.steps import EmrSteps
from resources.settings import Settings
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


def test_a_step_that_its_dead_cluster_never_ended_is_not_waited_for(cluster: Cluster) -> None:
    step = cluster.add_step("fruits raw_images a-run", ["true"])
    cluster.emr.terminate_job_flows(JobFlowIds=[cluster.id])
    assert cluster.follow(step, print).state not in ENDED
    assert cluster.state().is_over


def test_a_step_that_does_not_end_when_it_is_cancelled_is_named(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = cluster.add_step("fruits raw_images a-run", ["true"])
    monkeypatch.setattr(cluster.emr, "cancel_steps", lambda **_: None)
    monkeypatch.setattr(emr_cluster, "CANCEL_SECONDS", 0.0)
    with pytest.raises(FruitsError, match=f"{step} on cluster {cluster.id} was cancelled a minute ago"):
        cluster.cancel(step)


def test_nodes_that_are_still_to_come_count_as_the_most(cluster: Cluster) -> None:
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


def test_the_last_attempt_fails_with_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []

    def throttled(*_: Any) -> None:
        attempts.append(1)
        raise FruitsError("AWS has no room for it now.", retry_helps=True)

    monkeypatch.setattr("fruits_assets.decorators.FIRST_WAIT_SECONDS", 0)
    monkeypatch.setattr(EmrSteps, "_run", throttled)

    @dg.asset
    @errors_end_the_step
    def photos(context: dg.AssetExecutionContext, job_runner: EmrSteps) -> None:
        job_runner.run(context, lambda *_: None, None)

    settings = Settings(env="emr", images="s3://a/photos", store="s3://a/store", _env_file=None)
    steps = EmrSteps(settings=dg.ResourceDefinition(lambda _: settings))
    result = dg.materialize([photos], resources={"job_runner": steps}, raise_on_error=False)
    [failure] = [event for event in result.all_events if event.is_step_failure]
    said = failure.step_failure_data.user_failure_data
    assert said is not None
    assert said.description == "AWS has no room for it now."
    assert len(attempts) == 1 + MAX_RETRIES
