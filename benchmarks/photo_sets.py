"""The sets of photos that are measured on, made of given photos or of the samples."""

import os
import shutil
import tarfile
from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path

from fruits_assets.samples import copy_samples
from spark_jobs.store.photos import list_photos

# 5,928 photos of Fruits-360, which stand beside the repository on the developers' machines.
SHARED = Path(__file__).parents[2] / "shared" / "data" / "fruits-360-5928.tar.gz"
CLASS_IMAGES = 98  # of a class there, on average
SAMPLE_CLASSES = 60


def find_photos(given: Path | None, folder: Path) -> tuple[Path, str]:
    """A root of photos and its description: the given photos, else Fruits-360, else the samples."""
    if given is not None:
        return given, f"the photos in {given.name}"
    if SHARED.exists():
        with tarfile.open(SHARED) as archive:
            archive.extractall(folder, filter="data")
        return folder, "photos of Fruits-360"
    samples = folder / "samples"
    copy_samples(samples)
    return small_classes(samples, SAMPLE_CLASSES, CLASS_IMAGES, folder / "copied"), "sample photos, repeated"


def photos_by_class(root: Path) -> dict[str, list[Path]]:
    """The photos of a root as the platform finds them. Raises `FruitsError` where there are none."""
    classes = list_photos(str(root)).classes
    return {label: [root / photo.path for photo in photos] for label, photos in classes.items()}


def photos_in(root: Path) -> list[Path]:
    return list(chain.from_iterable(photos_by_class(root).values()))


def some_classes(root: Path, classes: int | None, folder: Path) -> Path:
    """The first classes of a root, whole; all of them where `classes` is None."""
    chosen = islice(photos_by_class(root).items(), classes)
    # By number: photos of one class may stand in several folders, under one name.
    names = (
        (file, f"{label}/{number:05}{file.suffix}")
        for label, files in chosen
        for number, file in enumerate(files)
    )
    _link(names, folder)
    return folder


def multiplied(root: Path, times: int, folder: Path) -> Path:
    """The same photos `times` times under other names."""
    pairs = ((file, number) for file in photos_in(root) for number in range(times))
    _link(((file, f"{file.parent.name}/{number}-{file.name}") for file, number in pairs), folder)
    return folder


def small_classes(root: Path, classes: int, images: int, folder: Path) -> Path:
    """So many classes of so many images, of the photos in turn."""
    photos = photos_in(root)
    numbers = range(classes * images)
    names = (f"class {number // images:04}/{number % images:04}.jpg" for number in numbers)
    _link(((photos[number % len(photos)], name) for number, name in zip(numbers, names, strict=True)), folder)
    return folder


def _link(files: Iterable[tuple[Path, str]], folder: Path) -> None:
    """Puts files under other names, as hard links or, on another disk, copies.

    Raises `FileExistsError` for a name that is taken: what is there may be a link to somebody's photo.
    """
    for file, name in files:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, target)
        except FileExistsError:
            raise
        except OSError:
            shutil.copyfile(file, target)
