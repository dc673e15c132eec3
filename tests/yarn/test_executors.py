"""A job on YARN for whose executors there is no room."""

from pathlib import Path

from rehearsal.environment import RehearsalEnvironment, start_cluster
from tests.support import wait_for
from tests.yarn.emr_runs import copy_photos, finish, on_emr, start_raw_images, states_of_steps, upload
from tests.yarn.test_environment import add_step

# Holds two executors, which leave room for application masters and for no further executor.
OCCUPIED = """
    import time
    context.parallelize(range(2), 2).count()
    time.sleep(600)
"""
TWO_LARGE_EXECUTORS = ("--num-executors", "2", "--executor-memory", "9g")


def test_a_job_without_an_executor_names_the_free_memory_and_fails(
    rehearsal: RehearsalEnvironment, tmp_path: Path
) -> None:
    other = start_cluster(rehearsal.aws, rehearsal.bucket)  # all clusters share the nodes of YARN
    add_step(rehearsal, OCCUPIED, cluster=other, options=TWO_LARGE_EXECUTORS)
    try:
        # A master and two executors.
        wait_for(lambda: any(app["runningContainers"] == 3 for app in rehearsal.yarn.applications()), 120)
        (tmp_path / "photos").mkdir()
        copy_photos(tmp_path / "photos", ["Kiwi"], 4)
        photos = upload(tmp_path / "photos", f"s3://{rehearsal.bucket}/waiting_photos")
        settings = on_emr(rehearsal, photos, "waiting")
        run = start_raw_images(tmp_path / "home", ["Kiwi"], **settings, FRUITS_EMR_WAIT_MINUTES="0.3")
        out = finish(run, 1)
    finally:
        rehearsal.aws.client("emr").terminate_job_flows(JobFlowIds=[other])
    assert "The job has had no executor for" in out and "The job fails after 0.3 minutes." in out
    assert "an executor asks for 10,280 MiB, and 2 nodes have" in out
    assert "or use a cluster with more or larger nodes: FRUITS_EMR_CORE_NODES" in out
    assert "Dagster repeats the step" not in out
    assert next(iter(states_of_steps(rehearsal).values())) == "FAILED"
