"""`make rehearse-emr`, as a user runs it on their photos."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rehearsal.processes import marked_processes
from tests.support import REPOSITORY, wait_for
from tests.yarn.emr_runs import MINUTES, copy_photos


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of twelve photos, and a file that is not a photo."""
    copy_photos(tmp_path / "photos", ["Kiwi", "Lemon"], 12)
    (tmp_path / "photos" / "Lemon" / "0_bad.jpg").write_text("no photo")
    return tmp_path / "photos"


def rehearse(home: Path, *arguments: str, **settings: str) -> "subprocess.Popen[str]":
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return subprocess.Popen(
        [sys.executable, "-m", "rehearsal.rehearse", *arguments],
        cwd=home,
        # The package `rehearsal` is not installed.
        env={**environment, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(home), **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_a_rehearsal_with_own_photos_and_settings_compares_the_outputs(photos: Path, tmp_path: Path) -> None:
    settings = {"FRUITS_IMAGES": str(photos), "FRUITS_MAX_BAD_SHARE": "0.5", "FRUITS_WEIGHTS": "random"}
    run = rehearse(tmp_path / "home", "--images", "25", **settings)
    out, _ = run.communicate(timeout=10 * MINUTES)
    assert run.returncode == 0, out
    assert "Rehearsing with 25 photos of 2 classes" in out
    assert out.count("same  quarantined_images  1 photos and reasons") == 2
    assert out.count("photos  1 new in 1 class") == 2  # the second runs, on the cluster and on this machine
    assert "DIFFERENT" not in out
    assert not list((tmp_path / "home").glob("rehearsal-*"))


def test_an_interrupted_rehearsal_removes_its_processes_and_files(tmp_path: Path) -> None:
    run = rehearse(tmp_path / "home")
    try:
        assert run.stdout is not None
        assert any("MobileNetV2" in line for line in run.stdout)  # the first run has begun
        [folder] = (tmp_path / "home").glob("rehearsal-*")
        assert marked_processes(str(folder))
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=2 * MINUTES)
    finally:  # a failed test leaves no process to the next
        run.kill()
        run.communicate()
    assert run.returncode == 130
    assert not folder.exists()
    wait_for(lambda: not marked_processes(str(folder)), 30)


def test_missing_photos_are_named(tmp_path: Path) -> None:
    run = rehearse(tmp_path / "home", "--photos", str(tmp_path / "nowhere.tar.gz"))
    out, _ = run.communicate(timeout=MINUTES)
    assert run.returncode == 1
    assert "make rehearse-emr: " in out and "nowhere.tar.gz" in out
