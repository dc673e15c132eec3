"""Helpers of the tests in this folder: photos, and runs that start as a user starts them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from benchmarks.photo_sets import variant
from fruits_assets.partitions import register_classes
from rehearsal.environment import RehearsalEnvironment
from spark_jobs.store.root import open_root
from tests.support import DAGSTER_YAML, numbered_samples

Run = subprocess.Popen[str]

MINUTES = 60.0  # in seconds


def copy_photos(root: Path, labels: list[str], each: int) -> None:
    """Writes `each` photos of every label: up to twelve samples, and variants of them."""
    names = numbered_samples(root / ".samples", min(each, 12))
    for number, label in enumerate(labels):
        samples = sorted((root / ".samples" / names[number % len(names)]).iterdir())
        (root / label).mkdir()
        for copy in range(each):
            content = variant(samples[copy % len(samples)], copy // len(samples))
            (root / label / f"{copy}_100.jpg").write_bytes(content)
    shutil.rmtree(root / ".samples")


def upload(photos: Path, uri: str) -> str:
    """Uploads a folder of photos to a prefix on S3. Returns the prefix."""
    files = [file for file in photos.rglob("*") if file.is_file()]
    open_root(uri).write_many((str(file.relative_to(photos)), file.read_bytes()) for file in files)
    return uri


def on_emr(rehearsal: RehearsalEnvironment, images: str, store: str, cluster: str = "") -> dict[str, str]:
    """The settings of a run whose jobs are steps of an EMR cluster."""
    return {
        **rehearsal.variables(),
        "FRUITS_ENV": "emr",
        "FRUITS_EMR_CLUSTER": cluster or rehearsal.cluster,
        "FRUITS_IMAGES": images,
        "FRUITS_STORE": f"s3://{rehearsal.bucket}/{store}",
    }


def start(home: Path, *arguments: str, **settings: str) -> Run:
    """Starts `fruits run` with a new Dagster home, in a folder without a .env."""
    return _start(home, ["fruits", "run", *arguments], settings)


def start_raw_images(home: Path, labels: list[str], **settings: str) -> Run:
    """Starts Dagster's command for `raw_images` of these classes, which runs one step."""
    _prepare(home)
    with instance_of(home) as instance:
        register_classes(instance, labels)
    selected = ["--select", "raw_images", "--partition-range", f"{labels[0]}...{labels[-1]}"]
    return _start(
        home, ["dagster", "asset", "materialize", "-m", "fruits_assets.definitions", *selected], settings
    )


def _prepare(home: Path) -> None:
    (home / "dagster").mkdir(parents=True, exist_ok=True)
    shutil.copy(DAGSTER_YAML, home / "dagster")


def _start(home: Path, command: list[str], settings: dict[str, str]) -> Run:
    _prepare(home)
    env = {**os.environ, "FRUITS_WEIGHTS": "embedded", "DAGSTER_HOME": str(home / "dagster"), **settings}
    return subprocess.Popen(
        [Path(sys.executable).with_name(command[0]), *command[1:]],
        env=env,
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextmanager
def instance_of(home: Path) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance of the runs that `start` started in `home`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(home / "dagster"))
        with dg.DagsterInstance.get() as instance:
            yield instance


def wait_for_line(run: Run, *words: str) -> str:
    """The first line of the output with all the words. Discards the lines before it."""
    assert run.stdout is not None
    lines = []
    for line in run.stdout:
        lines.append(line)
        if all(word in line for word in words):
            return line
    raise AssertionError(f"the run ended without {words}: {''.join(lines)}")


def finish(run: Run, status: int = 0) -> str:
    """Waits for the end of a run with the exit status `status`; returns the rest of its output."""
    out, _ = run.communicate(timeout=10 * MINUTES)
    assert run.returncode == status, out
    return out


def states_of_steps(rehearsal: RehearsalEnvironment, cluster: str = "") -> dict[str, str]:
    """The state of each step of a cluster by id, the newest step first."""
    listed = rehearsal.aws.client("emr").list_steps(ClusterId=cluster or rehearsal.cluster)["Steps"]
    return {step["Id"]: step["Status"]["State"] for step in listed}
