"""Removes metadata from the photos that the store has already, from their stored bytes.

The photos of an earlier release have it, and so have those of a time when FRUITS_KEEP_METADATA was true. Old
files are removed at once: until then, the position of a photo's maker can still be read.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import NamedTuple

import pyarrow as pa
from pyspark.sql import SparkSession

from spark_jobs.errors import FruitsError
from spark_jobs.photos.images import BadImage
from spark_jobs.photos.metadata import METADATA_RULES, without_metadata
from spark_jobs.store.leases import Lease
from spark_jobs.store.parquet import PartWriter, read_row_groups
from spark_jobs.store.photos import check_sha256
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import QUARANTINED_IMAGES, RAW_IMAGES, SCHEMAS
from spark_jobs.store.sweep import sweep_table
from spark_jobs.store.tables import (
    ClassChange,
    change_classes,
    current,
    set_table_property,
    table_property,
)
from spark_jobs.store.versions import Part, Version
from spark_jobs.tasks import Reporter, even_tasks, run_tasks

# The property of the table with the rules by which metadata was removed from all of its photos.
_FREE = "fruits.metadata"


class _Old(NamedTuple):
    """A file of a class whose photos have metadata."""

    label: str
    part: Part


class _Cleaned(NamedTuple):
    """The new files of an old file in the two tables of photos."""

    label: str
    old: str
    images: list[Part]
    quarantined: list[Part]


def free_photos_of_metadata(
    spark: SparkSession, store: Root, rules: str, lease: Lease, report: Reporter
) -> None:
    """Frees the photos of the store of metadata before a run adds photos that are free of it by `rules`.

    Empty `rules` keep metadata. The table says by which rules all of its photos are free, so that a run need
    not look at each file.
    """
    if table_property(store, RAW_IMAGES, _FREE) != rules and (
        not rules or _remove_metadata(spark, store, lease, report)
    ):
        set_table_property(store, RAW_IMAGES, _FREE, rules)


def _remove_metadata(spark: SparkSession, store: Root, lease: Lease, report: Reporter) -> bool:
    """Replaces the files of `raw_images` whose photos may have metadata. Returns whether none is left.

    Older versions of the table end here. A photo whose metadata cannot be removed goes to quarantine. A
    damaged class is left alone: its photos are ingested again. A class that another run changes meanwhile is
    left to the next run.
    """
    versions = current(store, RAW_IMAGES)
    old = [
        _Old(label, part)
        for label, version in versions.items()
        if not version.damage
        for part in version.parts
        if part.metadata != METADATA_RULES
    ]
    damaged = any(version.damage for version in versions.values())
    if not old:
        return not damaged
    cleaned = [
        result
        for results in run_tasks(
            spark,
            "raw_images: remove metadata",
            partial(_clean, store.uri, lease.run),
            work=even_tasks(spark, old, lambda piece: piece.part.rows, least=128, most=2048),
            images=lambda pieces: sum(piece.part.rows for piece in pieces),
            report=report,
        )
        for result in results
    ]
    by_label: dict[str, list[_Cleaned]] = defaultdict(list)
    for result in cleaned:
        by_label[result.label].append(result)
    bad = {
        label: ClassChange([part for result in own for part in result.quarantined], [])
        for label, own in by_label.items()
        if any(result.quarantined for result in own)
    }
    seen = _seen(QUARANTINED_IMAGES, current(store, QUARANTINED_IMAGES, bad) if bad else {})
    change_classes(store, QUARANTINED_IMAGES, bad, lease, seen)
    good = {
        label: ClassChange(
            [part for result in own for part in result.images],
            [_inside(RAW_IMAGES, result.old) for result in own],
        )
        for label, own in by_label.items()
    }
    seen = _seen(RAW_IMAGES, {label: versions[label] for label in good})
    met = change_classes(store, RAW_IMAGES, good, lease, seen)
    store.remove_files(result.old for result in cleaned if result.label not in met)
    # Photos of versions before the current version have metadata too.
    sweep_table(store, RAW_IMAGES, timedelta(0), lease)
    return not (met or damaged) and len(cleaned) == len(old)


def _seen(table: str, versions: Mapping[str, Version]) -> dict[str, list[str]]:
    return {
        label: [_inside(table, part.path) for part in version.parts] for label, version in versions.items()
    }


def _inside(table: str, path: str) -> str:
    return path.removeprefix(f"{table}/")


def _clean(store_uri: str, run: str, pieces: Sequence[_Old]) -> list[_Cleaned]:
    """One Spark task: writes the photos of files anew, without metadata."""
    store = open_root(store_uri)
    results = []
    for piece in pieces:
        bad: list[dict[str, object]] = []
        try:
            images = _written(store, RAW_IMAGES, run, piece.part, _cleaned_rows(store, piece.part, bad))
        except FruitsError:
            continue  # whoever reads the class says that it is damaged
        rows = [pa.RecordBatch.from_pylist(bad, SCHEMAS[QUARANTINED_IMAGES])] if bad else []
        quarantined = _written(store, QUARANTINED_IMAGES, run, piece.part, iter(rows))
        results.append(_Cleaned(piece.label, piece.part.path, images, quarantined))
    return results


def _written(store: Root, table: str, run: str, old: Part, batches: Iterator[pa.RecordBatch]) -> list[Part]:
    writer = None
    for rows in batches:
        if rows.num_rows:
            writer = writer or PartWriter(
                store, f"{table}/{run}", SCHEMAS[table], old.made_with, old.rules, METADATA_RULES
            )
            writer.write(rows)
    return [writer.close()] if writer else []


def _cleaned_rows(store: Root, part: Part, bad: list[dict[str, object]]) -> Iterator[pa.RecordBatch]:
    """The rows of a file without metadata. Appends the rows of photos that cannot be cleaned to `bad`.

    Raises `FruitsError` where the file is damaged, or was changed.
    """
    schema = SCHEMAS[RAW_IMAGES]
    for rows in read_row_groups(store, part.path, range(len(part.row_groups)), schema.names):
        cleaned = []
        for row in rows.to_pylist():
            stored = row["sha256_stored"] or row["sha256"]  # an earlier release stored photos as they came
            check_sha256(store.uri_of(part.path), row["path"], row["content"], stored)
            try:
                content = without_metadata(row["content"]).content
            except BadImage as reason:
                kept = {name: row[name] for name in SCHEMAS[QUARANTINED_IMAGES].names if name in row}
                bad.append(kept | {"reason": str(reason)})
                continue
            cleaned.append(row | {"content": content, "sha256_stored": hashlib.sha256(content).hexdigest()})
        yield pa.RecordBatch.from_pylist(cleaned, schema)
