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
            *([f"a program's error: {self.sentence}"] if _ERROR.search(self.sentence) else []),
            *([f"a trace: {trace.strip()}"] if trace else []),
        ]


# The names that programs give to their errors, where a sentence should begin.
_ERROR = re.compile(r"^(fruits run|failed +[^:]+): ([\w.]*(Error|Exception)\b|An error occurred while)")
# The first line of a Python trace, and a line of a Java trace.
_TRACE = re.compile(r"Traceback \(most recent call last\)|^\s+at [\w.$]+\(")


class Workplace:
    """The folder of a row. Photos and undisturbed stores are beside it, made once for all rows and calls."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._common = folder, folder.parent / "common"
        folder.mkdir(parents=True, exist_ok=True)
        self._common.mkdir(exist_ok=True)

    @property
    def ir(self) -> Path:
        """The converted extractor."""
        program = [sys.executable, "-m", "fruits_assets.model.convert", "--weights", "embedded"]
        return self._made("ir", lambda new: [run([*program, "--out", str(new)])])

    @property
    def usual_photos(self) -> Path:
        """5 classes of 16 photos each, and a file that is no photo."""

        def make(new: Path) -> None:
            shutil.copytree(self.photos(5, 16), new)
            (new / "class 0000" / "bad.jpg").write_text("no photo")

        return self._made("photos", make)

    def photos(self, classes: int, images: int) -> Path:
        """A root of `classes` classes of `images` photos."""

        def make(new: Path) -> None:
            new.mkdir()
            equal_classes(self._made("samples", copy_samples), classes, images, new)

        return self._made(f"photos-{classes}-{images}", make)

    def changed_photos(self, photos: Path) -> Path:
        """A copy of the photos, in which the first photo of each class is another picture."""

        def make(new: Path) -> None:
            shutil.copytree(photos, new)
            for folder in sorted(path for path in new.iterdir() if path.is_dir()):
                first = sorted(folder.iterdir())[0]
                with Image.open(first) as picture:
                    picture.transpose(Image.Transpose.ROTATE_180).save(first)

        return self._made(f"{photos.name}-changed", make)

    def finished_store(self, photos: Path) -> Path:
        """The store of an undisturbed `fruits run` on photos."""
        return self._made(f"finished-{photos.name}", lambda new: self._undisturbed(photos, new))

    def store_after(self, photos: Path, *arguments: str) -> Path:
        """The finished store of `photos`, after an undisturbed run with arguments on its changed photos."""

        def make(new: Path) -> None:
            shutil.copytree(self.finished_store(photos), new)
            self._undisturbed(self.changed_photos(photos), new, *arguments)

        return self._made("-".join(["after", photos.name, *arguments]).replace(" ", "_"), make)

    def seconds_of_a_run(self, photos: Path) -> float:
        """The seconds that `fruits run` takes on changed photos."""

        def make(new: Path) -> None:
            store = self.copied(self.finished_store(photos), "timed")
            begun = time.monotonic()
            self._undisturbed(self.changed_photos(photos), store)
            new.write_text(str(time.monotonic() - begun))

        return float(self._made(f"seconds-{photos.name}.txt", make).read_text())

    def _made(self, name: str, make: Callable[[Path], object]) -> Path:
        """A file or a folder that all rows share. It has its name only when it is whole."""
        path = self._common / name
        if not path.exists():
            new = path.with_name(f"new {name}")
            shutil.rmtree(new, ignore_errors=True)
            make(new)
            new.rename(path)
        return path

    def _undisturbed(self, photos: Path, store: Path, *arguments: str) -> None:
        end = fruits_run(photos, store, self.home("undisturbed home"), *arguments)
        if end.status:
            raise RuntimeError(f"the undisturbed run failed: {end.output[-2000:]}")

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
