"""Photos, stores and processes for the rows of the table of faults."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from PIL import Image

from benchmarks.bench import DAGSTER_YAML
from benchmarks.faults.check import behind, differences, torn
from benchmarks.photo_sets import equal_classes
from benchmarks.processes import environment, run
from fruits_assets.samples import copy_samples

FRUITS = Path(sys.executable).with_name("fruits")

# Longer than any run of a round. A run that takes longer hangs.
PATIENCE_SECONDS = 900


class Ended(NamedTuple):
    """How a command ended: its exit status, and its output on the terminal."""

    status: int
    output: str

    @property
    def sentence(self) -> str:
        """The last message of `fruits`, or of each class that failed; empty after a good end or a kill."""
        lines = self.output.splitlines()
        begin = next((n for n in reversed(range(len(lines))) if lines[n].startswith("fruits run: ")), None)
        if begin is not None:
            return "\n".join(lines[begin:])
        return "\n".join(line.strip() for line in lines if line.strip().startswith("failed "))

    @property
    def unreadable(self) -> list[str]:
        """Where a command that failed gave no sentence, or a trace of a program beside it."""
        if self.status == 0 or self.status == -signal.SIGKILL:
            return []
        trace = next((line for line in self.output.splitlines() if _TRACE.search(line)), None)
        return [
            *([] if self.sentence else [f"no sentence: {self.output[-500:]}"]),
            *([f"a trace: {trace.strip()}"] if trace else []),
        ]


# The first line of a Python trace, and a line of a Java trace.
_TRACE = re.compile(r"Traceback \(most recent call last\)|^\s+at [\w.$]+\(")


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

    def changed_photos(self, photos: Path) -> Path:
        """A copy of the photos, in which the first photo of each class is another picture."""
        root = photos.with_name(f"{photos.name}-changed")
        if not root.exists():
            new = Path(f"{root}.new")
            shutil.rmtree(new, ignore_errors=True)
            shutil.copytree(photos, new)
            for folder in sorted(path for path in new.iterdir() if path.is_dir()):
                first = sorted(folder.iterdir())[0]
                with Image.open(first) as picture:
                    picture.transpose(Image.Transpose.ROTATE_180).save(first)
            new.rename(root)
        return root

    def finished_store(self, photos: Path, name: str = "finished") -> Path:
        """The store of an undisturbed `fruits run` on photos."""
        return self._made(name, lambda new: self._undisturbed(photos, new, f"{name}-home"))

    def store_after(self, photos: Path, *arguments: str) -> Path:
        """The finished store of `photos`, after an undisturbed run with arguments on its changed photos."""

        def make(new: Path) -> None:
            shutil.copytree(self.finished_store(photos), new)
            self._undisturbed(self.changed_photos(photos), new, "after-home", *arguments)

        return self._made("-".join(["after", photos.name, *arguments]).replace(" ", "_"), make)

    def _made(self, name: str, make: Callable[[Path], None]) -> Path:
        """A folder that appears only when it is whole."""
        folder = self.folder / name
        if not folder.exists():
            new = self.folder / f"{name}.new"
            shutil.rmtree(new, ignore_errors=True)
            make(new)
            new.rename(folder)
        return folder

    def _undisturbed(self, photos: Path, store: Path, home: str, *arguments: str) -> None:
        ended = fruits_run(photos, store, self.home(home), *arguments)
        if ended.status:
            raise RuntimeError(f"the undisturbed run failed: {ended.output[-2000:]}")

    def seconds_of_a_run(self, photos: Path) -> float:
        """The seconds that `fruits run` takes on changed photos."""
        file = self.folder / "seconds.txt"
        if not file.exists():
            store = self.copied(self.finished_store(photos), "timed")
            begun = time.monotonic()
            self._undisturbed(self.changed_photos(photos), store, "timed-home")
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


def start_fruits_run(
    photos: Path | str, store: Path | str, home: Path, *arguments: str, **variables: str
) -> "subprocess.Popen[str]":
    given = {"FRUITS_IMAGES": photos, "FRUITS_STORE": store, "DAGSTER_HOME": home}
    return start([str(FRUITS), "run", *arguments], **given, **variables)


def ended(process: "subprocess.Popen[str]") -> Ended:
    """Waits for the end of a process. Kills a process that hangs."""
    try:
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        kill_all(process)
        output, _ = process.communicate()
        return Ended(process.returncode, f"{output}\nfruits run: hung for {PATIENCE_SECONDS} s")
    return Ended(process.returncode, output)


def fruits_run(photos: Path | str, store: Path | str, home: Path, *arguments: str, **variables: str) -> Ended:
    """Runs `fruits run` to its end."""
    return ended(start_fruits_run(photos, store, home, *arguments, **variables))


def rerun(
    photos: Path, store: Path, home: Path, expected: Path, *arguments: str, **variables: str
) -> list[str]:
    """Runs `fruits run` again; returns all that then differs from the store of an undisturbed run."""
    again = fruits_run(photos, store, home, *arguments, **variables)
    failed = [f"the rerun ended with status {again.status}: {again.sentence}"] if again.status else []
    return [*failed, *torn(str(store)), *behind(str(store)), *differences(str(store), str(expected))]


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
