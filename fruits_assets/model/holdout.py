"""A hold-out of Fruits-360 that keeps neighbouring frames of a turning fruit together.

The photos of a class are frames of films of one fruit on a turntable, so two neighbouring frames are almost
the same picture. A photo drawn at random would have its near copy among the training photos. Here a whole
stretch of consecutive frames is held out of every film, and the frames that border it are used for nothing.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

TRAIN, HOLDOUT, GUARD = "train", "holdout", "guard"

# Ranks in a film, as fractions of its photos. The stretch lies inside the film, never at its ends: a film
# is a full turn, so that its last frame is a neighbour of its first.
HOLDOUT_START = 0.40
HOLDOUT_SHARE = 0.22
# A turn is about 328 frames (the highest frame number of the data is 327), so 6 frames are 6.6 degrees.
GUARD_FRAMES = 6

_NAME = re.compile(r"(?P<axis>.*?)(?P<frame>\d+)_\d+")


class Photos(NamedTuple):
    """The photos of a folder: parallel lists, sorted by class and by file name."""

    paths: list[Path]
    labels: list[int]  # positions in `classes`
    parts: list[str]  # TRAIN, HOLDOUT or GUARD
    classes: list[str]


def frame_of(name: str) -> tuple[str, int]:
    """Return the rotation axis and the frame number of a file name: `r_104_100.jpg` gives `("r_", 104)`.

    Raises ValueError when the name is not `<axis><frame>_<size>.<extension>`.
    """
    match = _NAME.fullmatch(Path(name).stem)
    if match is None:
        raise ValueError(
            f"{name!r} does not tell its frame, so its neighbours are unknown: "
            "name photos <axis><frame>_<size>.jpg, such as 12_100.jpg or r_12_100.jpg"
        )
    return match["axis"], int(match["frame"])


def split_class(names: Sequence[str]) -> list[str]:
    """Return the part (TRAIN, HOLDOUT or GUARD) of each photo of one class, in the order of `names`.

    In each film (the photos of one rotation axis, by frame number) the 22 % of photos from rank 40 % on are
    held out, at least one; photos at most GUARD_FRAMES frames away from the held-out stretch are guards.
    The result depends on the set of names only. Raises ValueError as `frame_of` does.
    """
    films: dict[str, list[int]] = defaultdict(list)
    for name in names:
        axis, frame = frame_of(name)
        films[axis].append(frame)

    held: dict[str, tuple[int, int]] = {}
    for axis, frames in films.items():
        frames.sort()
        start = int(HOLDOUT_START * len(frames))
        end = start + max(1, round(HOLDOUT_SHARE * len(frames)))
        held[axis] = frames[start], frames[min(end, len(frames)) - 1]

    parts = []
    for name in names:
        axis, frame = frame_of(name)
        first, last = held[axis]
        if first <= frame <= last:
            parts.append(HOLDOUT)
        elif first - GUARD_FRAMES <= frame <= last + GUARD_FRAMES:
            parts.append(GUARD)
        else:
            parts.append(TRAIN)
    return parts


def list_photos(folder: Path) -> Photos:
    """Return the photos `<folder>/<class>/*.jpg` with their label and part.

    Raises ValueError when the folder has no such photo, and as `frame_of` does.
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
        parts += split_class(names)
        classes.append(class_folder.name)
    if not paths:
        raise ValueError(
            f"{folder} has no photo: give a folder that holds one folder of .jpg files per class"
        )
    return Photos(paths=paths, labels=labels, parts=parts, classes=classes)
