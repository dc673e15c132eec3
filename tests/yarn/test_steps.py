"""The asset graph with FRUITS_ENV=emr, as a user runs it: every job is a step on YARN on this machine."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from PIL import Image

from fruits_assets.costs.run_records import STAGES, read_records
from rehearsal.compare import compare
from rehearsal.environment import RehearsalEnvironment
from resources.emr.code import CODE, STEPS
from spark_jobs.store.root import open_root
from tests.support import current_versions, json_at, wait_for
from tests.yarn.emr_runs import (
    MINUTES,
    copy_photos,
    finish,
    instance_of,
    on_emr,
    start,
    states_of_steps,
    upload,
)

UNUSUAL = ["=cmd() é", "50 % #1, 'ripe'", "😀" * 40]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 12 sample photos with unusual names, and one file that is not a photo.

    A child of a worker decodes two further photos: a large one, and one of another format.
    """
    root = tmp_path_factory.mktemp("photos")
    copy_photos(root, UNUSUAL, 12)
    with Image.open(root / UNUSUAL[1] / "0_100.jpg") as small:
        small.resize((2500, 2000)).save(root / UNUSUAL[1] / "large.jpg")
        small.save(root / UNUSUAL[1] / "phone.avif")
    (root / UNUSUAL[0] / "0_bad.jpg").write_text("no photo")
    return root


@pytest.fixture(scope="module")
def images_on_s3(rehearsal: RehearsalEnvironment, photos: Path) -> str:
    return upload(photos, f"s3://{rehearsal.bucket}/photos")


@pytest.fixture(scope="module")
def stores_and_home(
    rehearsal: RehearsalEnvironment, photos: Path, images_on_s3: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str, Path]:
    """The store of a run on the cluster, that of a local run, and the Dagster home of the first."""
    home = tmp_path_factory.mktemp("emr")
    settings = on_emr(rehearsal, images_on_s3, "store")
    finish(start(home, "--components", "5", **settings))
    local = tmp_path_factory.mktemp("local")
    local_settings = {"FRUITS_IMAGES": str(photos), "FRUITS_STORE": str(local / "store")}
    finish(start(local, "--components", "5", **local_settings))
    return settings["FRUITS_STORE"], local_settings["FRUITS_STORE"], home


def test_the_cluster_and_this_machine_give_equal_outputs(stores_and_home: tuple[str, str, Path]) -> None:
    found = compare(*stores_and_home[:2])
    assert not [comparison for comparison in found if not comparison.same]
    quarantine = next(comparison for comparison in found if comparison.output == "quarantined_images")
    assert quarantine.details == "1 photos and reasons"


def test_every_object_of_the_store_is_encrypted(
    rehearsal: RehearsalEnvironment, stores_and_home: tuple[str, str, Path]
) -> None:
    s3 = rehearsal.aws.client("s3")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=rehearsal.bucket, Prefix="store/")
    written = [entry["Key"] for page in pages for entry in page["Contents"]]
    assert len(written) > 20
    for key in written:
        assert s3.head_object(Bucket=rehearsal.bucket, Key=key)["ServerSideEncryption"] == "AES256", key


def test_no_parameters_messages_or_report_of_a_step_stay(stores_and_home: tuple[str, str, Path]) -> None:
    left = [info.path for info in open_root(stores_and_home[0]).list(STEPS)]
    assert left and all(path.startswith(f"{CODE}/") for path in left)


def test_metadata_give_cluster_and_cost_of_a_step_and_no_secret(
    rehearsal: RehearsalEnvironment, stores_and_home: tuple[str, str, Path]
) -> None:
    with instance_of(stores_and_home[2]) as instance:
        [record] = instance.fetch_observations(dg.AssetKey("mobilenet_features"), limit=1).records
        assert record.asset_observation is not None
        entries = record.asset_observation.metadata.items()
    metadata: dict[str, Any] = {name: entry.value for name, entry in entries}
    assert metadata["emr_cluster"] == rehearsal.cluster
    assert metadata["nodes"] == 2 and metadata["cores"] == 8
    # One primary and two core nodes m5.xlarge, at 0.272 USD an hour each.
    assert metadata["node_hours"] > 0
    assert 0 < metadata["seconds"] < metadata["emr_step_seconds"]
    assert metadata["estimated_cost_usd"] == pytest.approx(metadata["node_hours"] * 0.272, abs=1e-4)
    page = f"https://eu-west-3.console.aws.amazon.com/emr/home?region=eu-west-3#/clusterDetails/{rehearsal.cluster}"
    assert metadata["emr_cluster_console"] == page
    assert metadata["emr_step_console"] == f"{page}/steps/{metadata['emr_step']}"
    for database in (stores_and_home[2] / "dagster").rglob("*.db"):
        assert not re.search(rb"rehearsed-secret|X-Amz-Signature|AWSAccessKeyId", database.read_bytes())


def test_the_run_records_of_steps_describe_the_cluster(stores_and_home: tuple[str, str, Path]) -> None:
    records, bad = read_records(open_root(stores_and_home[0]))
    assert not bad
    assert [record.stage for record in records] == list(STAGES)
    for record in records:
        assert (record.environment, record.instance_type) == ("emr", "m5.xlarge")
        assert (record.nodes, record.cores, record.images) == (2, 8, 38)
        assert 0 < record.seconds < 10 * MINUTES and record.cost_usd is not None
        # The versions of the job's driver; this process may run another Python.
        assert record.versions["emr"].startswith("emr-7.")
        assert {"python", "spark", "openvino", "numpy", "pyarrow", "fruits-platform"} < set(record.versions)


def test_the_history_server_shows_steps_from_s3(
    rehearsal: RehearsalEnvironment, stores_and_home: tuple[str, str, Path], port: int
) -> None:
    settings = on_emr(rehearsal, "", "store")
    with instance_of(stores_and_home[2]) as instance:
        [record] = instance.fetch_materializations(dg.AssetKey("pca_model"), limit=1).records
        assert record.asset_materialization is not None
        link = str(record.asset_materialization.metadata["spark_history"].value)
    server = subprocess.Popen(
        [Path(sys.executable).with_name("fruits"), "history", "--port", str(port)],
        env={**os.environ, **settings},
        cwd=stores_and_home[2],
        start_new_session=True,
    )
    try:
        url = f"http://127.0.0.1:{port}/api/v1/applications"
        names = {application["name"] for application in wait_for(lambda: json_at(url))}
        assert {f"fruits {stage}" for stage in STAGES} <= names
        with urllib.request.urlopen(link.replace(":18080/", f":{port}/"), timeout=MINUTES) as page:
            assert "<title>fruits pca_model - Spark Jobs</title>" in page.read().decode()
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_the_event_log_has_the_step_and_its_progress(
    rehearsal: RehearsalEnvironment, stores_and_home: tuple[str, str, Path]
) -> None:
    with instance_of(stores_and_home[2]) as instance:
        [record] = instance.fetch_materializations(dg.AssetKey("pca_model"), limit=1).records
        event = record.asset_materialization
        assert event is not None
        step = event.metadata["emr_step"].value
        assert str(event.metadata["spark_application_id"].value).startswith("application_")
        logs = instance.all_logs(record.run_id)
    cluster = event.metadata["emr_cluster"].value
    emr = rehearsal.aws.client("emr")
    ended = emr.describe_step(ClusterId=cluster, StepId=step)["Step"]["Status"]["Timeline"]["EndDateTime"]
    followed = next(entry for entry in logs if str(step) in entry.message)
    progress = next(
        entry for entry in logs if entry.message.startswith("pca_model: ") and "images" in entry.message
    )
    # EMR gives the end with a precision of a second.
    assert followed.timestamp < progress.timestamp < ended.timestamp() + 1


def test_the_error_of_a_job_is_the_error_of_the_run(
    rehearsal: RehearsalEnvironment, stores_and_home: tuple[str, str, Path], images_on_s3: str
) -> None:
    run = start(stores_and_home[2], "--components", "1000", **on_emr(rehearsal, images_on_s3, "store"))
    out = finish(run, 1)
    assert "1,000 components need at least 1,001 images" in out
    assert re.search(r"\(Step s-\w+, with its logs: https://eu-west-3\.console\.aws\.amazon\.com/", out)


def test_a_run_in_a_forbidden_region_writes_nothing(
    rehearsal: RehearsalEnvironment, images_on_s3: str, tmp_path: Path
) -> None:
    settings = on_emr(rehearsal, images_on_s3, "elsewhere") | {"FRUITS_ALLOWED_REGIONS": "eu-central-1"}
    out = finish(start(tmp_path, **settings), 1)
    assert "is in eu-west-3, and photos may not leave eu-central-1" in out
    assert not open_root(settings["FRUITS_STORE"]).list("")


def test_dagsters_command_in_a_forbidden_region_writes_nothing(
    rehearsal: RehearsalEnvironment, images_on_s3: str, tmp_path: Path
) -> None:
    settings = on_emr(rehearsal, images_on_s3, "elsewhere") | {"FRUITS_ALLOWED_REGIONS": "eu-central-1"}
    (tmp_path / "dagster").mkdir()
    dagster = Path(sys.executable).with_name("dagster")
    done = subprocess.run(
        [dagster, "asset", "materialize", "-m", "fruits_assets.definitions", "--select", "feature_extractor"],
        env={**os.environ, **settings, "DAGSTER_HOME": str(tmp_path / "dagster"), "FRUITS_WEIGHTS": "random"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "photos may not leave eu-central-1" in done.stderr + done.stdout
    assert not open_root(settings["FRUITS_STORE"]).list("")


def test_an_interrupted_run_ends_its_step_and_its_application(
    rehearsal: RehearsalEnvironment, images_on_s3: str, tmp_path: Path
) -> None:
    def running() -> list[str]:
        return [step for step, state in states_of_steps(rehearsal).items() if state == "RUNNING"]

    settings = on_emr(rehearsal, images_on_s3, "interrupted")
    run = start(tmp_path, **settings)
    [step] = wait_for(running)
    time.sleep(5)
    run.send_signal(signal.SIGINT)

    def is_over() -> bool:
        applications = [app["state"] for app in rehearsal.yarn.applications()]
        return states_of_steps(rehearsal)[step] == "CANCELLED" and not {"ACCEPTED", "RUNNING"} & {
            *applications
        }

    wait_for(is_over, 30)
    finish(run, 130)
    assert not current_versions(open_root(settings["FRUITS_STORE"]), "raw_images")
