"""Finds photos in the tables, also in replaced files, and takes them out of tables and CSVs for good.

Nothing brings them back: earlier versions of the tables end here. It needs no Spark: few files change.
"""

import hashlib
import posixpath
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from spark_jobs.errors import FruitsError
from spark_jobs.store.classes import TABLES
from spark_jobs.store.csv_copies import copy_csvs
from spark_jobs.store.csv_rows import read_csv, write_csv
from spark_jobs.store.erasures import ErasedPhotos
from spark_jobs.store.leases import Lease, lease_of_erasure
from spark_jobs.store.parquet import read_columns, write_without
from spark_jobs.store.photos import PHOTO_COLUMNS, Photo
from spark_jobs.store.pointers import current_by_class, new_directory, publish, withdraw
from spark_jobs.store.root import Root, concurrently
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_FEATURES_CSV, PCA_MODEL, RAW_IMAGES, SCHEMAS
from spark_jobs.store.sweep import sweep_table, sweep_versions
from spark_jobs.store.tables import (
    DAMAGED,
    LOG,
    ClassChange,
    TableFile,
    change_classes,
    check_inside,
    compared_again,
    current,
    current_files,
    end_time_travel,
)
from spark_jobs.store.versions import Part, Version, class_key, combined_version


class StoredPhoto(NamedTuple):
    """A row of a photo in a file of a table, which is current or was replaced.

    Of a row of features, only path and SHA-256 are known: its time is None, as in some rows of an earlier
    release. A photo that could not be read has no SHA-256.
    """

    table: str
    file: TableFile
    is_current: bool
    photo: Photo
    label: str
    sha256: str | None
    modified: int | None


class Erased(NamedTuple):
    """What an erasure took out of a store: the rows of each table and of the CSVs, and damaged classes."""

    rows: Mapping[str, int]
    csv_rows: int
    failed: Mapping[str, str]  # class: reason why a file of it could not be written anew


def stored_photos(store: Root, *, replaced: bool = True) -> list[StoredPhoto]:
    """The photos in the current files of the tables, and in files that commits have `replaced` or none names.

    A file that is no Parquet file, because a run is still writing it, has no photos.
    """

    def photos_of(table: str) -> list[StoredPhoto]:
        files = current_files(store, table) or []
        old = _replaced_files(store, table, files) if replaced else []
        return [*_photos_in(store, table, files, True), *_photos_in(store, table, old, False)]

    return [photo for photos in concurrently(photos_of, TABLES) for photo in photos]


def _replaced_files(store: Root, table: str, present: Iterable[TableFile]) -> list[TableFile]:
    """The Parquet files below a table that are none of its present files."""
    paths = {file.path for file in present}
    listed = ((info.path.removeprefix(f"{table}/"), info.size) for info in store.list(table))
    return [
        TableFile(path, "", 0, size)
        for path, size in listed
        if path.endswith(".parquet") and not path.startswith(f"{LOG}/") and path not in paths
    ]


def rows_of_csvs(store: Root, versions: Mapping[str, Version]) -> dict[str, pa.Table]:
    """The rows of versions of CSVs, by class, without classes whose file was lost."""
    content = store.read_present(version.parts[0].path for version in versions.values())
    return {
        label: read_csv(content[version.parts[0].path])
        for label, version in versions.items()
        if version.parts[0].path in content
    }


def _photos_in(store: Root, table: str, files: Sequence[TableFile], is_current: bool) -> list[StoredPhoto]:
    read = concurrently(lambda file: _photos_of(store, table, file, is_current), files)
    return [photo for photos in read for photo in photos]


def _photos_of(store: Root, table: str, file: TableFile, is_current: bool) -> list[StoredPhoto]:
    columns = ("label", *(name for name in PHOTO_COLUMNS if name in SCHEMAS[table].names))
    try:
        check_inside(store, table, f"{table}/{file.path}")
        _, rows = read_columns(store, f"{table}/{file.path}", file.bytes, columns)
    except FruitsError:
        return []
    if "modified" in rows.schema.names:
        index = rows.schema.get_field_index("modified")
        rows = rows.set_column(index, "modified", rows.column("modified").cast(pa.int64()))
    return [
        StoredPhoto(
            table,
            file,
            is_current,
            Photo(row["path"], row.get("bytes") or 0, row.get("modified") or 0, row.get("etag") or ""),
            row["label"],
            row["sha256"],
            row.get("modified"),
        )
        for row in rows.to_pylist()
    ]


def erase_photos(store: Root, photos: ErasedPhotos, run: str) -> Erased:
    """Takes photos out of all tables and CSVs, and removes every file that has held them.

    Photos are known by their SHA-256, and those that could not be read by their path. A class of which a file
    is damaged keeps that file; the other classes are erased. Files of runs that are at work stay: such a run
    cannot commit any more. `run` names the commits.
    """
    with lease_of_erasure(store, run) as lease:
        before = current(store, MOBILENET_FEATURES, photos.labels)
        rows: dict[str, int] = {}
        failed: dict[str, str] = {}
        old: list[str] = []
        # From the photos to what is made of them: a run that comes between finds no photo to compute.
        for table in (RAW_IMAGES, *(table for table in TABLES if table != RAW_IMAGES)):
            rows[table] = _erase_rows(store, table, photos, lease, old, failed)
        csv_rows, directories = _erase_csv_rows(store, photos, before, run)
        for table in TABLES:
            end_time_travel(store, table)
        store.remove_files(old)
        concurrently(store.remove, directories)
        for table in TABLES:
            sweep_table(store, table, timedelta(0), lease)
        sweep_versions(store, PCA_FEATURES_CSV, timedelta(0), lease)
    return Erased(rows, csv_rows, failed)


def _erase_rows(
    store: Root, table: str, photos: ErasedPhotos, lease: Lease, old: list[str], failed: dict[str, str]
) -> int:
    """Replaces the current files of a table that have photos; adds them to `old`. Returns the rows."""
    erased = 0

    def attempt(_: Iterable[str]) -> set[str]:
        nonlocal erased
        files = current_files(store, table) or []
        rows: dict[TableFile, set[str]] = defaultdict(set)
        for row in _photos_in(store, table, files, True):
            if is_erased(row, photos):
                rows[row.file].add(row.photo.path)
        changes: dict[str, ClassChange] = {}
        for label in {file.label for file in rows}:
            own = {file: paths for file, paths in rows.items() if file.label == label}
            try:
                new = [_without(store, table, file, paths, lease.run) for file, paths in own.items()]
            except FruitsError as error:
                failed[label] = f"{error}. {DAMAGED.format(table=table)}, and then erase its photos again"
                continue
            added = [part for part in new if part]
            changes[label] = ClassChange(added, [file.path for file in own])
        seen = {label: [file.path for file in files if file.label == label] for label in changes}
        met = change_classes(store, table, changes, lease, seen) if changes else set()
        for file, paths in rows.items():
            if file.label in changes.keys() - met:
                old.append(f"{table}/{file.path}")
                erased += len(paths)
        return met

    failed |= compared_again([table], attempt)
    return erased


def is_erased(row: StoredPhoto, photos: ErasedPhotos) -> bool:
    """Whether a row is of one of the photos."""
    return row.sha256 in photos.hashes if row.sha256 else row.photo.path in photos.paths


def _without(store: Root, table: str, file: TableFile, paths: Collection[str], run: str) -> Part | None:
    """A new file with the other rows of a file; None where it has no other rows."""
    path = f"{table}/{file.path}"
    part, rows = read_columns(store, path, file.bytes, ["path"])
    if set(rows.column("path").to_pylist()) <= set(paths):
        return None
    return write_without(store, f"{table}/{run}", SCHEMAS[table], part, paths)


def _erase_csv_rows(
    store: Root, photos: ErasedPhotos, before: Mapping[str, Version], run: str
) -> tuple[int, list[str]]:
    """Writes CSVs without the photos. Returns the number of rows, and the folders of the old CSVs.

    The rows of other photos stay as they are. A CSV that was current for the features before the erasure is
    current for those after it.
    """
    features = current(store, MOBILENET_FEATURES, photos.labels)
    old = current_by_class(store, PCA_FEATURES_CSV, photos.labels)
    directory = new_directory(PCA_FEATURES_CSV, run)
    erased, new, empty, replaced = 0, [], [], []
    for label, rows in rows_of_csvs(store, old).items():  # the check `copies_match` tells of a lost file
        left = rows.filter(pc.invert(pc.is_in(rows.column("path"), pa.array(photos.paths, pa.string()))))
        if left.num_rows == rows.num_rows:
            continue
        erased += rows.num_rows - left.num_rows
        replaced.append(old[label].directory)
        if left.num_rows:
            own = before.get(label), features.get(label)
            new.append(_csv_version(store, directory, old[label], left, *own))
        else:
            empty.append(label)
    publish(store, PCA_FEATURES_CSV, new)
    withdraw(store, PCA_FEATURES_CSV, empty)
    copy_csvs(store)
    return erased, replaced


def _csv_version(
    store: Root,
    directory: str,
    old: Version,
    rows: pa.Table,
    before: Version | None,
    features: Version | None,
) -> Version:
    content = write_csv(rows)
    path = f"{directory}/{class_key(str(old.label))}/part.csv"
    store.write(path, content)
    was_current = before is not None and old.inputs.get(MOBILENET_FEATURES) == before.data_version
    made_of = features.data_version if features and was_current else ""
    files = [part.path for part in features.parts] if features and was_current else []
    return Version(
        label=old.label,
        directory=posixpath.dirname(path),
        data_version=combined_version(made_of, old.inputs.get(PCA_MODEL, "")),
        parts=[Part(path, [rows.num_rows], len(content))],
        inputs={**old.inputs, MOBILENET_FEATURES: made_of},
        details={"sha256": hashlib.sha256(content).hexdigest(), "files": files},
    )
