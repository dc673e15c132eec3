"""The states of steps and nodes on moto's EMR. The tests of the rehearsal run steps on YARN."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import boto3
import dagster as dg
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from resources.emr import cluster as emr_cluster
from resources.emr.cluster import ENDED, Cluster, ClusterState, Step
from resources.emr.steps import EmrSteps, _exception, _reported, _take_messages_of_steps
from resources.settings import Settings
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import open_root
from spark_jobs.wire import Measured
from tests.resources.emr.commands import start_cluster

PARIS = "eu-west-3"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        yield Cluster(boto3.client("emr", region_name=PARIS), start_cluster(PARIS), PARIS)


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


@pytest.mark.parametrize(("own", "retry_helps"), [(None, True), ("j-MINE", False)])
def test_a_cluster_that_is_shutting_down_is_replaced_unless_the_user_named_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, own: str | None, retry_helps: bool
) -> None:
    def refuse(**_: Any) -> None:
        message = "A job flow that is shutting down, terminated, or finished may not be modified."
        raise ClientError({"Error": {"Code": "ValidationException", "Message": message}}, "AddJobFlowSteps")

    state = ClusterState("TERMINATING", "ALL_STEPS_COMPLETED", "it was idle", "s3://logs", "emr-7.13.0")
    monkeypatch.setattr(cluster.emr, "add_job_flow_steps", refuse)
    monkeypatch.setattr(Cluster, "state", lambda _: state)
    steps = EmrSteps(settings=Settings(images="/i", store="/s", emr_cluster=own, _env_file=None))
    context = SimpleNamespace(asset_key=dg.AssetKey("raw_images"), run=dg.DagsterRun("job"))
    with pytest.raises(FruitsError, match="is TERMINATING and takes no step") as error:
        steps._run_step(context, cluster, ["true"])  # type: ignore[arg-type]
    assert error.value.retry_helps == retry_helps


@pytest.mark.parametrize(
    ("message", "retry_helps"),
    [
        # The job's own error where YARN gave up an application, whose files a lost node had.
        ("a Spark task failed: Job 0 cancelled because SparkContext was shut down", True),
        ("1,000 components need at least 1,001 images", False),
    ],
)
def test_an_error_that_a_job_reports_in_its_own_words_is_retried_where_the_cluster_caused_it(
    cluster: Cluster, message: str, retry_helps: bool
) -> None:
    steps = EmrSteps(settings=Settings(images="/i", store="/s", _env_file=None))
    failed = Step(id="s-1", state="FAILED", reason="Unknown Error.", seconds=60.0)
    reported = {"class": f"{FruitsError.__module__}:{FruitsError.__qualname__}", "message": message}
    with pytest.raises(FruitsError, match=f"^{message} \\(Step s-1, with its logs: ") as error:
        steps._raise(cluster, failed, reported)
    assert error.value.retry_helps == retry_helps


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


# What nodes write.


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"[" * 100_000, b'{"seconds": "1"}'])
def test_a_report_that_is_none_is_named_with_its_file(store: str, content: bytes) -> None:
    root = open_root(store)
    root.write("emr/run/measured.json", content)
    with pytest.raises(FruitsError, match=r"emr/run/measured.json is not what the step writes there: .* Run"):
        _reported(root, "emr/run/measured.json", Measured)


def test_dagster_hears_only_the_kinds_of_messages_that_a_step_sends() -> None:
    """A message `log_external_stream` would go to Dagster's stdout as it is, and reports into its events.

    https://docs.dagster.io/guides/build/external-pipelines/dagster-pipes-details-and-customization
    """
    heard: list[Any] = []
    handler = SimpleNamespace(handle_message=heard.append)
    _take_messages_of_steps(handler)
    log: dict[str, Any] = {"method": "log", "params": {"message": "half done", "level": "INFO"}}
    for message in (
        {"method": "log_external_stream", "params": {"stream": "stdout", "text": "\x1b[2J", "extras": {}}},
        {"method": "report_asset_materialization", "params": {"asset_key": "raw_images"}},
        {"method": "report_asset_check", "params": {}},
        "log",
        log,
    ):
        handler.handle_message(message)
    assert heard == [log]


@pytest.mark.parametrize("messages", [[], ["x"], [{"class": "a"}], [{"class": 1, "message": "b"}], [None]])
def test_a_report_of_an_error_that_is_none_is_ignored(messages: list[Any]) -> None:
    assert _exception(messages) is None
