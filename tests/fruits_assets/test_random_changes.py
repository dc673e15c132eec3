"""After many random changes of the photos, and killed runs, the store equals that of a fresh run.

`pytest --random-changes 200` makes more changes, and `--random-seed` others.
"""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance

from fruits_assets.readers import read_pandas
from tests.shell import PATIENCE, Shell

CLASSES, IMAGES = 4, 6
CHANGES_OF_A_RUN = 8
RUN = ("fruits", "run", "--accept-removals")


class Photos:
    """Folders of photos that change at random. Each class always has a good photo, or none at all."""

    def __init__(self, root: Path, chance: random.Random) -> None:
        self.root, self.chance = root, chance
        self.sources = sorted(root.glob("*/*.jpg"))
        self.bytes = {path: path.read_bytes() for path in self.sources}
        self.broken: dict[Path, bytes] = {}
        self.made = 0

    def change(self) -> str:
        """Makes one change, and returns its name."""
        kinds: list[Callable[[], None]] = [
            *[self.add] * 4,
            *[self.remove] * 3,
            *[self.rename] * 2,
            *[self.rewrite] * 2,
            *[self.copy] * 2,
            *[self.shatter] * 2,
            *[self.mend] * 2,
            self.rename_class,
            self.empty_class,
        ]
        kind = self.chance.choice(kinds)
        kind()
        return kind.__name__

    def classes(self) -> list[Path]:
        return sorted(folder for folder in self.root.iterdir() if any(folder.iterdir()))

    def photo(self, *, spare: bool = False) -> Path | None:
        """A good photo; with `spare`, of a class that has another good photo."""
        good = {
            folder: [path for path in sorted(folder.iterdir()) if path not in self.broken]
            for folder in self.classes()
        }
        photos = [path for paths in good.values() if len(paths) > spare for path in paths]
        return self.chance.choice(photos) if photos else None

    def new_path(self) -> Path:
        self.made += 1
        return self.chance.choice(self.classes()) / f"new-{self.made}.jpg"

    def write_new(self, path: Path) -> None:
        """Writes a photo with a content of its own."""
        source = self.root / ".." / f"source-{self.made}.jpg"
        source.write_bytes(self.bytes[self.chance.choice(self.sources)])
        angle, light = self.chance.choice([90, 180, 270]), self.chance.uniform(0.6, 1.4)
        ImageEnhance.Brightness(Image.open(source).rotate(angle)).enhance(light).save(path)

    def add(self) -> None:
        self.write_new(self.new_path())

    def remove(self) -> None:
        if photo := self.photo(spare=True):
            photo.unlink()

    def rename(self) -> None:
        if photo := self.photo(spare=True):
            photo.rename(self.new_path())

    def rewrite(self) -> None:
        if photo := self.photo():
            self.write_new(photo)

    def copy(self) -> None:
        if photo := self.photo():
            self.chance.choice([shutil.copy, shutil.copy2])(photo, self.new_path())

    def shatter(self) -> None:
        if photo := self.photo(spare=True):
            content = photo.read_bytes()
            self.broken[photo] = content
            photo.write_bytes(self.chance.choice([b"", b"no image", content[: len(content) // 2]]))

    def mend(self) -> None:
        if self.broken:
            photo = self.chance.choice(sorted(self.broken))
            photo.write_bytes(self.broken.pop(photo))

    def rename_class(self) -> None:
        folder = self.chance.choice(self.classes())
        self.made += 1
        renamed = folder.rename(self.root / f"{self.chance.choice(['Class', 'été #', '=1'])} {self.made}")
        for photo in [photo for photo in self.broken if photo.parent == folder]:
            self.broken[renamed / photo.name] = self.broken.pop(photo)

    def empty_class(self) -> None:
        if len(self.classes()) > 2:
            folder = self.chance.choice(self.classes())
            shutil.rmtree(folder)
            self.broken = {photo: content for photo, content in self.broken.items() if photo.parent != folder}


def with_bad_photos(folder: Path) -> Shell:
    """A shell in whose runs a class has a version, as long as one of its photos is good."""
    shell = Shell(folder)
    shell.environment["FRUITS_MAX_BAD_SHARE"] = "1"
    return shell


def kill_at_random(shell: Shell, chance: random.Random) -> None:
    """Starts a run, and kills it and all its processes at a random moment."""
    process = shell.start(*RUN)
    time.sleep(chance.uniform(1, 8))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=PATIENCE)


def run(shell: Shell) -> dict[str, Any]:
    """The summary of a run that ends without a failed class."""
    process = shell.start(*RUN, "--json")
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    summary: dict[str, Any] = json.loads(output.splitlines()[-1])
    return summary


def rows(store: Path, output: str) -> pd.DataFrame:
    found = read_pandas(str(store), output)
    return found.sort_values("path").reset_index(drop=True) if len(found) else found


def test_the_store_equals_that_of_a_fresh_run(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    changes, seed = (int(request.config.getoption(f"--random-{name}")) for name in ("changes", "seed"))
    chance = random.Random(seed)
    shell = with_bad_photos(tmp_path)
    shell.run("fruits", "samples", str(shell.photos), "--images", str(IMAGES))
    for folder in sorted(shell.photos.iterdir())[CLASSES:]:
        shutil.rmtree(folder)
    run(shell)
    photos = Photos(shell.photos, chance)
    made: list[str] = []
    while len(made) < changes:
        made += [photos.change() for _ in range(chance.randint(1, CHANGES_OF_A_RUN))]
        if chance.random() < 0.3:
            kill_at_random(shell, chance)
        else:
            run(shell)
    if gone := run(shell)["classes_without_photos"]:
        shell.run("fruits", "forget", *gone, "--yes")
    assert run(shell)["changes"] == [["photos", "nothing has changed"]]

    (tmp_path / "fresh").mkdir()
    fresh = with_bad_photos(tmp_path / "fresh")
    fresh.environment["FRUITS_IMAGES"] = str(shell.photos)
    for output in ("pca_model", "feature_extractor"):  # the same model projects both
        shutil.copytree(shell.store / output, fresh.store / output)
    run(fresh)
    for table, exact in (
        ("raw_images", ["path", "label", "sha256", "content", "modified"]),
        ("quarantined_images", ["path", "label", "sha256", "bytes", "reason"]),
        ("mobilenet_features", ["path", "label", "sha256"]),
        ("pca_features_csv", ["path", "label"]),
    ):
        ours, theirs = (rows(store, table) for store in (shell.store, fresh.store))
        assert list(ours) == list(theirs), table
        pd.testing.assert_frame_equal(ours[exact], theirs[exact])
        numbers = [name for name in ours if name not in exact and name.startswith(("features", "pc"))]
        for name in numbers:
            found, wanted = (np.array(list(frame[name]), float) for frame in (ours, theirs))
            np.testing.assert_allclose(found, wanted, atol=1e-6 if name == "features" else 1e-4)
