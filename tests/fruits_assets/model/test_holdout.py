"""The two hold-outs: of an ordered class, and of the films of a class."""

from collections.abc import Iterable
from itertools import groupby

import pytest

from fruits_assets.model.holdout import split_class
from fruits_assets.model.quality import split


def lengths(parts: Iterable[object]) -> list[tuple[object, int]]:
    """Each run of equal parts, with its length."""
    return [(part, len(list(equal))) for part, equal in groupby(parts)]


def pattern(count: int) -> list[tuple[object, int]]:
    names = ("train", "holdout", "guard")
    return lengths(names[part] for part in split(count))


# The figures of `feature_quality` depend on these parts.
@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [("holdout", 1)]),
        (2, [("train", 2)]),
        (3, [("train", 1), ("holdout", 1), ("train", 1)]),
        (4, [("train", 1), ("guard", 2), ("train", 1)]),
        (7, [("train", 2), ("guard", 1), ("holdout", 1), ("guard", 1), ("train", 2)]),
        (20, [("train", 7), ("guard", 1), ("holdout", 4), ("guard", 1), ("train", 7)]),
        (98, [("train", 34), ("guard", 3), ("holdout", 24), ("guard", 3), ("train", 34)]),
        (99, [("train", 34), ("guard", 3), ("holdout", 25), ("guard", 3), ("train", 34)]),
        (1000, [("train", 345), ("guard", 30), ("holdout", 250), ("guard", 30), ("train", 345)]),
    ],
)
def test_the_parts_of_an_ordered_class_are_fixed(count: int, expected: list[tuple[str, int]]) -> None:
    assert pattern(count) == expected


# The figures of the model card depend on these parts.
@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([3], [("holdout", 1)]),
        ([0, 5], [("holdout", 1), ("guard", 1)]),
        (range(5), [("guard", 2), ("holdout", 1), ("guard", 2)]),
        (
            range(0, 320, 5),
            [("train", 24), ("guard", 1), ("holdout", 14), ("guard", 1), ("train", 24)],
        ),
        (range(9, 219, 6), [("train", 13), ("guard", 1), ("holdout", 8), ("guard", 1), ("train", 12)]),
        (range(328), [("train", 125), ("guard", 6), ("holdout", 72), ("guard", 6), ("train", 119)]),
    ],
)
def test_the_parts_of_a_film_are_fixed(frames: Iterable[int], expected: list[tuple[str, int]]) -> None:
    assert lengths(split_class([f"{frame}_100.jpg" for frame in frames])) == expected
