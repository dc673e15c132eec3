"""What goes wrong on a cluster: each run ends as it should, and no step is left behind or done twice."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from rehearsal.faults import Fault
from rehearsal.ground import Ground, start_cluster, start_ground
from rehearsal.processes import marked_processes
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_FEATURES_CSV, RAW_IMAGES
from spark_jobs.store.tables import current
from tests.support import wait_for
from tests.yarn.emr_runs import (
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
FEW, MANY = 12, 500


@pytest.fixture(scope="module")
def few(ground: Ground, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Photos for a run whose steps are short."""
    root = tmp_path_factory.mktemp("few")
    copy_photos(root, LABELS, FEW)
    return upload(root, f"s3://{ground.bucket}/few")


@pytest.fixture
def cluster(ground: Ground) -> Iterator[str]:
    """A cluster of the test's own."""
    cluster = start_cluster(ground.aws, ground.bucket)
    yield cluster
    ground.aws.client("emr").terminate_job_flows(JobFlowIds=[cluster])


def running_step(ground: Ground, cluster: str) -> str:
    """The step that runs, once its driver is at work."""

    def at_work() -> str | None:
        running = [step for step, state in states_of_steps(ground, cluster).items() if state == "RUNNING"]
        if not running or not marked_processes(str(ground.aws.step_folder / running[0])):
            return None
        return running[0]

    return wait_for(at_work)


def is_complete(store: str, images: int) -> bool:
    tables = (
        current(open_root(store), table) for table in (RAW_IMAGES, MOBILENET_FEATURES, PCA_FEATURES_CSV)
    )
    return all(
        {label: p.rows for label, p in table.items()} == dict.fromkeys(LABELS, images) for table in tables
    )


def test_a_killed_dagster_process_and_the_run_after_it_never_have_two_steps_at_work(
    ground: Ground, few: str, cluster: str, tmp_path: Path
) -> None:
    settings = on_emr(ground, few, "killed", cluster)
    killed = start(tmp_path, **settings)
    orphan = running_step(ground, cluster)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert states_of_steps(ground, cluster)[orphan] == "RUNNING"
    run = start(tmp_path, **settings)
    wait_for_line(run, "Cancelling the step", orphan)
    out = finish(run)
    assert "Its process ended" not in out
    states = states_of_steps(ground, cluster)
    assert states.pop(orphan) == "CANCELLED"
    assert set(states.values()) == {"COMPLETED"}
    assert is_complete(settings["FRUITS_STORE"], FEW)


def test_a_step_that_fails_by_exit_status_alone_is_tried_again(
    ground: Ground, few: str, cluster: str, tmp_path: Path
) -> None:
    settings = on_emr(ground, few, "exit_status", cluster)
    run = start_raw_images(tmp_path, LABELS, **settings)
    failed = running_step(ground, cluster)
    for process in marked_processes(str(ground.aws.step_folder / failed)):
        os.kill(process, signal.SIGKILL)
    line = wait_for_line(run, "Another attempt, of 3 at most, in 30 s")
    assert f"Step {failed} FAILED: Unknown Error." in line
    assert f"/{cluster}/steps/{failed}/ about every five minutes" in line
    finish(run)
    states = states_of_steps(ground, cluster)
    assert states.pop(failed) == "FAILED"
    assert set(states.values()) == {"COMPLETED"}
    assert current(open_root(settings["FRUITS_STORE"]), RAW_IMAGES).keys() == set(LABELS)


def test_a_step_that_is_cancelled_from_the_console_is_not_tried_again(
    ground: Ground, few: str, cluster: str, tmp_path: Path
) -> None:
    run = start(tmp_path, **on_emr(ground, few, "cancelled", cluster))
    step = running_step(ground, cluster)
    ground.aws.client("emr").cancel_steps(
        ClusterId=cluster, StepIds=[step], StepCancellationOption="TERMINATE_PROCESS"
    )
    assert f"Step {step} was cancelled outside Dagster." in finish(run, 1)
    assert states_of_steps(ground, cluster) == {step: "CANCELLED"}


def test_a_cluster_that_ends_is_named_with_its_reason(
    ground: Ground, few: str, cluster: str, tmp_path: Path
) -> None:
    settings = on_emr(ground, few, "dead_cluster", cluster)
    run = start(tmp_path, **settings)
    step = running_step(ground, cluster)
    ground.aws.client("emr").terminate_job_flows(JobFlowIds=[cluster])
    out = finish(run, 1)
    assert f"The cluster {cluster} is TERMINAT" in out
    assert f"and took step {step} with it (Terminated by user request)" in out
    assert not current(open_root(settings["FRUITS_STORE"]), RAW_IMAGES)
    assert f"FRUITS_EMR_CLUSTER={cluster} is TERMINATED" in finish(start(tmp_path, **settings), 1)


def test_credentials_that_expire_end_the_run_with_a_sentence(
    ground: Ground, few: str, cluster: str, tmp_path: Path
) -> None:
    run = start(tmp_path, **on_emr(ground, few, "expired", cluster))
    running_step(ground, cluster)
    try:
        ground.aws.order(Fault(service="elasticmapreduce", error="ExpiredTokenException"))
        out = finish(run, 1)
    finally:
        ground.aws.clear_faults()
    assert "AWS credentials have expired (ExpiredTokenException): renew them" in out


def test_s3_that_is_slow_and_fails_one_call_in_twenty_changes_nothing(
    ground: Ground, few: str, tmp_path: Path
) -> None:
    settings = on_emr(ground, few, "slow")
    try:
        ground.aws.order(Fault(service="s3", seconds=0.015))
        ground.aws.order(Fault(service="s3", error="SlowDown", share=0.05))
        finish(start(tmp_path, **settings))
    finally:
        ground.aws.clear_faults()
    assert is_complete(settings["FRUITS_STORE"], FEW)


def test_a_thousand_long_class_names_travel_to_a_step_and_back(ground: Ground, tmp_path: Path) -> None:
    labels = [f"{number:04d} {'é' * 60}" for number in range(1000)]
    copy_photos(tmp_path, labels, 1)
    settings = on_emr(ground, upload(tmp_path, f"s3://{ground.bucket}/thousand_photos"), "thousand")
    finish(start_raw_images(tmp_path, labels, **settings))
    assert current(open_root(settings["FRUITS_STORE"]), RAW_IMAGES).keys() == set(labels)


def test_a_node_that_dies_while_features_are_extracted_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    copy_photos(tmp_path / "photos", LABELS, MANY)
    # `open_root` keeps what it opened by its URI, and the other ground's bucket must not be taken for this.
    with start_ground(tmp_path / "ground", bucket="dying-nodes") as ground:
        for name, value in ground.environment().items():
            monkeypatch.setenv(name, value)
        settings = on_emr(ground, upload(tmp_path / "photos", f"s3://{ground.bucket}/photos"), "store")
        run = start(tmp_path, **settings)
        wait_for_line(run, "mobilenet_features: extract", f"of {MANY * len(LABELS):,} images", "left")
        ground.yarn.kill_node_manager(0)
        finish(run)
        assert "LOST" in ground.yarn.nodes().values()
        assert is_complete(settings["FRUITS_STORE"], MANY)
