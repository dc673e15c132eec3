"""What a report says of a store in figures. A file that is damaged becomes a sentence, and stops nothing."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import NamedTuple, TypeVar

from pydantic import TypeAdapter

from fruits_assets.costs.comparison import Row, newest, rows_of
from fruits_assets.costs.run_records import read_records
from fruits_assets.model.quality import Quality
from spark_jobs.errors import FruitsError
from spark_jobs.store.parquet import read_columns
from spark_jobs.store.photos import Double, doubles
from spark_jobs.store.pointers import current_one
from spark_jobs.store.quarantine import bad_photos, kind_of
from spark_jobs.store.root import Root
from spark_jobs.store.schemas import (
    FEATURE_EXTRACTOR,
    FEATURE_QUALITY,
    MOBILENET_FEATURES,
    PCA_MODEL,
    QUARANTINED_IMAGES,
    RAW_IMAGES,
)
from spark_jobs.store.tables import current
from spark_jobs.store.versions import Version

# A page of more rows is no help to a person, and would grow without end.
MOST_CLASSES, MOST_REFUSED, MOST_PROBLEMS = 2000, 300, 50

_QUALITY = TypeAdapter(Quality)
_SHARES = TypeAdapter(list[float])

Result = TypeVar("Result")


class ClassCount(NamedTuple):
    """The numbers of photos of a class. `damage` is the reason why its photos cannot be read, or empty."""

    label: str
    images: int
    quarantined: int
    damage: str


class Refused(NamedTuple):
    """A photo in quarantine."""

    label: str
    path: str
    reason: str


class Model(NamedTuple):
    """The PCA model: the photos and classes of its fit, and the share (0 to 1) of each component."""

    images: int
    classes: int
    explained_variance: list[float]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The figures of a store.

    `images` and `features` are the current versions by class, also of damaged classes. `weights` names
    those of the feature extractor. `refused` are some of the `quarantined` photos, sorted by reason.
    `copies` are the photos that are there more than once.
    """

    images: Mapping[str, Version]
    features: Mapping[str, Version]
    weights: str
    classes: list[ClassCount]
    quarantined: int
    refused: list[Refused]
    model: Model | None
    quality: Quality | None
    runs: list[Row]
    copies: list[Double]
    problems: list[str] = field(default_factory=list)

    @property
    def whole_images(self) -> dict[str, Version]:
        """The classes whose photos can be read."""
        return {label: version for label, version in self.images.items() if not version.damage}

    @property
    def whole_features(self) -> dict[str, Version]:
        """The classes whose features can be read."""
        return {label: version for label, version in self.features.items() if not version.damage}


def read_contents(store: Root) -> Contents:
    """Reads the figures of a store. What is damaged is in `problems`.

    It reads the logs and footers of the tables, as each run does, the rows of the quarantine, and the hashes
    of all photos. Raises `OSError` where the store fails.
    """
    problems: list[str] = []

    def tried(what: str, read: Callable[[], Result]) -> Result | None:
        try:
            return read()
        except (FruitsError, ValueError, KeyError, TypeError, RecursionError) as error:
            problems.append(f"{what}: {_short(error)}")
            return None

    images, features, bad = (
        tried(table, lambda table=table: current(store, table)) or {}  # type: ignore[misc]
        for table in (RAW_IMAGES, MOBILENET_FEATURES, QUARANTINED_IMAGES)
    )
    for versions in (images, features, bad):
        problems += [f"{label}: {version.damage}" for label, version in versions.items() if version.damage]
    counts = tried(QUARANTINED_IMAGES, lambda: bad_photos(store)) or {}
    copies = tried(RAW_IMAGES, lambda: doubles(store)) or []
    extractor = tried(FEATURE_EXTRACTOR, lambda: current_one(store, FEATURE_EXTRACTOR))
    records, invalid = read_records(store)
    problems += [f"{path}: this is no record of a run" for path in invalid]
    return Contents(
        images=images,
        features=features,
        weights=str(extractor.details.get("weights", "")) if extractor else "",
        classes=[
            ClassCount(
                label,
                images[label].rows if label in images else 0,
                counts.get(label, 0),
                images[label].damage if label in images else "",
            )
            for label in sorted({*images, *counts})
        ],
        quarantined=sum(counts.values()),
        refused=_refused(store, bad, problems),
        model=tried(PCA_MODEL, lambda: _model(store)),
        quality=tried(FEATURE_QUALITY, lambda: _quality(store)),
        runs=newest(rows_of(records)),
        copies=copies,
        problems=problems,
    )


def _short(error: Exception) -> str:
    """An error in one line: pydantic's has one for each value that is wrong."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _refused(store: Root, bad: Mapping[str, Version], problems: list[str]) -> list[Refused]:
    """Photos in quarantine, sorted by reason. Each kind of reason has its share where there are too many."""
    kinds: dict[str, list[Refused]] = defaultdict(list)
    for label, version in bad.items():
        for part in () if version.damage else version.parts:
            try:
                _, rows = read_columns(store, part.path, part.bytes, ("path", "reason"))
            except FruitsError as error:
                problems.append(f"{label}: {error}")
                continue
            for path, reason in zip(
                *(rows.column(name).to_pylist() for name in rows.schema.names), strict=True
            ):
                kinds[kind_of(reason or "")].append(Refused(label, path or "", reason or ""))
    in_turn = (photo for turn in zip_longest(*kinds.values()) for photo in turn if photo)
    chosen = [photo for photo, _ in zip(in_turn, range(MOST_REFUSED), strict=False)]
    return sorted(chosen, key=lambda photo: (photo.reason, photo.label, photo.path))


def _model(store: Root) -> Model | None:
    from spark_jobs.fit_pca import MODEL_JSON

    version = current_one(store, PCA_MODEL)
    if version is None:
        return None
    try:
        said = json.loads(store.read(f"{version.directory}/{MODEL_JSON}"))
    except FileNotFoundError as error:
        raise FruitsError(f"{error}. Fit the model again: fruits run --refit") from None
    shares = _SHARES.validate_python(said["explained_variance"])
    if not all(map(math.isfinite, shares)):
        raise FruitsError("the shares of its components are no numbers. Fit it again: fruits run --refit")
    return Model(int(said["images"]), len(said["classes"]), shares)


def _quality(store: Root) -> Quality | None:
    path = f"{FEATURE_QUALITY}/current.json"
    return _QUALITY.validate_json(store.read(path)) if store.has(path) else None
