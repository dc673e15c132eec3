"""Photos that look alike: copies in other classes, which often are labelling mistakes, and confused classes.

Two photos count as near-duplicates above a cosine of their 1280 features. The cosines are chosen on the 5,928
photos of Fruits-360 of tests/test_real_photos.py, 60 classes of 1 or 2 films, and on copies of every 20th
photo. No photo of these is in two classes. With the ImageNet weights:

| copy                          | lowest cosine | found at 0.95 | at 0.98 |
|-------------------------------|--------------:|--------------:|--------:|
| 10 % brighter                 |         0.942 |         100 % |    94 % |
| enlarged to 200 %, saved      |         0.963 |         100 % |    81 % |
| cut by 2 % at each side       |         0.951 |         100 % |    48 % |
| mirrored                      |         0.918 |          88 % |     4 % |
| saved again as JPEG of 90     |         0.888 |          80 % |     9 % |
| saved again as JPEG of 75     |         0.809 |          29 % |     1 % |

- Across classes, the greatest cosine of 17 million pairs is 0.946 (Apple Braeburn and Nectarine), and 4 pairs
  reach 0.94. So 0.95 shows no wrong pair there, and most copies.
- Within a class, photos of other films of the same fruit reach 0.969. At 0.985, 242 pairs of frames of one
  film are left, of which 5 are more than 10 frames apart: turns of more than 360 degrees, which show a view
  twice.

The embedded weights were trained to see each of these classes as one: 0.972 is reached across classes, so it
takes 0.98, where copies that are brighter, enlarged or cut are still found by 97 to 100 %. Within a class,
18,000 pairs that are no neighbours reach 0.99, so they tell nothing about copies there.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fruits_assets.model.holdout import natural_order
from fruits_assets.model.weights import EMBEDDED
from spark_jobs.dimensions import FEATURES
from spark_jobs.errors import FruitsError
from spark_jobs.store.parquet import read_row_groups, vectors_in
from spark_jobs.store.root import Root
from spark_jobs.store.versions import Version

# Photos whose features are compared: all pairs of 20,000 take half a minute on two cores, and 100 MB.
SAMPLE = 20_000
# Photos of a block: its cosines with another block take 4 MB.
_BLOCK = 1024
# Frames of a film that are at most this far apart are neighbours.
NEIGHBOURS = 10
# Pairs of each kind that a report shows, and that are kept to choose them from.
MOST_PAIRS, _KEPT = 60, 3000


class Thresholds(NamedTuple):
    """The least cosine of near-duplicates of two classes, and of one class. None: they cannot be told."""

    across: float
    within: float | None


def thresholds(weights: str) -> Thresholds:
    """The thresholds for the features of some weights, by the name of the weights."""
    return Thresholds(0.98, None) if weights == EMBEDDED else Thresholds(0.95, 0.985)


@dataclass(frozen=True)
class Vectors:
    """Some photos of `mobilenet_features`: their classes, paths and SHA-256.

    The features are `values`, unit vectors (n, 1280), times their `lengths` (n,).
    """

    labels: NDArray[np.str_]
    paths: Sequence[str]
    hashes: NDArray[np.str_]
    values: NDArray[np.float32]
    lengths: NDArray[np.float64]


class Pair(NamedTuple):
    """Two photos by their numbers, and the cosine of their features."""

    cosine: float
    one: int
    other: int


class Pairs(NamedTuple):
    """The closest pairs, each photo in one at most, and the number of all pairs above the threshold."""

    closest: list[Pair]
    found: int


def read_vectors(
    store: Root, features: Mapping[str, Version], problems: list[str], most: int = SAMPLE
) -> Vectors:
    """The features of at most `most` photos: of each class as many, from its first row groups.

    Vectors without a direction (zero, NaN, infinity) are left out. What is damaged is added to `problems`.
    """
    labels, paths, hashes = list[str](), list[str](), list[str]()
    values = [np.empty((0, FEATURES), np.float32)]
    chosen = list(features)[:: -(-len(features) // most) or 1]
    total = sum(version.rows for version in features.values())
    share = total if total <= most else max(1, most // max(1, len(chosen)))
    for label in chosen:
        left = share
        try:
            for rows in _batches(store, features[label]):
                if left <= 0:
                    break
                rows = rows.slice(0, left)
                values.append(vectors_in(rows).copy())  # else the whole row group stays in memory
                paths += rows.column("path").to_pylist()
                hashes += rows.column("sha256").to_pylist()
                labels += [label] * rows.num_rows
                left -= rows.num_rows
        except (FruitsError, ValueError) as error:
            problems.append(f"{label}: {error}")
    vectors = np.concatenate(values)
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    good = np.isfinite(lengths) & (lengths > 0)
    if not good.all():
        problems.append(f"The features of {np.count_nonzero(~good):,} photos are no numbers, or all zero.")
    number = np.flatnonzero(good)
    return Vectors(
        np.array(labels, str)[number],
        [paths[index] for index in number],
        np.array(hashes, str)[number],
        (vectors[number] / lengths[number, None]).astype(np.float32),
        lengths[number],
    )


def _batches(store: Root, version: Version) -> Iterator[pa.RecordBatch]:
    for part in version.parts:
        groups = range(len(part.row_groups))
        yield from read_row_groups(store, part.path, groups, ["path", "sha256", "features"])


def near_pairs(vectors: Vectors, limits: Thresholds) -> tuple[Pairs, Pairs]:
    """The near-duplicates of two classes, and of one class.

    Left out are photos of the same content, and within a class neighbouring frames of one film: photos whose
    names differ in numbers alone, and that are at most `NEIGHBOURS` apart in natural order. A film is a full
    turn, so its first and last frames are neighbours too.
    """
    film, place, length = _films(vectors)
    _, content = np.unique(vectors.hashes, return_inverse=True)
    _, label = np.unique(vectors.labels, return_inverse=True)
    least_within = np.inf if limits.within is None else limits.within
    lowest = min(limits.across, least_within)
    across, within = _Closest(), _Closest()
    for rows, columns in _blocks(len(vectors.values)):
        cosines = vectors.values[rows] @ vectors.values[columns].T
        one, other = np.nonzero(cosines >= lowest)
        cosine = cosines[one, other]
        one, other = one + rows.start, other + columns.start
        apart = (one < other) & (content[one] != content[other])
        same = label[one] == label[other]
        across.add(cosine, one, other, apart & ~same & (cosine >= limits.across))
        gap = np.abs(place[one] - place[other])
        gap = np.minimum(gap, length[one] - gap)
        neighbours = (film[one] == film[other]) & (gap <= NEIGHBOURS)
        within.add(cosine, one, other, apart & same & ~neighbours & (cosine >= least_within))
    return across.pairs(), within.pairs()


def _blocks(number: int) -> Iterator[tuple[slice, slice]]:
    """The blocks of the upper triangle of a square matrix."""
    starts = range(0, number, _BLOCK)
    for row in starts:
        for column in starts[row // _BLOCK :]:
            yield slice(row, min(row + _BLOCK, number)), slice(column, min(column + _BLOCK, number))


def _films(vectors: Vectors) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """For each photo (n,) the number of its film, its place in the film, and the photos of the film."""
    names: dict[tuple[str, str], list[int]] = {}
    for index, (label, path) in enumerate(zip(vectors.labels, vectors.paths, strict=True)):
        names.setdefault((str(label), re.sub(r"\d+", "0", path)), []).append(index)
    film, place, length = (np.zeros(len(vectors.paths), np.intp) for _ in range(3))
    for number, members in enumerate(names.values()):
        members.sort(key=lambda index: natural_order(vectors.paths[index]))
        film[members], place[members], length[members] = number, np.arange(len(members)), len(members)
    return film, place, length


class _Closest:
    """The closest pairs of all blocks, in bounded memory."""

    def __init__(self) -> None:
        self._found = 0
        self._pairs: list[Pair] = []

    def add(
        self,
        cosine: NDArray[np.float32],
        one: NDArray[np.intp],
        other: NDArray[np.intp],
        wanted: NDArray[np.bool_],
    ) -> None:
        chosen = np.flatnonzero(wanted)
        self._found += len(chosen)
        chosen = chosen[np.argsort(-cosine[chosen], kind="stable")][:_KEPT]
        new = zip(cosine[chosen].tolist(), one[chosen].tolist(), other[chosen].tolist(), strict=True)
        self._pairs = sorted([*self._pairs, *(Pair(*pair) for pair in new)], reverse=True)[:_KEPT]

    def pairs(self) -> Pairs:
        """The closest pairs; each photo is in one pair at most, or a few photos would fill the list."""
        used: set[int] = set()
        closest: list[Pair] = []
        for pair in self._pairs:
            if len(closest) < MOST_PAIRS and used.isdisjoint(pair[1:]):
                closest.append(pair)
                used |= {pair.one, pair.other}
        return Pairs(closest, self._found)


def closest_photos(vectors: Vectors, one: str, other: str, most: int) -> tuple[list[int], list[int]]:
    """The photos of each of two classes that look most like a photo of the other, by their numbers."""
    rows, columns = (np.flatnonzero(vectors.labels == label)[:_BLOCK] for label in (one, other))
    if not len(rows) or not len(columns):
        return [], []
    cosines = vectors.values[rows] @ vectors.values[columns].T
    return (
        rows[np.argsort(-cosines.max(axis=1), kind="stable")[:most]].tolist(),
        columns[np.argsort(-cosines.max(axis=0), kind="stable")[:most]].tolist(),
    )
