"""The sets of photos that the benchmark measures: given photos, Fruits-360 or the sample photos."""

import io
import os
import shutil
import tarfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path

import numpy as np
from PIL import Image

from fruits_assets.samples import copy_samples
from resources.photo_folders import list_photos

# 5,928 photos of Fruits-360, in a folder beside the repository on the developers' machines.
SHARED = Path(__file__).parents[2] / "shared" / "data" / "fruits-360-5928.tar.gz"
CLASS_IMAGES = 98  # the average number of photos of a class in that archive
SAMPLE_CLASSES = 60


def find_photos(given: Path | None, folder: Path) -> tuple[Path, str]:
    """A root of photos and its description: the given photos, else Fruits-360, else the samples.

    Writes Fruits-360 or the samples to `folder`.
    """
    if given is not None:
        return given, f"the photos in {given.name}"
    if SHARED.exists():
        with tarfile.open(SHARED) as archive:
            # Python before 3.11.4 has no filters.
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(folder)
        return folder, "photos of Fruits-360"
    samples = folder / "samples"
    copy_samples(samples)
    return equal_classes(samples, SAMPLE_CLASSES, CLASS_IMAGES, folder / "copied"), "sample photos, repeated"


def photos_by_class(root: Path) -> dict[str, list[Path]]:
    """The photos of a root by class, as the platform lists them. Raises `FruitsError` if there are none."""
    classes = list_photos(str(root)).classes
    return {label: [root / photo.path for photo in photos] for label, photos in classes.items()}


def photos_in(root: Path) -> list[Path]:
    """The photos of all classes of a root. Raises `FruitsError` if there are none."""
    return list(chain.from_iterable(photos_by_class(root).values()))


def first_classes(root: Path, classes: int | None, folder: Path) -> Path:
    """Links all photos of the first `classes` classes into `folder`; None takes all classes."""
    chosen = islice(photos_by_class(root).items(), classes)
    # Numbered names: the photos of a class may lie in several folders and have equal names there.
    names = (
        (file, f"{label}/{number:05}{file.suffix}")
        for label, files in chosen
        for number, file in enumerate(files)
    )
    _link(names, folder)
    return folder


def multiplied(root: Path, multiple: int, folder: Path) -> Path:
    """Writes `multiple` variants of each photo to `folder`, under different names in the same class."""
    pairs = ((file, number) for file in photos_in(root) for number in range(multiple))
    _write((file, f"{file.parent.name}/{number}-{file.stem}.jpg", number, folder) for file, number in pairs)
    return folder


def equal_classes(root: Path, classes: int, images: int, folder: Path) -> Path:
    """Writes variants of the photos of `root` to `folder`: `classes` classes of `images` photos each."""
    photos = photos_in(root)
    _write(
        (
            photos[number % len(photos)],
            f"class {number // images:04}/{number % images:04}.jpg",
            number // len(photos),
            folder,
        )
        for number in range(classes * images)
    )
    return folder


def variant(photo: Path, number: int) -> bytes:
    """A photo mirrored, turned and encoded anew, as a JPEG; variant 0 is the photo itself.

    Each number below 625 gives another content: the platform computes equal contents once.
    """
    if not number:
        return photo.read_bytes()
    turns, quality = number % (len(Image.Transpose) + 1), 95 - number // (len(Image.Transpose) + 1)
    image = Image.open(photo).convert("RGB")
    content = io.BytesIO()
    (image.transpose(Image.Transpose(turns - 1)) if turns else image).save(content, "JPEG", quality=quality)
    return content.getvalue()


def phone_photos(root: Path, images: int, folder: Path) -> Path:
    """Writes photos as a phone takes them to `folder`: 4000 x 3000 pixels, 2 MB, with a sensor's noise.

    Each is a photo of `root`, enlarged.
    """
    source = photos_in(root)
    noise = np.random.default_rng(1).normal(0, 5, (3000, 4000, 1)).astype(np.int16)

    def write(number: int) -> None:
        picture = Image.open(source[number % len(source)]).convert("RGB")
        pixels = np.asarray(picture.resize((4000, 3000), Image.Resampling.BICUBIC)).astype(np.int16)
        pixels += np.roll(noise, 997 * number)
        target = folder / f"class {number % 2}" / f"{number:03}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(target, "JPEG", quality=88)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(images)))
    return folder


def _write(variants: Iterable[tuple[Path, str, int, Path]]) -> None:
    """Writes variants of photos, given as (photo, new name, number of the variant, folder)."""
    with ThreadPoolExecutor() as pool:  # Pillow encodes without Python's lock
        for _ in pool.map(_write_one, variants):
            pass


def _write_one(written: tuple[Path, str, int, Path]) -> None:
    photo, name, number, folder = written
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(variant(photo, number))


def _link(files: Iterable[tuple[Path, str]], folder: Path) -> None:
    """Puts each file under its new name into `folder`, as a hard link or, on another disk, as a copy.

    Raises `FileExistsError` for an existing name: writing there could overwrite a linked photo of the user.
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
