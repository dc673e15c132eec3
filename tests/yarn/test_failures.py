"""Failures on a cluster: how each run ends, and that no step stays behind or runs twice."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rehearsal.environment import RehearsalEnvironment, start_cluster, start_environment
from rehearsal.faults import Fault
from rehearsal.processes import marked_processes
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_FEATURES_CSV, RAW_IMAGES
from tests.support import current_versions, wait_for
from tests.yarn.emr_runs import (
    Run,
    copy_photos,
    finish,
    on_emr,
    start,
    start_raw_images,
    states_of_steps,
    upload,
    wait_for_line,
)

LABELS = ["Kiwi", "Lychee", "Mango"]
FEW, MANY = 12, 500  # photos of each class


@pytest.fixture(scope="module")
def few_photos(rehearsal: RehearsalEnvironment, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URI of 36 photos, for a run with short steps."""
    root = tmp_path_factory.mktemp("few")
    copy_photos(root, LABELS, FEW)
    return upload(root, f"s3://{rehearsal.bucket}/few")


@pytest.fixture
def cluster(rehearsal: RehearsalEnvironment) -> Iterator[str]:
    """A new cluster for one test."""
    cluster = start_cluster(rehearsal.aws, rehearsal.bucket)
    yield cluster
    rehearsal.aws.client("emr").terminate_job_flows(JobFlowIds=[cluster])


def running_step(rehearsal: RehearsalEnvironment, cluster: str) -> str:
    """Waits until a step runs and has a driver process. Returns the id of the step."""

    def step_with_driver() -> str | None:
        running = [step for step, state in states_of_steps(rehearsal, cluster).items() if state == "RUNNING"]
        if not running or not marked_processes(str(rehearsal.aws.step_folder / running[0])):
            return None
        return running[0]

    return wait_for(step_with_driver)


def is_complete(store: str, images: int) -> bool:
    """Whether every table has `images` rows of each class."""
    tables = (
        current_versions(open_root(store), table)
        for table in (RAW_IMAGES, MOBILENET_FEATURES, PCA_FEATURES_CSV)
    )
    return all(
        {label: p.rows for label, p in table.items()} == dict.fromkeys(LABELS, images) for table in tables
    )


@pytest.mark.slow
def test_the_next_run_cancels_the_step_of_a_killed_process(
    rehearsal: RehearsalEnvironment, few_photos: str, cluster: str, tmp_path: Path
) -> None:
    settings = on_emr(rehearsal, few_photos, "killed", cluster)
    killed = start(tmp_path, **settings)
    orphan = running_step(rehearsal, cluster)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert states_of_steps(rehearsal, cluster)[orphan] == "RUNNING"
    run = start(tmp_path, **settings)
    wait_for_line(run, "Cancelling the step", orphan)
    out = finish(run)
    assert "Its process ended" not in out
    states = states_of_steps(rehearsal, cluster)
    assert states.pop(orphan) == "CANCELLED"
    assert set(states.values()) == {"COMPLETED"}
    assert is_complete(settings["FRUITS_STORE"], FEW)


@pytest.mark.slow
def test_a_step_with_an_unknown_error_is_retried(
    rehearsal: RehearsalEnvironment, few_photos: str, cluster: str, tmp_path: Path
) -> None:
    settings = on_emr(rehearsal, few_photos, "exit_status", cluster)
    run = start_raw_images(tmp_path, LABELS, **settings)
    failed = running_step(rehearsal, cluster)
    for process in marked_processes(str(rehearsal.aws.step_folder / failed)):
        os.kill(process, signal.SIGKILL)
    line = wait_for_line(run, "Dagster repeats the step in 30 s: retry 1 of 3")
    assert f"Step {failed} FAILED: Unknown Error." in line
    assert f"/{cluster}/steps/{failed}/ about every five minutes" in line
    finish(run)
    states = states_of_steps(rehearsal, cluster)
    assert states.pop(failed) == "FAILED"
    assert set(states.values()) == {"COMPLETED"}
    assert current_versions(open_root(settings["FRUITS_STORE"]), RAW_IMAGES).keys() == set(LABELS)


def test_a_step_that_is_cancelled_outside_dagster_is_not_retried(
    rehearsal: RehearsalEnvironment, few_photos: str, cluster: str, tmp_path: Path
) -> None:
    run = start(tmp_path, **on_emr(rehearsal, few_photos, "cancelled", cluster))
    step = running_step(rehearsal, cluster)
    rehearsal.aws.client("emr").cancel_steps(
        ClusterId=cluster, StepIds=[step], StepCancellationOption="TERMINATE_PROCESS"
    )
    assert f"Step {step} was cancelled outside Dagster." in finish(run, 1)
    assert states_of_steps(rehearsal, cluster) == {step: "CANCELLED"}


def test_the_error_for_a_terminated_cluster_names_it_with_its_reason(
    rehearsal: RehearsalEnvironment, few_photos: str, cluster: str, tmp_path: Path
) -> None:
    settings = on_emr(rehearsal, few_photos, "dead_cluster", cluster)
    run = start(tmp_path, **settings)
    step = running_step(rehearsal, cluster)
    rehearsal.aws.client("emr").terminate_job_flows(JobFlowIds=[cluster])
    out = finish(run, 1)
    assert f"The cluster {cluster} is TERMINAT" in out
    assert f"and ended step {step} (Terminated by user request)" in out
    assert not current_versions(open_root(settings["FRUITS_STORE"]), RAW_IMAGES)
    assert f"FRUITS_EMR_CLUSTER={cluster} is TERMINATED" in finish(start(tmp_path, **settings), 1)


def test_expired_credentials_end_the_run_with_the_remedy(
    rehearsal: RehearsalEnvironment, few_photos: str, cluster: str, tmp_path: Path
) -> None:
    run = start(tmp_path, **on_emr(rehearsal, few_photos, "expired", cluster))
    running_step(rehearsal, cluster)
    try:
        rehearsal.aws.inject(Fault(service="elasticmapreduce", error="ExpiredTokenException"))
        out = finish(run, 1)
    finally:
        rehearsal.aws.clear_faults()
    assert "AWS credentials have expired (ExpiredTokenException): renew them" in out


@pytest.mark.slow
def test_a_run_completes_on_slow_s3_with_failing_calls(
    rehearsal: RehearsalEnvironment, few_photos: str, tmp_path: Path
) -> None:
    settings = on_emr(rehearsal, few_photos, "slow")
    try:
        rehearsal.aws.inject(Fault(service="s3", seconds=0.015))
        rehearsal.aws.inject(Fault(service="s3", error="SlowDown", share=0.05))
        finish(start(tmp_path, **settings))
    finally:
        rehearsal.aws.clear_faults()
    assert is_complete(settings["FRUITS_STORE"], FEW)


@pytest.mark.slow
def test_a_step_handles_a_thousand_long_class_names(rehearsal: RehearsalEnvironment, tmp_path: Path) -> None:
    labels = [f"{number:04d} {'é' * 60}" for number in range(1000)]
    copy_photos(tmp_path, labels, 1)
    settings = on_emr(rehearsal, upload(tmp_path, f"s3://{rehearsal.bucket}/thousand_photos"), "thousand")
    finish(start_raw_images(tmp_path, labels, **settings))
    assert current_versions(open_root(settings["FRUITS_STORE"]), RAW_IMAGES).keys() == set(labels)


@contextmanager
def run_extracting_features(
    folder: Path, monkeypatch: pytest.MonkeyPatch, bucket: str, copies: int
) -> Iterator[tuple[RehearsalEnvironment, str, str, Run]]:
    """A run during feature extraction, on a cluster whose HDFS keeps `copies` of the files of a step.

    Yields the rehearsal, the cluster, the store and the run. `open_root` caches by URI, so buckets differ.
    """
    (folder / "photos").mkdir()
    copy_photos(folder / "photos", LABELS, MANY)
    with start_environment(folder / "rehearsal", bucket=bucket) as rehearsal:
        for name, value in rehearsal.variables().items():
            monkeypatch.setenv(name, value)
        hdfs = {"Classification": "hdfs-site", "Properties": {"dfs.replication": str(copies)}}
        cluster = start_cluster(rehearsal.aws, bucket, Configurations=[hdfs])
        settings = on_emr(rehearsal, upload(folder / "photos", f"s3://{bucket}/photos"), "store", cluster)
        run = start(folder, **settings)
        wait_for_line(run, "mobilenet_features: ", f"of {MANY * len(LABELS):,} images", "left")
        yield rehearsal, cluster, settings["FRUITS_STORE"], run


def blocks(rehearsal: RehearsalEnvironment, node: int) -> list[Path]:
    """The files of HDFS's blocks on a node."""
    data = rehearsal.yarn.folder / f"node{node}" / "datanode" / "data"
    return [file for file in data.rglob("blk_*") if file.suffix != ".meta"]


def stop_workers(rehearsal: RehearsalEnvironment, node: int) -> None:
    """Stops the Python workers of a node, so that their tasks do not end. Their executor lives."""
    for process in marked_processes(f"{rehearsal.yarn.folder}/node{node}"):
        if b"pyspark.daemon" in Path(f"/proc/{process}/cmdline").read_bytes():
            os.kill(process, signal.SIGSTOP)


@pytest.mark.slow
def test_a_step_survives_the_loss_of_a_node_where_hdfs_keeps_two_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extracting = run_extracting_features(tmp_path, monkeypatch, "two-copies", copies=2)
    with extracting as (rehearsal, cluster, store, run):
        assert len(blocks(rehearsal, 0)) == len(blocks(rehearsal, 1)) > 0
        rehearsal.yarn.kill_node(0)
        rehearsal.yarn.start_node()  # as EMR replaces a lost core node
        finish(run)
        assert sorted(rehearsal.yarn.nodes().values()) == ["LOST", "RUNNING", "RUNNING"]
        assert list(states_of_steps(rehearsal, cluster).values()) == ["COMPLETED"] * 4
        assert is_complete(store, MANY)


@pytest.mark.slow
def test_a_step_whose_files_were_lost_with_a_node_fails_and_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With one copy, HDFS may lose data where a single node goes down:
    # https://docs.aws.amazon.com/emr/latest/ReleaseGuide/emr-hdfs-config.html
    extracting = run_extracting_features(tmp_path, monkeypatch, "one-copy", copies=1)
    with extracting as (rehearsal, cluster, store, run):
        [application] = [app for app in rehearsal.yarn.applications(cluster) if app["state"] == "RUNNING"]
        # HDFS puts the single copy of each file on a random node. The application master shall live.
        master = rehearsal.yarn.node_of_master(application["id"])
        lost = 1 - master if blocks(rehearsal, 1 - master) else master
        # The step shall not end before it has asked the new node for as many executors as may fail.
        stop_workers(rehearsal, 1 - lost)
        rehearsal.yarn.kill_node(lost)
        rehearsal.yarn.start_node()
        line = wait_for_line(run, "Dagster repeats the step in 30 s: retry 1 of 3")
        assert "SparkContext was shut down" in line
        finish(run)
        assert sorted(states_of_steps(rehearsal, cluster).values()) == [*["COMPLETED"] * 4, "FAILED"]
        assert is_complete(store, MANY)
