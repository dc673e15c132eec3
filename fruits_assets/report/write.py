"""Writes the report of a store into it: `report/report.html`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np

from fruits_assets.costs.run_records import STAGES
from fruits_assets.report import charts
from fruits_assets.report.alike import (
    MOST_PAIRS,
    Pairs,
    Vectors,
    closest_photos,
    near_pairs,
    read_vectors,
    thresholds,
)
from fruits_assets.report.contents import MOST_CLASSES, MOST_PROBLEMS, ClassCount, Contents, read_contents
from fruits_assets.report.page import plain, render
from fruits_assets.report.pictures import Pictures, first_photos
from resources.s3_versions import remove_objects
from spark_jobs.errors import FruitsError
from spark_jobs.spark_model import read_components
from spark_jobs.store.classes import refuse_old_store
from spark_jobs.store.erasures import check_erasures, erasures_version
from spark_jobs.store.photos import Double
from spark_jobs.store.pointers import current_one
from spark_jobs.store.root import Root
from spark_jobs.store.schemas import PCA_MODEL, REPORT_FILE

# The photos of the contact sheets, which are the dots of the scatter too.
MOST_PHOTOS = 2400
MOST_OF_A_CLASS = 120
# Photos of each class beside a confusion, and of a group of copies.
_OF_A_PAIR, _OF_A_GROUP = 4, 6


@dataclass(frozen=True, kw_only=True)
class Written:
    """A report: its place in the store, its size, its photos, and what in the store could not be read."""

    path: str
    bytes: int
    photos: int
    problems: list[str]


class _Shown(NamedTuple):
    """A photo on the page."""

    number: int
    path: str


class _ShownPair(NamedTuple):
    one: _Shown
    other: _Shown
    cosine: float


class _ShownPairs(NamedTuple):
    closest: list[_ShownPair]
    found: int


class _Confusion(NamedTuple):
    true: str
    predicted: str
    photos: int
    of_true: list[_Shown]
    of_predicted: list[_Shown]


class _Copies(NamedTuple):
    """Groups of photos of the same content, and the number of all groups."""

    shown: list[list[_Shown]]
    found: int


class _Row(NamedTuple):
    """A class in the table. `position` is its place in it, from 1."""

    position: int
    label: str
    images: int
    quarantined: int
    damage: str


def write_report(store: Root) -> Written:
    """Writes the report of a store, and returns what it holds. A report of before is replaced.

    It reads a bounded number of photos and features, however many the store has. Damaged files and classes
    are named in the report. Raises `FruitsError` where the store has no photos, or where photos were erased
    meanwhile, and `OSError` where the store fails.
    """
    refuse_old_store(store)
    erasures = erasures_version(store)
    content, photos, problems = _report(store)
    check_erasures(store, erasures)
    store.write(REPORT_FILE, content)
    try:
        check_erasures(store, erasures)
    except FruitsError:
        _remove(store)
        raise
    return Written(path=store.uri_of(REPORT_FILE), bytes=len(content), photos=photos, problems=problems)


def _remove(store: Root) -> None:
    """Removes the report for good."""
    if store.is_local:
        store.remove_file(REPORT_FILE)
    else:
        remove_objects(store.uri, [REPORT_FILE])


def _report(store: Root) -> tuple[bytes, int, list[str]]:
    """The HTML, the number of photos in it, and the problems."""
    contents = read_contents(store)
    if not contents.classes and not contents.problems:
        raise FruitsError(f"{store.uri} has no photos yet. Run the pipeline first: fruits run")
    problems = contents.problems
    rows = _rows(contents.classes)
    pictures = Pictures(store, contents.whole_images)

    def shown(label: str, path: str) -> _Shown:
        return _Shown(pictures.number_of(label, path), path)

    share = max(1, min(MOST_OF_A_CLASS, MOST_PHOTOS // max(1, len(rows))))
    sheets = _sheets(store, contents, rows, share, pictures, problems)
    vectors = read_vectors(store, contents.whole_features, problems)
    limits = thresholds(contents.weights)
    across, within = near_pairs(vectors, limits)

    def shown_pairs(pairs: Pairs) -> _ShownPairs:
        def of(index: int) -> _Shown:
            return shown(str(vectors.labels[index]), vectors.paths[index])

        closest = [_ShownPair(of(pair.one), of(pair.other), pair.cosine) for pair in pairs.closest]
        return _ShownPairs(closest, pairs.found)

    def shown_copies(groups: Sequence[Double]) -> _Copies:
        chosen = [
            [shown(label, path) for label, path in zip(group.labels, group.paths, strict=True)][:_OF_A_GROUP]
            for group in groups[:MOST_PAIRS]
        ]
        return _Copies(chosen, len(groups))

    found = contents.copies
    values = {
        "across": shown_pairs(across),
        "within": shown_pairs(within),
        "across_copies": shown_copies([double for double in found if double.across_classes]),
        "within_copies": shown_copies([double for double in found if not double.across_classes]),
        "confusions": [
            _Confusion(true, predicted, photos, *_of_both(vectors, true, predicted, pictures))
            for true, predicted, photos in (contents.quality.confusions if contents.quality else ())
        ],
        "refused": [
            (refused, shown(refused.label, refused.path) if refused.label in contents.whole_images else None)
            for refused in contents.refused
        ],
    }
    points, axes = _points(store, sheets, vectors, problems)
    encoded = pictures.encoded()
    # One damaged row group is met at each of its photos.
    problems = list(dict.fromkeys([*problems, *pictures.problems]))
    html = render(
        values
        | {
            "store": store.uri,
            "made": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
            "release": version("fruits-platform"),
            "contents": contents,
            "images": sum(count.images for count in contents.classes),
            "features": sum(features.rows for features in contents.features.values()),
            "compared": len(vectors.paths),
            "problems": problems,
            "most_problems": MOST_PROBLEMS,
            "sections": _SECTIONS,
            "classes": rows,
            "most_images": max([1, *(row.images for row in rows)]),
            "sheets": sheets,
            "sheet_photos": sum(map(len, sheets.values())),
            "share": share,
            "refused_more": max(0, contents.quarantined - len(contents.refused)),
            "points": len(points),
            "limits": limits,
            "runs": contents.runs,
            "stages": STAGES,
            "pictures": encoded,
            "charts": {"specs": _specs(axes, len(contents.runs)), "data": _data(contents, points)},
        }
    )
    return html, sum(map(bool, encoded)), problems


_SECTIONS = {
    "classes": "Classes",
    "photos": "Photos",
    "quarantine": "Quarantine",
    "components": "Principal components",
    "confusions": "Confused classes",
    "alike": "Photos that are alike",
    "costs": "Time and cost",
}.items()


def _rows(classes: Sequence[ClassCount]) -> list[_Row]:
    """The classes of the table, by name. Of too many, those with the fewest and with the most photos."""
    if len(classes) > MOST_CLASSES:
        by_images = sorted(classes, key=lambda count: count.images)
        half = MOST_CLASSES // 2
        classes = sorted([*by_images[:half], *by_images[-half:]])
    return [_Row(position, *count) for position, count in enumerate(classes, 1)]


def _sheets(
    store: Root,
    contents: Contents,
    rows: Sequence[_Row],
    share: int,
    pictures: Pictures,
    problems: list[str],
) -> dict[str, list[_Shown]]:
    """The contact sheet of each class that has photos: at most `share` of them."""
    sheets = {}
    images = contents.whole_images
    for row in rows:
        if row.label not in images:
            continue
        try:
            paths = first_photos(store, images[row.label], share)
        except FruitsError as error:
            problems.append(f"{row.label}: {error}")
            continue
        sheets[row.label] = [_Shown(pictures.number_of(row.label, path), path) for path in paths]
    return sheets


def _of_both(vectors: Vectors, one: str, other: str, pictures: Pictures) -> tuple[list[_Shown], list[_Shown]]:
    """The photos of two classes that are most alike."""
    chosen = closest_photos(vectors, one, other, _OF_A_PAIR)
    of_one, of_other = (
        [
            _Shown(pictures.number_of(str(vectors.labels[index]), vectors.paths[index]), vectors.paths[index])
            for index in indexes
        ]
        for indexes in chosen
    )
    return of_one, of_other


def _points(
    store: Root, sheets: Mapping[str, Sequence[_Shown]], vectors: Vectors, problems: list[str]
) -> tuple[list[dict[str, Any]], int]:
    """The dots of the scatter, and the number of components that they have: photos of the contact sheets."""
    try:
        model = current_one(store, PCA_MODEL)
        components = read_components(store.uri, model.directory)[:, : charts.AXES] if model else None
    except (FruitsError, ValueError, KeyError, TypeError, IndexError) as error:
        problems.append(f"{PCA_MODEL}: {error}")
        components = None
    if components is None or len(components) != vectors.values.shape[1]:
        return [], 0
    numbers = {(label, shown.path): shown.number for label, photos in sheets.items() for shown in photos}
    places = zip(map(str, vectors.labels), vectors.paths, strict=True)
    chosen = [(index, place) for index, place in enumerate(places) if place in numbers]
    rows = [index for index, _ in chosen]
    projected = (vectors.values[rows] * vectors.lengths[rows, None]) @ components
    points = [
        {
            "class": plain(label),
            "file": plain(path),
            "photo": numbers[label, path],
            **{f"pc{number}": round(value, 4) for number, value in enumerate(values, 1)},
        }
        for (_, (label, path)), values in zip(chosen, projected.tolist(), strict=True)
        if all(map(math.isfinite, values))
    ]
    return points, components.shape[1]


def _specs(axes: int, runs: int) -> dict[str, Any]:
    return {
        "scree": charts.scree(),
        "times": charts.stage_times(STAGES, runs),
        **({"scatter": charts.scatter(axes)} if axes else {}),
    }


def _data(contents: Contents, points: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The data of the charts by their names."""
    shares = contents.model.explained_variance if contents.model else []
    return {
        charts.POINTS: points,
        charts.SHARES: [
            {"component": number, "share": share, "together": together}
            for number, (share, together) in enumerate(
                zip(shares, np.cumsum(shares).tolist(), strict=True), 1
            )
        ],
        charts.TIMES: [
            {"run": plain(run.name), "stage": stage, "order": STAGES.index(stage), "seconds": figures.seconds}
            for run in reversed(contents.runs)
            for stage, figures in run.stages.items()
        ],
    }
