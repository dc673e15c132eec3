"""The states of steps and nodes on moto's EMR. The tests of the rehearsal run steps on YARN."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import dagster as dg
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from resources.emr import cluster as emr_cluster
from resources.emr import steps as emr_steps
from resources.emr.cluster import ENDED, Cluster, ClusterState, Step
from resources.emr.code import CODE, STEPS
from resources.emr.steps import EmrSteps, _exception, _reported, _take_messages_of_steps
from resources.settings import Settings
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import Root, open_root
from spark_jobs.wire import MEASURED, PARAMS, REPORT, Measured, to_json
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


# The folder of a step.


class Session:
    """A session of Pipes whose step has sent nothing."""

    def get_bootstrap_cli_arguments(self) -> dict[str, str]:
        return {}

    def get_custom_messages(self) -> list[Any]:
        return []


@dataclass(frozen=True)
class OfPhotos:
    """Parameters, or a report, with the paths of photos."""

    photos: list[str]


def job(spark: Any, params: OfPhotos, reporter: Any) -> OfPhotos:
    raise NotImplementedError


@pytest.fixture
def store(tmp_path: Path) -> Root:
    return open_root(str(tmp_path / "store"))


@pytest.fixture
def warnings() -> list[str]:
    return []


def run_step(
    cluster: Cluster, store: Root, warnings: list[str], patch: pytest.MonkeyPatch, state: str
) -> list[str]:
    """Runs a job whose step ends in a state; returns the names of the files that the step had."""
    had: list[str] = []

    def end(*_: Any) -> Step:
        folder = next(info.path for info in store.list(STEPS) if info.path.endswith(PARAMS)).rpartition("/")[
            0
        ]
        store.write(f"{folder}/messages/1.json", b"{}")
        store.write(f"{folder}/{REPORT}", to_json(OfPhotos(["Kiwi/1.jpg"])))
        store.write(f"{folder}/{MEASURED}", to_json(Measured(1.0, "application_1", {})))
        had.extend(info.path.removeprefix(f"{folder}/") for info in store.list(folder))
        if state == "INTERRUPTED":
            raise KeyboardInterrupt
        return Step(id="s-1", state=state, reason="", seconds=60.0)

    @contextmanager
    def session(*_: Any) -> Iterator[Session]:
        yield Session()

    patch.setattr(emr_steps, "_pipes_session", session)
    patch.setattr(EmrSteps, "_run_step", end)
    patch.setattr(EmrSteps, "_cluster", lambda *_: cluster)
    patch.setattr(emr_steps, "_cancel_orphans", lambda *_: None)
    steps = EmrSteps(settings=Settings(images="/i", store=store.uri, _env_file=None))
    log = SimpleNamespace(warning=warnings.append)
    context = SimpleNamespace(asset_key=dg.AssetKey("raw_images"), run=dg.DagsterRun("job"), log=log)
    try:
        found = steps._run(context, job, OfPhotos(["Kiwi/1.jpg"]))  # type: ignore[arg-type]
        assert found.report == OfPhotos(["Kiwi/1.jpg"])
    except (FruitsError, KeyboardInterrupt):
        assert state != "COMPLETED"
    return sorted(had)


@pytest.mark.parametrize("state", ["COMPLETED", "FAILED", "INTERRUPTED"])
def test_the_folder_of_a_step_goes_with_its_end_and_the_code_stays(
    cluster: Cluster, store: Root, warnings: list[str], monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    had = run_step(cluster, store, warnings, monkeypatch, state)
    assert had == ["measured.json", "messages/1.json", "params.json", "report.json"]
    left = [info.path for info in store.list(STEPS)]
    assert len(left) == 2 and all(path.startswith(f"{CODE}/") for path in left)
    assert warnings == []


def test_a_folder_that_cannot_be_removed_is_a_warning(
    cluster: Cluster, store: Root, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError("AWS Error ACCESS_DENIED during DeleteObjects operation: Access Denied")

    monkeypatch.setattr(Root, "remove", refuse)
    run_step(cluster, store, warnings, monkeypatch, "COMPLETED")
    [warning] = warnings
    assert warning.startswith(f"{store.uri}/{STEPS}/") and "ACCESS_DENIED" in warning


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
def test_a_report_that_is_none_is_named_with_its_file(store: Root, content: bytes) -> None:
    store.write("emr/run/measured.json", content)
    with pytest.raises(FruitsError, match=r"emr/run/measured.json is not what the step writes there: .* Run"):
        _reported(store, "emr/run/measured.json", Measured)


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
