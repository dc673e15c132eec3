"""What the tests here do again and again: runs as a user starts them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from fruits_assets.partitions import register_classes
from rehearsal.ground import Ground
from spark_jobs.store.root import open_root
from tests.support import DAGSTER_YAML, numbered_samples

Run = subprocess.Popen[str]

MINUTES = 60.0


def copy_photos(root: Path, labels: list[str], each: int) -> None:
    """Sample photos, `each` of every label: twelve files, repeated under other names."""
    names = numbered_samples(root / ".samples", min(each, 12))
    for number, label in enumerate(labels):
        drawn = sorted((root / ".samples" / names[number % len(names)]).iterdir())
        (root / label).mkdir()
        for copy in range(each):
            shutil.copy(drawn[copy % len(drawn)], root / label / f"{copy}_100.jpg")
    shutil.rmtree(root / ".samples")


def upload(photos: Path, uri: str) -> str:
    """Puts a folder of photos under a prefix on S3, and returns that."""
    files = [file for file in photos.rglob("*") if file.is_file()]
    open_root(uri).write_many((str(file.relative_to(photos)), file.read_bytes()) for file in files)
    return uri


def on_emr(ground: Ground, images: str, store: str, cluster: str = "") -> dict[str, str]:
    """Settings of a run whose jobs are steps."""
    return {
        **ground.environment(),
        "FRUITS_ENV": "emr",
        "FRUITS_EMR_CLUSTER": cluster or ground.cluster,
        "FRUITS_IMAGES": images,
        "FRUITS_STORE": f"s3://{ground.bucket}/{store}",
    }


def start(home: Path, *arguments: str, **settings: str) -> Run:
    """`fruits run` with a Dagster home of its own, outside any folder with a .env."""
    return _start(home, ["fruits", "run", *arguments], settings)


def start_raw_images(home: Path, labels: list[str], **settings: str) -> Run:
    """Dagster's own command for `raw_images` of these classes: one step. The home is as that of `start`."""
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
    """What Dagster knows of the runs that `start` has begun there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(home / "dagster"))
        with dg.DagsterInstance.get() as instance:
            yield instance


def wait_for_line(run: Run, *words: str) -> str:
    """The first line of a run's output that has all the words; what came before it is lost."""
    assert run.stdout is not None
    said = []
    for line in run.stdout:
        said.append(line)
        if all(word in line for word in words):
            return line
    raise AssertionError(f"the run ended without {words}: {''.join(said)}")


def finish(run: Run, status: int = 0) -> str:
    """The rest of what a run says, which must end with an exit status."""
    out, _ = run.communicate(timeout=10 * MINUTES)
    assert run.returncode == status, out
    return out


def states_of_steps(ground: Ground, cluster: str = "") -> dict[str, str]:
    """The steps of a cluster and their states, the newest first."""
    listed = ground.aws.client("emr").list_steps(ClusterId=cluster or ground.cluster)["Steps"]
    return {step["Id"]: step["Status"]["State"] for step in listed}
