"""The asset graph with FRUITS_ENV=emr, as a user runs it: every job a step on a YARN of this machine."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from fruits_assets.samples import draw_samples
from fruits_assets.store.root import open_root
from fruits_assets.store.tables import current, files
from resources.rehearsal.ground import Ground

FRUITS = str(Path(sys.executable).with_name("fruits"))
AWKWARD = ["=cmd() é", "50 % #1, 'ripe'", "😀" * 40]

Run = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 12 drawn photos under awkward names, and one file that is no photo."""
    root = tmp_path_factory.mktemp("photos")
    drawn = draw_samples(root / "drawn", 12)
    for name, label in zip(drawn, AWKWARD, strict=False):
        (root / "drawn" / name).rename(root / label)
    (root / AWKWARD[0] / "0_bad.jpg").write_text("no photo")
    for name in drawn[len(AWKWARD) :]:
        for file in (root / "drawn" / name).iterdir():
            file.unlink()
        (root / "drawn" / name).rmdir()
    (root / "drawn").rmdir()
    return root


@pytest.fixture(scope="module")
def images_on_s3(ground: Ground, photos: Path) -> str:
    uri = f"s3://{ground.bucket}/photos"
    for file in photos.rglob("*.jpg"):
        open_root(uri).write(str(file.relative_to(photos)), file.read_bytes())
    return uri


def start(home: Path, *arguments: str, **settings: str) -> "subprocess.Popen[str]":
    """`fruits run` with a Dagster home of its own, outside any folder with a .env."""
    (home / "dagster").mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "FRUITS_WEIGHTS": "embedded", "DAGSTER_HOME": str(home / "dagster"), **settings}
    return subprocess.Popen(
        [FRUITS, "run", *arguments],
        env=env,
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def emr(ground: Ground, images: str, store: str) -> dict[str, str]:
    return {
        "FRUITS_ENV": "emr",
        "FRUITS_EMR_CLUSTER": ground.cluster,
        "FRUITS_IMAGES": images,
        "FRUITS_STORE": f"s3://{ground.bucket}/{store}",
    }


@pytest.fixture(scope="module")
def both(
    ground: Ground, photos: Path, images_on_s3: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str, Path]:
    """The stores of one run on the cluster and one on this machine, and the cluster run's home."""
    home = tmp_path_factory.mktemp("emr")
    settings = emr(ground, images_on_s3, "store")
    run = start(home, "--components", "5", **settings)
    out, _ = run.communicate(timeout=600)
    assert run.returncode == 0, out
    local = tmp_path_factory.mktemp("local")
    run = start(local, "--components", "5", FRUITS_IMAGES=str(photos), FRUITS_STORE=str(local / "store"))
    out, _ = run.communicate(timeout=600)
    assert run.returncode == 0, out
    return settings["FRUITS_STORE"], str(local / "store"), home


def test_features_on_the_cluster_are_those_of_this_machine(both: tuple[str, str, Path]) -> None:
    tables = []
    for uri in both[:2]:
        store = open_root(uri)
        parts = [part.path for p in current(store, "mobilenet_features").values() for part in p.parts]
        table = pd.concat(pq.read_table(path, filesystem=store.fs).to_pandas() for path in parts)
        tables.append(table.sort_values("path"))
    cluster, local = tables
    assert cluster.path.tolist() == local.path.tolist()
    assert np.abs(np.stack(cluster.features) - np.stack(local.features)).max() <= 1e-5


def test_csvs_on_the_cluster_are_those_of_this_machine(both: tuple[str, str, Path]) -> None:
    cluster, local = (
        {path.rpartition("/")[2]: path for path in files(u, "pca_features_csv")} for u in both[:2]
    )
    assert cluster.keys() == local.keys()
    for name in local:
        on_s3 = pd.read_csv(open_root(both[0]).fs.open_input_stream(f"pca_features_csv/{name}"))
        here = pd.read_csv(local[name])
        assert on_s3[["path", "label"]].equals(here[["path", "label"]])
        assert np.abs(on_s3.filter(like="pc") - here.filter(like="pc")).to_numpy().max() <= 1e-5


def test_counts_quarantine_and_data_versions_are_the_same(both: tuple[str, str, Path]) -> None:
    for table in ("raw_images", "quarantined_images", "mobilenet_features", "pca_features_csv"):
        cluster, local = (current(open_root(uri), table) for uri in both[:2])
        assert {label: p.rows for label, p in cluster.items()} == {
            label: p.rows for label, p in local.items()
        }
        if table == "raw_images":
            assert {label: p.data_version for label, p in cluster.items()} == {
                label: p.data_version for label, p in local.items()
            }


def test_progress_and_the_step_stand_in_the_event_log(ground: Ground, both: tuple[str, str, Path]) -> None:
    with dg.DagsterInstance.from_config(str(both[2] / "dagster")) as instance:
        [record] = instance.fetch_materializations(dg.AssetKey("pca_model"), limit=1).records
        event = record.asset_materialization
        assert event is not None
        assert event.metadata["emr_cluster"].value == ground.cluster
        step = event.metadata["emr_step"].value
        assert str(event.metadata["spark_application_id"].value).startswith("application_")
        logs = [entry.message for entry in instance.all_logs(record.run_id)]
    followed = next(i for i, message in enumerate(logs) if str(step) in message)
    progress = next(i for i, message in enumerate(logs) if message.startswith("pca_model: fit"))
    assert followed < progress


def test_what_the_job_raised_is_the_error(
    ground: Ground, both: tuple[str, str, Path], images_on_s3: str
) -> None:
    run = start(both[2], "--components", "1000", **emr(ground, images_on_s3, "store"))
    out, _ = run.communicate(timeout=600)
    assert run.returncode == 1
    assert "1000 components need at least 1001 images" in out


def test_another_region_is_refused_before_anything_is_written(
    ground: Ground, images_on_s3: str, tmp_path: Path
) -> None:
    settings = emr(ground, images_on_s3, "elsewhere") | {"FRUITS_ALLOWED_REGIONS": "eu-central-1"}
    run = start(tmp_path, **settings)
    out, _ = run.communicate(timeout=600)
    assert run.returncode == 1
    assert "is in eu-west-3, and photos may not leave eu-central-1" in out
    assert not open_root(settings["FRUITS_STORE"]).list("raw_images")
    assert not open_root(settings["FRUITS_STORE"]).list("emr")


def test_an_interrupted_run_ends_its_step_and_its_application(
    ground: Ground, images_on_s3: str, tmp_path: Path
) -> None:
    client = ground.aws.client("emr")

    def running() -> list[str]:
        steps = client.list_steps(ClusterId=ground.cluster, StepStates=["RUNNING"])["Steps"]
        return [step["Id"] for step in steps]

    settings = emr(ground, images_on_s3, "interrupted")
    run = start(tmp_path, **settings)
    deadline = time.monotonic() + 120
    while not running():
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.5)
    [step] = running()
    time.sleep(5)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=90)
    assert run.returncode == 130
    state = client.describe_step(ClusterId=ground.cluster, StepId=step)["Step"]["Status"]["State"]
    assert state == "CANCELLED"
    assert not current(open_root(settings["FRUITS_STORE"]), "raw_images")
    deadline = time.monotonic() + 30
    while any(app["state"] in ("ACCEPTED", "RUNNING") for app in ground.yarn.applications()):
        assert time.monotonic() < deadline
        time.sleep(0.5)
