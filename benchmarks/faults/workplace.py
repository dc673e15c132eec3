"""Photos, stores and processes for the rows of the table of faults."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from benchmarks.bench import DAGSTER_YAML
from benchmarks.photo_sets import equal_classes
from benchmarks.processes import environment, run
from fruits_assets.samples import copy_samples

FRUITS = Path(sys.executable).with_name("fruits")


class Workplace:
    """The folder of a row, whose content is prepared once and kept for the next call."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def ir(self) -> Path:
        """The converted extractor."""
        ir = self.folder / "ir"
        if not ir.exists():
            program = [sys.executable, "-m", "fruits_assets.model.convert", "--weights", "embedded"]
            run([*program, "--out", f"{ir}.new"])
            Path(f"{ir}.new").rename(ir)
        return ir

    def photos(self, classes: int, images: int) -> Path:
        """A root of `classes` classes of `images` photos."""
        root = self.folder / f"photos-{classes}-{images}"
        if not root.exists():
            copy_samples(self.folder / "samples")
            shutil.rmtree(f"{root}.new", ignore_errors=True)
            Path(f"{root}.new").mkdir()
            equal_classes(self.folder / "samples", classes, images, Path(f"{root}.new"))
            Path(f"{root}.new").rename(root)
        return root

    def finished_store(self, photos: Path, name: str = "finished") -> Path:
        """The store of an undisturbed `fruits run` on photos."""
        store = self.folder / name
        if not store.exists():
            new = self.folder / f"{name}.new"
            shutil.rmtree(new, ignore_errors=True)
            fruits_run(photos, new, self.home(f"{name}-home")).check_returncode()
            new.rename(store)
        return store

    def seconds_of_a_run(self, photos: Path) -> float:
        """The seconds that `fruits run` takes on photos in a store that has all outputs."""
        file = self.folder / "seconds.txt"
        if not file.exists():
            store = self.copied(self.finished_store(photos), "timed")
            begun = time.monotonic()
            fruits_run(photos, store, self.home("timed-home")).check_returncode()
            file.write_text(str(time.monotonic() - begun))
        return float(file.read_text())

    def copied(self, store: Path, name: str) -> Path:
        """A new copy of a store."""
        copy = self.folder / name
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(store, copy)
        return copy

    def home(self, name: str) -> Path:
        """A Dagster home."""
        home = self.folder / name
        home.mkdir(exist_ok=True)
        shutil.copy(DAGSTER_YAML, home)
        return home


def start(command: list[str], **variables: str | Path) -> "subprocess.Popen[str]":
    """Starts a command of the platform in a session of its own, with these variables alone."""
    given = {name: str(value) for name, value in variables.items()}
    return subprocess.Popen(
        command,
        env=environment({"FRUITS_WEIGHTS": "embedded", **given}),
        cwd=variables.get("DAGSTER_HOME"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def start_fruits_run(photos: Path, store: Path, home: Path, *arguments: str) -> "subprocess.Popen[str]":
    variables = {"FRUITS_IMAGES": photos, "FRUITS_STORE": store, "DAGSTER_HOME": home}
    return start([str(FRUITS), "run", *arguments], **variables)


def fruits_run(photos: Path, store: Path, home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Runs `fruits run` to its end."""
    process = start_fruits_run(photos, store, home, *arguments)
    out, _ = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out)


def kill_all(process: "subprocess.Popen[Any]") -> None:
    """Kills a process, its group and all its descendants, which may have groups of their own, at once."""
    descendants: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        descendants = psutil.Process(process.pid).children(recursive=True)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for descendant in descendants:
        with suppress(psutil.NoSuchProcess):
            descendant.kill()
    process.wait()
