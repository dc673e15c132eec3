"""The code of a step: its upload, and the launcher that runs it on a node only if it is unchanged."""

import hashlib
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from resources.emr.code import ENTRY_POINT, LAUNCHER, code_archive, upload_code
from spark_jobs.store.root import Root, open_root
from tests.s3_server import s3_bucket

# Prints its arguments, and the SHA-256 of the files among them.
SPARK_SUBMIT = """#!/usr/bin/env bash
for argument; do
    if [[ -f $argument ]]; then sha256sum < "$argument"; else echo "$argument"; fi
done
"""


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_bucket(tmp_path_factory.mktemp("s3")) as uri:
        yield uri


@pytest.fixture
def store(bucket: str, tmp_path: Path) -> Root:
    return open_root(f"{bucket}/{tmp_path.name}")


def launch(
    folder: Path, code: str, entry_point: str, program: str = SPARK_SUBMIT
) -> subprocess.CompletedProcess[str]:
    """Runs the launcher as a step does, with a stand-in for spark-submit."""
    spark_submit = folder / "bin" / "spark-submit"
    spark_submit.parent.mkdir()
    spark_submit.write_text(program)
    spark_submit.chmod(0o755)
    options = ["--name", "fruits raw_images", "--", "a.module:job", "s3://bucket/folder"]
    return subprocess.run(
        [sys.executable, "-c", LAUNCHER.read_text(), "eu-west-3", code, entry_point, *options],
        env={**os.environ, "PATH": f"{spark_submit.parent}:{os.environ['PATH']}", "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
    )


def test_a_step_runs_the_files_that_were_uploaded(store: Root, tmp_path: Path) -> None:
    done = launch(tmp_path, *upload_code(store))
    assert done.returncode == 0, done.stderr
    archive, entry_point = (
        f"{hashlib.sha256(content).hexdigest()}  -" for content in (code_archive(), ENTRY_POINT.read_bytes())
    )
    assert done.stdout.splitlines() == [
        *("--name", "fruits raw_images", "--py-files", archive),
        *(entry_point, "a.module:job", "s3://bucket/folder"),
    ]


def test_a_step_that_ends_leaves_no_code_on_the_node(store: Root, tmp_path: Path) -> None:
    # In client mode, spark-submit runs the entry point with its own environment. This job does not exist.
    runs = f'#!/usr/bin/env bash\nexec "{sys.executable}" "$5" no.module:job x y eu-west-3 1 "${{@:8}}"\n'
    done = launch(tmp_path, *upload_code(store), program=runs)
    assert done.returncode == 1
    assert "dagster_pipes" in done.stderr  # it has begun, and has no parameters of Dagster
    assert list(tmp_path.glob("fruits-*")) == []


@pytest.mark.parametrize("changed", [0, 1])
def test_a_file_that_was_changed_in_the_store_is_not_run(store: Root, tmp_path: Path, changed: int) -> None:
    uris = upload_code(store)
    store.write(uris[changed].removeprefix(f"{store.uri}/"), b"print('planted')")
    done = launch(tmp_path, *uris)
    assert done.returncode == 1
    assert f"{uris[changed]} has the SHA-256 " in done.stderr
    assert "it was changed after it was uploaded, and is not run" in done.stderr
    assert not done.stdout


def test_a_file_that_somebody_has_planted_is_replaced_by_the_next_upload(store: Root) -> None:
    code, _ = upload_code(store)
    path = code.removeprefix(f"{store.uri}/")
    store.write(path, b"planted")
    assert upload_code(store)[0] == code
    assert store.read(path) == code_archive()


def test_the_archive_has_the_code_of_the_jobs_and_no_other() -> None:
    names = zipfile.ZipFile(io.BytesIO(code_archive())).namelist()
    assert "spark_jobs/extract_features.py" in names and "spark_jobs/store/root.py" in names
    assert all(name.startswith("spark_jobs/") and name.endswith(".py") for name in names)
