"""The two hold-outs: of an ordered class, and of the films of a class."""

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from fruits_assets.model.holdout import (
    GUARD,
    GUARD_FRAMES,
    HOLDOUT,
    TRAIN,
    frame_of,
    list_photos,
    natural_order,
    split_class,
    split_films,
)

FILMS = [f"{frame}_100.jpg" for frame in range(0, 320, 5)] + [
    f"r_{frame}_100.jpg" for frame in range(9, 219, 6)
]


def lengths(parts: Iterable[str]) -> list[tuple[str, int]]:
    """Returns each run of equal parts with its length."""
    return [(part, len(list(equal))) for part, equal in groupby(parts)]


def test_natural_order_compares_frames_as_numbers() -> None:
    names = ["r_2_100.jpg", "10_100.jpg", "9_100.jpg", "r_10_100.jpg"]
    assert sorted(names, key=natural_order) == ["9_100.jpg", "10_100.jpg", "r_2_100.jpg", "r_10_100.jpg"]


# The figures of `feature_quality` depend on these parts.
@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [(HOLDOUT, 1)]),
        (2, [(TRAIN, 2)]),
        (3, [(TRAIN, 1), (HOLDOUT, 1), (TRAIN, 1)]),
        (4, [(TRAIN, 1), (GUARD, 2), (TRAIN, 1)]),
        (7, [(TRAIN, 2), (GUARD, 1), (HOLDOUT, 1), (GUARD, 1), (TRAIN, 2)]),
        (20, [(TRAIN, 7), (GUARD, 1), (HOLDOUT, 4), (GUARD, 1), (TRAIN, 7)]),
        (98, [(TRAIN, 34), (GUARD, 3), (HOLDOUT, 24), (GUARD, 3), (TRAIN, 34)]),
        (99, [(TRAIN, 34), (GUARD, 3), (HOLDOUT, 25), (GUARD, 3), (TRAIN, 34)]),
        (1000, [(TRAIN, 345), (GUARD, 30), (HOLDOUT, 250), (GUARD, 30), (TRAIN, 345)]),
    ],
)
def test_the_parts_of_an_ordered_class_are_fixed(count: int, expected: list[tuple[str, int]]) -> None:
    assert lengths(split_class(count).tolist()) == expected


@pytest.mark.parametrize("count", [4, 8, 98, 1000])
def test_one_range_of_a_class_is_held_out_between_guards(count: int) -> None:
    parts = split_class(count)
    held_out = np.flatnonzero(parts == HOLDOUT)
    assert len(held_out) == pytest.approx(count / 4, abs=1)
    assert (np.diff(held_out) == 1).all()
    assert (parts == TRAIN).sum() >= count / 2
    if count >= 98:
        assert parts[held_out[0] - 1] == parts[held_out[-1] + 1] == GUARD


# The figures of the model card depend on these parts.
@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([3], [(HOLDOUT, 1)]),
        ([0, 5], [(HOLDOUT, 1), (GUARD, 1)]),
        (range(5), [(GUARD, 2), (HOLDOUT, 1), (GUARD, 2)]),
        (
            range(0, 320, 5),
            [(TRAIN, 24), (GUARD, 1), (HOLDOUT, 14), (GUARD, 1), (TRAIN, 24)],
        ),
        (range(9, 219, 6), [(TRAIN, 13), (GUARD, 1), (HOLDOUT, 8), (GUARD, 1), (TRAIN, 12)]),
        (range(328), [(TRAIN, 125), (GUARD, 6), (HOLDOUT, 72), (GUARD, 6), (TRAIN, 119)]),
    ],
)
def test_the_parts_of_a_film_are_fixed(frames: Iterable[int], expected: list[tuple[str, int]]) -> None:
    assert lengths(split_films([f"{frame}_100.jpg" for frame in frames])) == expected


def frames_by_part(names: list[str], axis: str) -> dict[str, list[int]]:
    frames: dict[str, list[int]] = {TRAIN: [], HOLDOUT: [], GUARD: []}
    for name, part in zip(names, split_films(names), strict=True):
        if frame_of(name)[0] == axis:
            frames[part].append(frame_of(name)[1])
    return {part: sorted(values) for part, values in frames.items()}


@pytest.mark.parametrize("axis", ["", "r_"])
def test_the_held_out_frames_of_each_film_are_one_range(axis: str) -> None:
    frames = frames_by_part(FILMS, axis)
    first, last = frames[HOLDOUT][0], frames[HOLDOUT][-1]
    assert len(frames[HOLDOUT]) >= 0.2 * sum(map(len, frames.values()))
    assert all(frame < first or frame > last for frame in frames[TRAIN] + frames[GUARD])


@pytest.mark.parametrize("axis", ["", "r_"])
def test_guards_separate_training_frames_from_held_out_frames(axis: str) -> None:
    frames = frames_by_part(FILMS, axis)
    gaps = [abs(trained - held) for trained in frames[TRAIN] for held in frames[HOLDOUT]]
    assert min(gaps) > GUARD_FRAMES
    assert frames[GUARD]


def test_the_parts_of_films_do_not_depend_on_the_order_of_names() -> None:
    shuffled = [FILMS[position] for position in np.random.default_rng(0).permutation(len(FILMS))]
    expected = dict(zip(FILMS, split_films(FILMS), strict=True))
    assert dict(zip(shuffled, split_films(shuffled), strict=True)) == expected


def test_a_file_name_without_a_frame_number_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'apple\.jpg' contains no frame number.*Name the photos"):
        split_films(["apple.jpg"])


def test_a_folder_without_photos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"contains no photos\. Give a folder"):
        list_photos(tmp_path)
