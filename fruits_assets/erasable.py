"""Finds the photos that `fruits erase` and `fruits retention` take out, and their places."""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from resources.erasures import read_erasures
from resources.photo_folders import Listing, list_photos
from resources.settings import Settings
from spark_jobs.errors import FruitsError
from spark_jobs.store.classes import TABLES, refuse_old_store
from spark_jobs.store.erase_photos import rows_of_csvs, stored_photos
from spark_jobs.store.erasures import ErasedPhotos
from spark_jobs.store.photos import PHOTO_TABLES, Photo
from spark_jobs.store.pointers import current_by_class
from spark_jobs.store.root import Root, concurrently, open_root
from spark_jobs.store.schemas import PCA_FEATURES_CSV
from spark_jobs.store.tables import current


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which photos to erase: those of any of these paths, SHA-256 values, classes, and beginnings of paths.

    Paths are relative to FRUITS_IMAGES. A photo whose modification time is `before` a moment is one too.
    """

    paths: frozenset[str] = frozenset()
    hashes: frozenset[str] = frozenset()
    labels: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()
    before: datetime | None = None

    @property
    def is_empty(self) -> bool:
        return self == Selection()

    def takes(self, path: str, label: str, sha256: str | None, modified: int | None) -> bool:
        """Whether a photo is selected. `modified` is in microseconds since 1970; None is no time."""
        return (
            path in self.paths
            or sha256 in self.hashes
            or label in self.labels
            or path.startswith(self.prefixes)
            or (self.before is not None and modified is not None and modified < _microseconds(self.before))
        )


def _microseconds(time: datetime) -> float:
    return time.timestamp() * 1_000_000


@dataclass(frozen=True, kw_only=True)
class Found:
    """Photos to erase, and where they are.

    `states` are the photos as folders and tables know them, and `source` those that are in FRUITS_IMAGES now.
    `rows` are the numbers of rows by table, `replaced_rows` those in files that no table has any more, and
    `csv_rows` those of the CSVs. `damaged` has the reason for each class in which nothing can be found.
    """

    photos: ErasedPhotos
    states: frozenset[Photo]
    source: tuple[Photo, ...]
    rows: Mapping[str, int]
    replaced_rows: int
    csv_rows: int
    damaged: Mapping[str, str]

    @property
    def is_empty(self) -> bool:
        return not (self.photos.paths or self.photos.hashes)


def find(settings: Settings, selection: Selection, *, remove: bool = False) -> Found:
    """The selected photos, in the store and in FRUITS_IMAGES, and all copies of them under other paths.

    Files of photos that were erased before count if they are to `remove`, or if they are selected by path.
    A path or SHA-256 that neither has, and that was not erased before, raises `FruitsError`. So does a store
    that is still to convert.
    """
    store = open_root(settings.store)
    refuse_old_store(store)
    selection = replace(selection, paths=frozenset(_relative(settings, path) for path in selection.paths))
    rows, classes = stored_photos(store), listed_photos(settings).classes
    erasures = read_erasures(store, settings.erasure_key_file)
    listed = [
        (label, photo)
        for label, photos in classes.items()
        for photo in photos
        if remove or photo.path in selection.paths or not erasures.has_photo(photo)
    ]
    contents = {_known(row.photo): row.sha256 for row in rows if row.table in PHOTO_TABLES}
    chosen = {row for row in rows if selection.takes(row.photo.path, row.label, row.sha256, row.modified)}
    source = {
        (label, photo)
        for label, photo in listed
        if selection.takes(photo.path, label, contents.get(_known(photo)), photo.modified)
    }
    contents |= _contents(settings, [photo for _, photo in source if _known(photo) not in contents])
    known = (*(row.sha256 for row in chosen), *(contents.get(_known(photo)) for _, photo in source))
    hashes = {*filter(None, known), *filter(erasures.has_content, selection.hashes)}
    found = [row for row in rows if row in chosen or row.sha256 in hashes]
    source |= {(label, photo) for label, photo in listed if contents.get(_known(photo)) in hashes}
    erased = filter(erasures.has_path, selection.paths)
    photos = ErasedPhotos(
        frozenset((*erased, *(row.photo.path for row in found), *(photo.path for _, photo in source))),
        frozenset(hashes),
        frozenset((*(row.label for row in found), *(label for label, _ in source))),
    )
    _refuse_unknown(selection, photos, classes)
    in_source = frozenset(photo for _, photo in source)
    return Found(
        photos=photos,
        states=in_source | {row.photo for row in found if row.table in PHOTO_TABLES},
        source=tuple(sorted(in_source)),
        rows=Counter(row.table for row in found if row.is_current),
        replaced_rows=sum(not row.is_current for row in found),
        csv_rows=_csv_rows(store, photos),
        damaged=_damaged(store),
    )


def _relative(settings: Settings, path: str) -> str:
    """The path of a photo relative to FRUITS_IMAGES, if it is given as the path of a file, or an address."""
    if path.startswith("s3://") or settings.images.startswith("s3://"):
        return path.removeprefix(f"{settings.images}/")
    whole = os.path.abspath(path)
    return whole.removeprefix(f"{settings.images}/") if whole.startswith(f"{settings.images}/") else path


def _known(photo: Photo) -> tuple[str, int, int | str]:
    """The path and the state by which a photo is known."""
    return photo.path, *photo.state


def listed_photos(settings: Settings) -> Listing:
    """The photos of FRUITS_IMAGES, those too that were erased. The folder may be gone."""
    if not settings.images.startswith("s3://") and not os.path.isdir(settings.images):
        return Listing()
    return list_photos(settings.images, may_be_empty=True)


def _contents(settings: Settings, photos: Sequence[Photo]) -> dict[tuple[str, int, int | str], str | None]:
    """The SHA-256 of photos that no run has read. A photo that ingestion would not read either has none."""
    root = open_root(settings.images)

    def sha256(photo: Photo) -> str | None:
        if photo.bytes > settings.max_image_bytes:
            return None
        with suppress(OSError):
            return hashlib.sha256(root.read(photo.path)).hexdigest()
        return None

    return dict(zip(map(_known, photos), concurrently(sha256, photos), strict=True))


def _csv_rows(store: Root, photos: ErasedPhotos) -> int:
    erased = pa.array(photos.paths, pa.string())
    csvs = rows_of_csvs(store, current_by_class(store, PCA_FEATURES_CSV, photos.labels))
    found = (pc.sum(pc.is_in(csv.column("path"), erased)).as_py() for csv in csvs.values())
    return sum(number or 0 for number in found)


def _damaged(store: Root) -> dict[str, str]:
    versions = concurrently(lambda table: current(store, table), TABLES)
    return {label: version.damage for table in versions for label, version in table.items() if version.damage}


def _refuse_unknown(
    selection: Selection, photos: ErasedPhotos, classes: Mapping[str, Sequence[Photo]]
) -> None:
    """Raises `FruitsError` where a part of the selection is of no photo, and of none that was erased."""
    for path in sorted(selection.paths - photos.paths):
        raise FruitsError(
            f"There is no photo {path!r}, neither in FRUITS_IMAGES nor in the store. Give its path as in the "
            "column path of a CSV, relative to FRUITS_IMAGES."
        )
    for sha256 in sorted(selection.hashes - photos.hashes):
        raise FruitsError(f"There is no photo of the SHA-256 {sha256} in the store, and there was none.")
    for label in sorted(selection.labels - photos.labels - classes.keys()):
        raise FruitsError(f"There is no class {label!r}, neither in FRUITS_IMAGES nor in the store.")
    paths = {*photos.paths, *(photo.path for own in classes.values() for photo in own)}
    for prefix in selection.prefixes:
        if not any(path.startswith(prefix) for path in paths):
            raise FruitsError(f"No path of a photo begins with {prefix!r}.")
