"""Reads, hashes and checks photos, and writes the good photos to `raw_images`, the bad ones to quarantine."""

import base64
import hashlib
import os
import shlex
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa
from PIL import Image, ImageOps
from pyspark.sql import SparkSession

from spark_jobs.compact_tables import compact_table
from spark_jobs.convert_store import prepared_store
from spark_jobs.images import BadImage, decode, thumbnails
from spark_jobs.store.parquet import ROW_GROUP_BYTES, ROW_GROUP_IMAGES, PartWriter
from spark_jobs.store.photos import Photo, list_photos
from spark_jobs.store.quarantine import bad_photos
from spark_jobs.store.root import IO_THREADS, Root, open_root
from spark_jobs.store.s3_errors import OF_AN_OBJECT, fault_of, read_patiently
from spark_jobs.store.schemas import QUARANTINED_IMAGES, RAW_IMAGES, SCHEMAS
from spark_jobs.store.sweep import sweep_table
from spark_jobs.store.tables import current, replace_classes
from spark_jobs.store.versions import Part, photos_version
from spark_jobs.tasks import Reporter, even_tasks, run_tasks
from spark_jobs.wire import ClassFigures
from spark_jobs.wording import counted

# A chunk is the photos of one class in one task, small enough that the last task of a run is short.
CHUNK_IMAGES = 512
CHUNK_BYTES = 64 << 20
READ_AHEAD_BYTES = 64 << 20
# Images of a task, at least and about at most.
LEAST_IMAGES, MOST_IMAGES = 1024, 2048
PREVIEW_IMAGES = 6
PREVIEW_SIDE = 96  # pixels to which a photo is reduced while it waits for the preview


@dataclass(frozen=True, kw_only=True)
class IngestParams:
    """Parameters of ingestion: the `classes` to read from the root `images` and write to the root `store`.

    `version` names the run. A photo over `max_bytes` or `max_pixels` is quarantined. If more than
    `max_bad_share` (0 to 1) of the photos of a class are quarantined, the class keeps its last version.
    Replaced files are removed after `keep_hours`.
    """

    images: str
    store: str
    version: str
    classes: list[str]
    max_bytes: int
    max_pixels: int
    max_bad_share: float
    keep_hours: float


@dataclass(frozen=True, kw_only=True)
class ClassIngest(ClassFigures):
    """Figures of one class, where found = images + quarantined, and its preview, if it was ingested."""

    found: int
    quarantined: int
    preview_jpeg_base64: str = ""


@dataclass(frozen=True)
class IngestReport:
    """Figures of current classes, and reasons of failed classes."""

    classes: dict[str, ClassIngest]
    failed: dict[str, str]


class _Chunk(NamedTuple):
    label: str
    first: bool
    photos: tuple[Photo, ...]


@dataclass(kw_only=True)
class _ClassTotal:
    """The sum of the chunks of a class: its files in both tables, and its preview."""

    images: list[Part] = field(default_factory=list)
    quarantined: list[Part] = field(default_factory=list)
    preview: bytes = b""

    def add(self, other: "_ClassTotal") -> None:
        self.images += other.images
        self.quarantined += other.quarantined
        self.preview = self.preview or other.preview


def ingest_images(spark: SparkSession, params: IngestParams, report: Reporter) -> IngestReport:
    """Replaces each given class of `raw_images` and `quarantined_images` as a whole.

    Raises `FruitsError`, and writes nothing, if the root of the photos does not exist or holds no photo.
    """
    listing = list_photos(params.images)
    present = [label for label in params.classes if label in listing.classes]
    chunks = [chunk for label in present for chunk in _chunks(label, listing.classes[label])]
    totals = {label: _ClassTotal() for label in present}
    with prepared_store(spark, params.store, params.version, report) as (store, lease):
        for results in run_tasks(
            spark,
            f"raw_images: ingest, {counted(len(present), 'class', 'classes')}",
            partial(_ingest, params),
            work=even_tasks(
                spark, chunks, lambda chunk: len(chunk.photos), least=LEAST_IMAGES, most=MOST_IMAGES
            ),
            images=_images_in,
            report=report,
        ):
            for label, total in results:
                totals[label].add(total)

        ingested: dict[str, ClassIngest] = {}
        failed: dict[str, str] = {}
        for label, total in totals.items():
            figures = _figures(total, found=len(listing.classes[label]))
            if figures.quarantined > params.max_bad_share * figures.found or not figures.images:
                failed[label] = (
                    f"{figures.quarantined} of {figures.found} photos are bad. FRUITS_MAX_BAD_SHARE allows a "
                    f"share of {params.max_bad_share}, and at least one photo must be good. The last good "
                    f"version of the class, if any, stays current. The table {QUARANTINED_IMAGES} gives each "
                    "photo's reason"
                )
            else:
                ingested[label] = figures
        # The quarantine comes first: a run that is killed in between leaves no photo out of both tables.
        quarantined = {label: total.quarantined for label, total in totals.items()}
        replace_classes(store, QUARANTINED_IMAGES, quarantined, lease)
        replace_classes(store, RAW_IMAGES, {label: totals[label].images for label in ingested}, lease)

        absent = [label for label in params.classes if label not in listing.classes]
        kept = _kept(store, absent) if absent else {}
        failed |= {
            label: listing.refused.get(label)
            or f"there are no photos of it under FRUITS_IMAGES={params.images}; put the folder back, "
            f"or take the class out of the store: fruits forget {shlex.quote(label)}"
            for label in absent
            if label not in kept
        }
        for table in (RAW_IMAGES, QUARANTINED_IMAGES):
            compact_table(spark, store, table, lease, report)
            sweep_table(store, table, timedelta(hours=params.keep_hours), lease)
    return IngestReport(classes=ingested | kept, failed=failed)


def _figures(total: _ClassTotal, found: int) -> ClassIngest:
    """The figures of a class whose photos were read."""
    return ClassIngest(
        found=found,
        images=sum(part.rows for part in total.images),
        quarantined=sum(part.rows for part in total.quarantined),
        bytes=sum(part.bytes for part in total.images),
        data_version=photos_version(total.images),
        preview_jpeg_base64=base64.b64encode(total.preview).decode(),
    )


def _kept(store: Root, labels: Sequence[str]) -> dict[str, ClassIngest]:
    """The figures of the last versions of classes that have no photos."""
    quarantined = bad_photos(store, labels)
    return {
        label: ClassIngest(
            found=version.rows + quarantined.get(label, 0),
            images=version.rows,
            quarantined=quarantined.get(label, 0),
            bytes=version.bytes,
            data_version=version.data_version,
            gone=True,
        )
        for label, version in current(store, RAW_IMAGES, labels).items()
    }


def _chunks(label: str, photos: Sequence[Photo]) -> Iterator[_Chunk]:
    """Cuts the photos of a class by `CHUNK_IMAGES` and `CHUNK_BYTES`; a larger photo is a chunk by itself."""
    first = True
    start = size = 0
    for end, photo in enumerate(photos):
        if end > start and (end - start == CHUNK_IMAGES or size + photo.bytes > CHUNK_BYTES):
            yield _Chunk(label, first, tuple(photos[start:end]))
            first, start, size = False, end, 0
        size += photo.bytes
    yield _Chunk(label, first, tuple(photos[start:]))


def _images_in(chunks: list[_Chunk]) -> int:
    return sum(len(chunk.photos) for chunk in chunks)


def _ingest(params: IngestParams, chunks: list[_Chunk]) -> list[tuple[str, _ClassTotal]]:
    """One Spark task: reads, checks and writes its chunks. It reads ahead across the chunks."""
    photos = [photo for chunk in chunks for photo in chunk.photos]
    with closing(_read_ahead(open_root(params.images), photos, params.max_bytes)) as contents:
        return [
            (chunk.label, _ingest_chunk(params, chunk, islice(contents, len(chunk.photos))))
            for chunk in chunks
        ]


def _ingest_chunk(
    params: IngestParams, chunk: _Chunk, contents: Iterable[tuple[Photo, bytes | BadImage]]
) -> _ClassTotal:
    """Writes at most one file of good photos and one of bad photos, and keeps photos for the preview."""
    store, total = open_root(params.store), _ClassTotal()
    images = _Rows(store, RAW_IMAGES, params.version)
    bad = _Rows(store, QUARANTINED_IMAGES, params.version)
    preview: list[Image.Image] = []
    every = -(-len(chunk.photos) // PREVIEW_IMAGES)
    for index, (photo, content) in enumerate(contents):
        row: dict[str, Any] = {"path": photo.path, "label": chunk.label, "bytes": photo.bytes}
        try:
            if isinstance(content, BadImage):
                raise content
            row |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            decoded = decode(content, params.max_pixels)
        except BadImage as reason:
            bad.add(row | {"reason": str(reason)}, 0)
            continue
        if chunk.first and index % every == 0:
            preview.append(ImageOps.contain(decoded.image, (PREVIEW_SIDE, PREVIEW_SIDE)))
        row |= {"content": content, "width": decoded.width, "height": decoded.height}
        row |= {"format": decoded.format, "modified": photo.modified}
        images.add(row, len(content))
    total.images, total.quarantined = images.close(), bad.close()
    total.preview = thumbnails(preview)
    return total


class _Rows:
    """Gathers rows into row groups of one Parquet file, which is created for the first row group."""

    def __init__(self, store: Root, table: str, run: str) -> None:
        self._store = store
        self._directory = f"{table}/{run}"
        self._schema = SCHEMAS[table]
        self._writer: PartWriter | None = None
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def add(self, row: dict[str, Any], size: int) -> None:
        if len(self._rows) == ROW_GROUP_IMAGES or (self._rows and self._bytes + size > ROW_GROUP_BYTES):
            self._flush()
        self._rows.append(row)
        self._bytes += size

    def _flush(self) -> None:
        if self._writer is None:
            self._writer = PartWriter(self._store, self._directory, self._schema)
        self._writer.write(pa.RecordBatch.from_pylist(self._rows, self._schema))
        self._rows, self._bytes = [], 0

    def close(self) -> list[Part]:
        if self._rows:
            self._flush()
        return [self._writer.close()] if self._writer else []


def _read_ahead(
    root: Root, photos: Sequence[Photo], max_bytes: int
) -> Generator[tuple[Photo, bytes | BadImage], None, None]:
    """Yields every photo with its content, in order. Threads read ahead, up to `READ_AHEAD_BYTES`."""
    waiting: deque[tuple[Photo, Future[bytes | BadImage]]] = deque()
    pending = 0
    with ThreadPoolExecutor(min(IO_THREADS, len(photos))) as pool:
        for photo in photos:
            while waiting and (len(waiting) == 2 * IO_THREADS or pending + photo.bytes > READ_AHEAD_BYTES):
                oldest, future = waiting.popleft()
                yield oldest, future.result()
                pending -= oldest.bytes
            waiting.append((photo, pool.submit(read_photo, root, photo, max_bytes)))
            pending += photo.bytes
        while waiting:
            oldest, future = waiting.popleft()
            yield oldest, future.result()


def read_photo(root: Root, photo: Photo, max_bytes: int) -> bytes | BadImage:
    """The content of a photo, or the reason to quarantine it.

    Raises `OSError` if the network fails, or if S3 denies the run everything.
    """
    if photo.bytes > max_bytes:
        return BadImage(f"{photo.bytes:,} bytes are over the limit of {max_bytes:,} (FRUITS_MAX_IMAGE_BYTES)")
    try:
        return read_patiently(root, photo.path)
    except FileNotFoundError:
        return BadImage("was deleted during ingestion")
    except OSError as error:
        if root.is_local:
            return BadImage(f"cannot be read: {os.strerror(error.errno) if error.errno else error}")
        fault = fault_of(str(error))
        if fault and fault.kind in OF_AN_OBJECT:
            root.exists()  # raises where the run has lost its access: then no photo is bad
            return BadImage(f"cannot be read: {fault.cause}. {fault.remedy}")
        raise
