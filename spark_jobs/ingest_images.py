"""Reads, hashes and checks photos, and writes the good photos to `raw_images`, the bad ones to quarantine.

Only photos that the store does not know in their present state are read. The files of the other photos stay.
"""

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa
from PIL import Image
from pyspark.sql import SparkSession

from spark_jobs.compact_tables import compact_table
from spark_jobs.convert_store import prepared_store
from spark_jobs.errors import FruitsError
from spark_jobs.in_hand import Hand, forget_hands, photos_in_hand, watched_hand
from spark_jobs.photos.guarded import decode_guarded
from spark_jobs.photos.images import FORMATS, RULES, BadImage, Decoded, preview, thumbnails
from spark_jobs.photos.limits import DEFAULT_LIMITS, Limits
from spark_jobs.photos.metadata import METADATA_RULES, without_metadata
from spark_jobs.photos.model_input import encoded_input, is_stored, preprocessing
from spark_jobs.photos.read_photos import Content, read_ahead
from spark_jobs.remove_metadata import free_photos_of_metadata
from spark_jobs.store.leases import Lease
from spark_jobs.store.parquet import ROW_GROUP_BYTES, ROW_GROUP_IMAGES, PartWriter, write_without
from spark_jobs.store.photos import PHOTO_TABLES, Difference, KnownPhotos, Photo, difference, known_photos
from spark_jobs.store.quarantine import commonest_reasons
from spark_jobs.store.root import Root, concurrently, open_root
from spark_jobs.store.schemas import QUARANTINED_IMAGES, RAW_IMAGES, SCHEMAS
from spark_jobs.store.sweep import sweep_table
from spark_jobs.store.tables import ClassChange, change_classes, compared_again
from spark_jobs.store.versions import Part, combined_version, photos_version
from spark_jobs.tasks import Reporter, even_tasks, run_tasks
from spark_jobs.wire import ClassFigures
from spark_jobs.wording import counted, recompute_hint

# A chunk is the photos of one class in one task, small enough that the last task of a run is short.
CHUNK_IMAGES = 512
CHUNK_BYTES = 64 << 20
# Images of a task, at least and about at most.
LEAST_IMAGES, MOST_IMAGES = 1024, 2048
# Reading and decoding so many bytes takes as long as everything else for an image: a photo of 12 megapixels
# and 3 MB takes 100 ms on a core, and a photo of 100 x 100 pixels 0.5 ms.
_IMAGE_BYTES = 15_000
PREVIEW_IMAGES = 6


@dataclass(frozen=True, kw_only=True)
class IngestParams:
    """Parameters of ingestion, from the root `images` to the root `store`.

    `photos` are all photos of each class to work on. `version` names the run. A photo over `max_bytes` or
    `max_pixels` is quarantined. If more than `max_bad_share` (0 to 1) of the photos of a class are
    quarantined, the class keeps its last version. Replaced files are removed after `keep_hours`. With
    `recompute`, photos that the store knows are read again too. Decoding a photo may take the `limits`; a
    large JPEG is decoded in a smaller scale if `scaled`. Metadata is removed unless `keep_metadata`.
    `erasures` is the version of the list of erasures whose photos are left out of `photos`.
    """

    images: str
    store: str
    version: str
    photos: dict[str, list[Photo]]
    max_bytes: int
    max_pixels: int
    max_bad_share: float
    keep_hours: float
    recompute: bool = False
    limits: Limits = DEFAULT_LIMITS
    scaled: bool = False
    keep_metadata: bool = False
    erasures: str = ""

    @property
    def metadata(self) -> str:
        """The version of the rules by which metadata is removed; empty where it is kept."""
        return "" if self.keep_metadata else METADATA_RULES

    @property
    def rules(self) -> str:
        """The version of the rules by which photos are accepted or refused."""
        numbers = (self.max_bytes, self.max_pixels, *self.limits)
        return combined_version(RULES, *FORMATS, *map(str, numbers))


@dataclass(frozen=True, kw_only=True)
class ClassIngest(ClassFigures):
    """Figures of one class, where found = images + quarantined, and a preview of photos that were read.

    Of the photos that were read, `with_position` came with the position of their maker.
    """

    found: int
    quarantined: int
    with_position: int = 0
    preview_jpeg_base64: str = ""


@dataclass(frozen=True)
class IngestReport:
    """Figures of current classes, and reasons of failed classes."""

    classes: dict[str, ClassIngest]
    failed: dict[str, str]


class _Chunk(NamedTuple):
    """Photos of one class to read. Some of the first chunk of a class become its preview."""

    label: str
    first: bool
    photos: tuple[Photo, ...]


class _Rewrite(NamedTuple):
    """A file of one class to write anew, without some of its photos."""

    label: str
    table: str
    part: Part
    lost: frozenset[str]


@dataclass(kw_only=True)
class _Written:
    """The new files of a class in both tables, its preview, and why the class cannot be replaced."""

    parts: dict[str, list[Part]] = field(default_factory=lambda: {table: [] for table in PHOTO_TABLES})
    preview: bytes = b""
    damage: str = ""
    positions: int = 0

    def add(self, other: "_Written") -> None:
        for table, parts in other.parts.items():
            self.parts[table] += parts
        self.preview = self.preview or other.preview
        self.damage = self.damage or other.damage
        self.positions += other.positions


def differences(params: IngestParams, known: KnownPhotos) -> dict[str, Difference]:
    """How the photos of each class of the parameters differ from those that the store knows."""
    return {
        label: difference(
            photos,
            known.get(label, []),
            rules=params.rules,
            metadata=params.metadata,
            max_bytes=params.max_bytes,
            recompute=params.recompute,
        )
        for label, photos in params.photos.items()
    }


def ingest_images(spark: SparkSession, params: IngestParams, report: Reporter) -> IngestReport:
    """Brings each given class of `raw_images` and `quarantined_images` up to date with its photos.

    A class with too many bad photos keeps its last version, but for the photos that are gone. A class that
    another run changes meanwhile is compared again.
    """
    result = IngestReport({}, {})
    with prepared_store(spark, params.store, params.version, report, params.erasures) as (store, lease):

        def attempt(labels: list[str]) -> set[str]:
            photos = {label: params.photos[label] for label in labels}
            return _ingest_once(spark, replace(params, photos=photos), store, lease, report, result)

        free_photos_of_metadata(spark, store, params.metadata, lease, report)
        result.failed.update(compared_again(params.photos, attempt))
        for table in PHOTO_TABLES:
            compact_table(spark, store, table, lease, report)
        forget_hands(store, params.version)
        keep = timedelta(hours=params.keep_hours)
        concurrently(lambda table: sweep_table(store, table, keep, lease), PHOTO_TABLES)
    return result


def _ingest_once(
    spark: SparkSession,
    params: IngestParams,
    store: Root,
    lease: Lease,
    report: Reporter,
    result: IngestReport,
) -> set[str]:
    """Adds the figures of the classes to the result. Returns the classes that another run has changed."""
    changes = differences(params, known_photos(store, params.photos))
    written = {label: _Written() for label in changes}
    pieces = [piece for label, change in changes.items() for piece in _pieces(label, change)]
    for results in run_tasks(
        spark,
        f"raw_images: ingest, {counted(len(changes), 'class', 'classes')}",
        partial(_ingest, params),
        work=even_tasks(spark, pieces, _weight, least=LEAST_IMAGES, most=MOST_IMAGES),
        images=_images_in,
        report=report,
        in_hand=lambda: photos_in_hand(store, params.version),
    ):
        for label, total in results:
            written[label].add(total)

    figures = {label: _figures(changes[label], written[label]) for label in changes}
    bad = {label for label, found in figures.items() if is_too_bad(found, params.max_bad_share)}
    failed = {label for label in changes if written[label].damage or label in bad}
    met: set[str] = set()
    # The quarantine comes first: a run that is killed in between leaves no photo out of both tables.
    for table in reversed(PHOTO_TABLES):
        committed = {
            label: _class_change(table, change, written[label])
            if table != RAW_IMAGES or label not in bad
            else _losses(store, params.version, change)
            for label, change in changes.items()
            if label not in met and not written[label].damage
        }
        seen = {label: changes[label].seen(table) for label in committed}
        met |= change_classes(store, table, committed, lease, seen)
    done = changes.keys() - met
    result.failed.update(_too_bad(store, params, {label: figures[label] for label in sorted(bad & done)}))
    result.failed.update({label: written[label].damage for label in done if written[label].damage})
    result.classes.update({label: figures[label] for label in sorted(done - failed)})
    return met


def _pieces(label: str, change: Difference) -> Iterator["_Chunk | _Rewrite"]:
    """The work of one class: photos to read, and files that lose some but not all of their photos."""
    if change.to_read:
        yield from _chunks(label, change.to_read)
    for file in change.files:
        lost = change.stale.get(file.path, ())
        if file.part and 0 < len(lost) < len(file.photos):
            yield _Rewrite(label, file.table, file.part, frozenset(lost))


def _weight(piece: "_Chunk | _Rewrite") -> int:
    """How long a piece of work takes, in images of 5 KB."""
    if isinstance(piece, _Rewrite):
        return piece.part.rows
    return sum(max(1, photo.bytes // _IMAGE_BYTES) for photo in piece.photos)


def _images_in(pieces: "list[_Chunk | _Rewrite]") -> int:
    """The number of photos to read."""
    return sum(len(piece.photos) for piece in pieces if isinstance(piece, _Chunk))


def _class_change(table: str, change: Difference, written: _Written) -> ClassChange:
    gone = [file.file.path for file in change.files if file.table == table and file.path in change.stale]
    return ClassChange(written.parts[table], gone)


def _losses(store: Root, run: str, change: Difference) -> ClassChange:
    """The change of a class that keeps its last version: only photos that are gone leave it."""
    added, removed = [], []
    for file in change.files:
        lost = {photo.path for photo in file.photos}.intersection(change.gone)
        if file.table != RAW_IMAGES or not file.part or not lost:
            continue
        with suppress(FruitsError):  # a damaged file stays, and the class fails in any case
            if len(lost) < len(file.photos):
                directory, schema = f"{RAW_IMAGES}/{run}", SCHEMAS[RAW_IMAGES]
                added.append(write_without(store, directory, schema, file.part, lost))
            removed.append(file.file.path)
    return ClassChange(added, removed)


def _figures(change: Difference, written: _Written) -> ClassIngest:
    """The figures of a class whose photos were read."""
    parts = {
        table: [
            *(file.part for file in change.files if file.table == table and file.path not in change.stale),
            *written.parts[table],
        ]
        for table in PHOTO_TABLES
    }
    images, quarantined = ([part for part in parts[table] if part] for table in PHOTO_TABLES)
    rows = sum(part.rows for part in images)
    return ClassIngest(
        found=change.found,
        images=rows,
        quarantined=sum(part.rows for part in quarantined),
        bytes=sum(part.bytes for part in images),
        written_bytes=sum(part.bytes for part in written.parts[RAW_IMAGES]),
        data_version=photos_version(images),
        new=rows - change.kept_images,
        kept=change.kept_images,
        gone=len(change.gone),
        with_position=written.positions,
        preview_jpeg_base64=base64.b64encode(written.preview).decode(),
    )


def is_too_bad(figures: ClassIngest, max_bad_share: float) -> bool:
    """Whether so many photos of a class are bad that it keeps its last version."""
    return figures.quarantined > max_bad_share * figures.found or not figures.images


def _too_bad(store: Root, params: IngestParams, classes: Mapping[str, ClassIngest]) -> dict[str, str]:
    """Why classes with too many bad photos keep their last versions."""
    reasons = commonest_reasons(store, classes)
    return {
        label: (
            f"{figures.quarantined} of {figures.found} photos are bad. "
            + (f"Most often: {reasons[label]}. " if label in reasons else "")
            + f"FRUITS_MAX_BAD_SHARE allows a share of {params.max_bad_share}, and at least one photo must "
            "be good. The last good version of the class, if any, stays current. The table "
            f"{QUARANTINED_IMAGES} gives each photo's reason"
        )
        for label, figures in classes.items()
    }


def up_to_date(
    params: IngestParams, known: KnownPhotos
) -> tuple[dict[str, ClassIngest], dict[str, Difference], dict[str, str]]:
    """The figures of classes whose photos have not changed, and the differences of the other classes.

    `known` are the photos that the store knows. Classes of too many bad photos, and without photos to read,
    are neither: the third value has the reasons.
    """
    current: dict[str, ClassIngest] = {}
    bad: dict[str, ClassIngest] = {}
    changed: dict[str, Difference] = {}
    for label, change in differences(params, known).items():
        figures = _figures(change, _Written())
        kept = replace(figures, images=change.kept_images, quarantined=change.kept_quarantined)
        if not (change.to_read or change.gone) and is_too_bad(kept, params.max_bad_share):
            bad[label] = kept
        elif change.is_empty:
            current[label] = figures
        else:
            changed[label] = change
    return current, changed, _too_bad(open_root(params.store), params, bad)


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


def _ingest(params: IngestParams, pieces: list[_Chunk | _Rewrite]) -> list[tuple[str, _Written]]:
    """One Spark task: reads, checks and writes photos, and writes files anew. It reads ahead over chunks."""
    store = open_root(params.store)
    chunks = [piece for piece in pieces if isinstance(piece, _Chunk)]
    rewrites = [piece for piece in pieces if isinstance(piece, _Rewrite)]
    written = concurrently(
        lambda piece: (piece.label, _rewrite(store, params.version, piece)), rewrites, store.write_threads
    )
    photos = [photo for chunk in chunks for photo in chunk.photos]
    reading = closing(read_ahead(open_root(params.images), photos, params.max_bytes))
    with reading as contents, watched_hand(store, params.version) as hand:
        written += [
            (chunk.label, _ingest_chunk(store, params, chunk, islice(contents, len(chunk.photos)), hand))
            for chunk in chunks
        ]
    return written


def _rewrite(store: Root, run: str, piece: _Rewrite) -> _Written:
    """Writes a file without some of its photos."""
    written = _Written()
    try:
        written.parts[piece.table].append(
            write_without(store, f"{piece.table}/{run}", SCHEMAS[piece.table], piece.part, piece.lost)
        )
    except FruitsError as error:
        written.damage = f"{error}. {recompute_hint(piece.label)}"
    return written


def _ingest_chunk(
    store: Root,
    params: IngestParams,
    chunk: _Chunk,
    contents: Iterator[tuple[Photo, Content]],
    hand: Hand,
) -> _Written:
    """Writes at most one file of good photos and one of bad photos, and keeps photos for the preview.

    Where the disk fails, the chunk is damaged, so that its class keeps all of its photos.
    """
    images, bad = (_Rows(store, table, params) for table in PHOTO_TABLES)
    positions = 0
    previews: list[Image.Image] = []
    every = -(-len(chunk.photos) // PREVIEW_IMAGES)
    damage = ""
    for index, awaited in enumerate(chunk.photos):
        hand.take(awaited.path)
        photo, content = next(contents)
        row: dict[str, Any] = {"path": photo.path, "label": chunk.label, "bytes": photo.bytes}
        row |= {"modified": photo.modified, "etag": photo.etag or None}
        if isinstance(content, OSError):
            damage = f"{photo.path!r} cannot be read: {content.strerror}. The class keeps its last version"
            continue
        try:
            if isinstance(content, BadImage):
                raise content
            sha256 = hashlib.sha256(content).hexdigest()
            row |= {"sha256": sha256, "bytes": len(content)}
            stored, decoded, had_position = accepted(params, content)
        except BadImage as reason:
            bad.add(row | {"reason": str(reason)})
            continue
        positions += had_position
        if chunk.first and index % every == 0:
            previews.append(preview(decoded))
        same = stored == content
        row |= {"content": stored, "sha256_stored": sha256 if same else hashlib.sha256(stored).hexdigest()}
        row |= {"width": decoded.width, "height": decoded.height, "format": decoded.format}
        if is_stored(decoded.width, decoded.height):
            model_input = encoded_input(decoded.image)
            row |= {"input": model_input, "sha256_input": hashlib.sha256(model_input).hexdigest()}
            row |= {"preprocessing": preprocessing(params.scaled)}
        images.add(row)
    return _Written(
        parts={RAW_IMAGES: images.close(), QUARANTINED_IMAGES: bad.close()},
        positions=positions,
        preview=thumbnails(previews),
        damage=damage,
    )


def accepted(params: IngestParams, content: bytes) -> tuple[bytes, Decoded, bool]:
    """The bytes of a photo to store, the decoded photo, and whether it had a position.

    The stored bytes are decoded, so that extraction can decode them too. Raises `BadImage`.
    """

    def decode(stored: bytes) -> Decoded:
        return decode_guarded(stored, params.max_pixels, params.limits, scaled=params.scaled)

    if params.keep_metadata:
        return content, decode(content), False
    try:
        stored, had_position = without_metadata(content)
    except BadImage:
        decode(content)  # raises where the photo is bad itself
        raise
    return stored, decode(stored), had_position


class _Rows:
    """Gathers rows into row groups of one Parquet file, which is created for the first row group.

    Photos with an input of the model have row groups of their own, of which extraction reads no photos.
    """

    def __init__(self, store: Root, table: str, params: IngestParams) -> None:
        self._store = store
        self._params = params
        self._directory = f"{table}/{params.version}"
        self._schema = SCHEMAS[table]
        self._writer: PartWriter | None = None
        self._groups: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
        self._bytes = {False: 0, True: 0}

    def add(self, row: dict[str, Any]) -> None:
        kind, size = "input" in row, len(row.get("content", b""))
        rows = self._groups[kind]
        if len(rows) == ROW_GROUP_IMAGES or (rows and self._bytes[kind] + size > ROW_GROUP_BYTES):
            self._flush(kind)
        self._groups[kind].append(row)
        self._bytes[kind] += size

    def _flush(self, kind: bool) -> None:
        if self._writer is None:
            rules, metadata = self._params.rules, self._params.metadata
            self._writer = PartWriter(
                self._store, self._directory, self._schema, rules=rules, metadata=metadata
            )
        self._writer.write(pa.RecordBatch.from_pylist(self._groups[kind], self._schema))
        self._groups[kind], self._bytes[kind] = [], 0

    def close(self) -> list[Part]:
        for kind, rows in self._groups.items():
            if rows:
                self._flush(kind)
        return [self._writer.close()] if self._writer else []
