"""Hold-outs that keep neighbouring frames together.

The photos of a class of Fruits-360 are frames of films of one fruit on a turntable. Two neighbouring frames
are almost the same picture. If photos were held out at random, each would have a near copy among the training
photos. Here one contiguous range of frames is held out, and the frames at its borders are used for nothing.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TRAIN, HOLDOUT, GUARD = "train", "holdout", "guard"

# For any photos, whose order alone is known: the middle quarter of a class, as fractions of its photos.
CLASS_RANGE = (0.375, 0.625)
CLASS_GUARD = 0.03

# For Fruits-360, whose file names give the frames: ranks as fractions of a film's photos. The range lies
# inside the film. A film is a full turn, so its first and its last frame are neighbours too.
FILM_START = 0.40
FILM_SHARE = 0.22
# A turn is about 328 frames (the highest frame number of the data is 327), so 6 frames are 6.6 degrees.
GUARD_FRAMES = 6

_NAME = re.compile(r"(?P<axis>.*?)(?P<frame>\d+)_\d+")


class Photos(NamedTuple):
    """The photos of a folder: parallel lists, sorted by class and by file name."""

    paths: list[Path]
    labels: list[int]  # indexes into `classes`
    parts: list[str]  # TRAIN, HOLDOUT or GUARD
    classes: list[str]


def hold_out(positions: NDArray[np.number], start: float, end: float, guard: float) -> NDArray[np.str_]:
    """Returns the part (TRAIN, HOLDOUT or GUARD) of each of the (n,) positions.

    Positions between `start` and `end` are held out. Positions less than `guard` outside this range are
    guards. Both bounds are exclusive.
    """
    parts = np.full(len(positions), TRAIN, f"U{len(HOLDOUT)}")
    parts[(positions > start - guard) & (positions < end + guard)] = GUARD
    parts[(positions > start) & (positions < end)] = HOLDOUT
    return parts


def split_class(count: int) -> NDArray[np.str_]:
    """Returns the (count,) parts of the photos of one class, which are in `natural_order`."""
    start, end = CLASS_RANGE
    return hold_out((np.arange(count) + 0.5) / count, start, end, CLASS_GUARD)


def natural_order(path: str) -> list[tuple[int, int | str]]:
    """Returns a sort key that compares digits as numbers: `9.jpg` comes before `10.jpg`."""
    return [
        (0, int(piece)) if piece.isdecimal() else (1, piece) for piece in re.split(r"(\d+)", path) if piece
    ]


def frame_of(name: str) -> tuple[str, int]:
    """Returns the rotation axis and the frame number of a file name: `r_104_100.jpg` gives `("r_", 104)`.

    Raises ValueError when the name is not `<axis><frame>_<size>.<extension>`.
    """
    match = _NAME.fullmatch(Path(name).stem)
    if match is None:
        raise ValueError(
            f"The file name {name!r} contains no frame number, so its neighbours are unknown. "
            "Name the photos <axis><frame>_<size>.jpg, such as 12_100.jpg or r_12_100.jpg."
        )
    return match["axis"], int(match["frame"])


def split_films(names: Sequence[str]) -> list[str]:
    """Returns the part (TRAIN, HOLDOUT or GUARD) of each photo of one class, in the order of `names`.

    A film is the photos of one rotation axis. In each film, sorted by frame number, the 22 % of the photos
    from rank 40 % on are held out, at least one photo. Photos at most GUARD_FRAMES frames before or after
    them are guards. The order of `names` has no influence. Raises ValueError as `frame_of` does.
    """
    axes = np.array([frame_of(name)[0] for name in names])
    frames = np.array([frame_of(name)[1] for name in names])
    parts = np.full(len(names), TRAIN, f"U{len(HOLDOUT)}")
    for axis in np.unique(axes):
        film = np.sort(frames[axes == axis])
        first = int(FILM_START * len(film))
        last = min(first + max(1, round(FILM_SHARE * len(film))), len(film)) - 1
        # The bounds of `hold_out` are exclusive: half a frame outside the first and the last frame.
        start, end = film[first] - 0.5, film[last] + 0.5
        parts[axes == axis] = hold_out(frames[axes == axis], start, end, GUARD_FRAMES)
    return parts.tolist()


def list_photos(folder: Path) -> Photos:
    """Returns the photos `<folder>/<class>/*.jpg` with their labels and parts.

    Raises ValueError when the folder contains no such photo, and as `frame_of` does.
    """
    paths: list[Path] = []
    labels: list[int] = []
    parts: list[str] = []
    classes: list[str] = []
    for class_folder in sorted(path for path in folder.iterdir() if path.is_dir()):
        names = sorted(path.name for path in class_folder.glob("*.jpg"))
        if not names:
            continue
        paths += [class_folder / name for name in names]
        labels += [len(classes)] * len(names)
        parts += split_films(names)
        classes.append(class_folder.name)
    if not paths:
        raise ValueError(
            f"{folder} contains no photos. Give a folder that contains one folder of .jpg files per class."
        )
    return Photos(paths=paths, labels=labels, parts=parts, classes=classes)
