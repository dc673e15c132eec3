"""What the store knows of the photos of a class, and how the folders of the photos differ from it."""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from spark_jobs.errors import FruitsError
from spark_jobs.store.parquet import read_columns
from spark_jobs.store.root import Root, concurrently
from spark_jobs.store.schemas import QUARANTINED_IMAGES, RAW_IMAGES
from spark_jobs.store.tables import TableFile, check_inside, files_by_class, version_of
from spark_jobs.store.versions import Part, Version

# The columns by which a photo is known.
PHOTO_COLUMNS = ("path", "bytes", "modified", "etag", "sha256")

_CONTENTS = pa.schema([(name, pa.string()) for name in ("path", "sha256", "label")])

# The two tables that a photo can be in.
PHOTO_TABLES = (RAW_IMAGES, QUARANTINED_IMAGES)


class Photo(NamedTuple):
    """One file: path relative to the root, size in bytes, modification time in microseconds since 1970 (UTC).

    `etag` is that of an object on S3; on disk it is empty.
    """

    path: str
    bytes: int
    modified: int
    etag: str = ""

    @property
    def state(self) -> tuple[int, int | str]:
        """The size, and the ETag or else the time. A photo with the same state has the same content."""
        return self.bytes, self.etag or self.modified


class PhotoFile(NamedTuple):
    """A file of `raw_images` or of `quarantined_images`, and its photos as they were when they were read.

    `hashes` are their SHA-256 values; a photo that could not be read has none. A file that is missing or
    damaged has no part and no photos, but its `damage`.
    """

    table: str
    file: TableFile
    part: Part | None
    photos: Sequence[Photo]
    hashes: Sequence[str | None]
    damage: str = ""

    @property
    def path(self) -> str:
        """The path of the file, relative to the store."""
        return f"{self.table}/{self.file.path}"


class Difference(NamedTuple):
    """How the photos of a class differ from what the store knows of them.

    `new` photos have a path that the store does not know. `changed` photos have another state. Photos to
    check `again` could not be read, or were checked by other rules. `gone` are the paths of photos that the
    folders do not have. `found` photos are in the folders, and `known` paths in the store. `stale` has, for
    each file that changes, the photos that it loses, by the path of the file. The kept counts are of the
    photos whose rows stay.
    """

    found: int
    known: int
    new: Sequence[Photo]
    changed: Sequence[Photo]
    again: Sequence[Photo]
    gone: Sequence[str]
    stale: Mapping[str, Collection[str]]
    files: Sequence[PhotoFile]
    kept_images: int
    kept_quarantined: int

    @property
    def to_read(self) -> list[Photo]:
        """The photos to read, sorted by path."""
        return sorted((*self.new, *self.changed, *self.again))

    @property
    def is_empty(self) -> bool:
        return not self.stale and not (self.new or self.changed or self.again)

    def seen(self, table: str) -> list[str]:
        """The paths, relative to a table, of its files."""
        return [known.file.path for known in self.files if known.table == table]


KnownPhotos = Mapping[str, Sequence[PhotoFile]]


def known_photos(store: Root, labels: Iterable[str] | None = None) -> KnownPhotos:
    """The files of both tables of photos, of each class or of each given class that has any, by label."""
    wanted = None if labels is None else set(labels)
    logs = concurrently(lambda table: files_by_class(store, table, wanted), PHOTO_TABLES)
    found = [
        (table, file)
        for table, log in zip(PHOTO_TABLES, logs, strict=True)
        for files in log.values()
        for file in files
    ]
    known: dict[str, list[PhotoFile]] = defaultdict(list)
    for read in concurrently(lambda place: _photo_file(store, *place), found):
        known[read.file.label].append(read)
    return dict(known)


def _photo_file(store: Root, table: str, file: TableFile) -> PhotoFile:
    try:
        check_inside(store, table, f"{table}/{file.path}")
        part, rows = read_columns(store, f"{table}/{file.path}", file.bytes, PHOTO_COLUMNS)
    except FruitsError as error:
        return PhotoFile(table, file, None, (), (), str(error))
    times = rows.column("modified").cast(pa.int64())
    values = rows.set_column(PHOTO_COLUMNS.index("modified"), "modified", times).to_pydict()
    known = zip(*(values[name] for name in PHOTO_COLUMNS[:-1]), strict=True)
    photos = [Photo(path, size or 0, modified or 0, etag or "") for path, size, modified, etag in known]
    return PhotoFile(table, file, part, photos, values["sha256"])


def check_sha256(file: str, photo: str, content: bytes | pa.Buffer, sha256: str) -> None:
    """Raises `FruitsError` where the content of a photo in a file is not the content that was written."""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise FruitsError(
            f"the photo {photo} in {file} does not match its SHA-256: the file was changed after it was "
            "written"
        )


class Double(NamedTuple):
    """Photos of `raw_images` with the same content: their paths and their classes."""

    paths: Sequence[str]
    labels: Sequence[str]

    @property
    def across_classes(self) -> bool:
        return len(set(self.labels)) > 1


def doubles(store: Root) -> list[Double]:
    """The photos of all classes that are there more than once. Damaged files are left out."""
    files = [file for own in files_by_class(store, RAW_IMAGES).values() for file in own]

    def content(file: TableFile) -> pa.Table:
        try:
            check_inside(store, RAW_IMAGES, f"{RAW_IMAGES}/{file.path}")
            _, rows = read_columns(store, f"{RAW_IMAGES}/{file.path}", file.bytes, PHOTO_COLUMNS)
        except FruitsError:
            return _CONTENTS.empty_table()
        return rows.select(["path", "sha256"]).append_column("label", pa.repeat(file.label, rows.num_rows))

    photos = pa.concat_tables([_CONTENTS.empty_table(), *concurrently(content, files)])
    counts = photos.group_by("sha256").aggregate([("path", "count")])
    several = counts.filter(pc.greater(counts.column("path_count"), 1)).column("sha256")
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    rows = photos.filter(pc.is_in(photos.column("sha256"), several)).sort_by("path").to_pydict()
    for path, sha256, label in zip(rows["path"], rows["sha256"], rows["label"], strict=True):
        found[sha256].append((path, label))
    return [Double([path for path, _ in places], [label for _, label in places]) for places in found.values()]


def image_versions(known: KnownPhotos) -> dict[str, Version]:
    """The current version of each class of `raw_images`, by label, as `current` returns it."""
    versions = {}
    for label in sorted(known):
        files = [file for file in known[label] if file.table == RAW_IMAGES]
        if files:
            said = [(file.file, file.part, file.damage) for file in files]
            versions[label] = version_of(RAW_IMAGES, label, said)
    return versions


def difference(
    listed: Sequence[Photo],
    files: Sequence[PhotoFile],
    *,
    rules: str,
    metadata: str,
    max_bytes: int,
    recompute: bool = False,
) -> Difference:
    """Compares the photos of a class in the folders with the files of the class in the store.

    A row stays if its photo has the same state, was accepted or refused by the same `rules`, and lost its
    metadata by the same rules, `metadata`. A photo of more than `max_bytes` is refused without being read.
    With `recompute`, no row stays.
    """
    present = {photo.path: photo for photo in listed}
    places: dict[str, list[PhotoFile]] = defaultdict(list)
    known: dict[str, set[tuple[int, int | str]]] = defaultdict(set)
    for file in files:
        for photo, sha256 in zip(file.photos, file.hashes, strict=True):
            known[photo.path].add(photo.state)
            listed_now = present.get(photo.path)
            decided = sha256 is not None or photo.bytes > max_bytes
            made = (file.part.rules, file.part.metadata) if file.part else None
            same_rules = made == (rules, metadata) and not recompute
            if listed_now is not None and listed_now.state == photo.state and decided and same_rules:
                places[photo.path].append(file)
    # A photo that is in two files is read again: a run was killed between the commits to the two tables.
    kept = {path: where[0] for path, where in places.items() if len(where) == 1}
    lost = {
        file.path: {photo.path for photo in file.photos if kept.get(photo.path) is not file} for file in files
    }
    to_read = [photo for photo in listed if photo.path not in kept]
    tables = [file.table for file in kept.values()]
    return Difference(
        found=len(listed),
        known=len(known),
        new=[photo for photo in to_read if photo.path not in known],
        changed=[photo for photo in to_read if photo.path in known and photo.state not in known[photo.path]],
        again=[photo for photo in to_read if photo.state in known.get(photo.path, ())],
        gone=[path for path in known if path not in present],
        stale={file.path: lost[file.path] for file in files if lost[file.path] or file.part is None},
        files=files,
        kept_images=tables.count(RAW_IMAGES),
        kept_quarantined=tables.count(QUARANTINED_IMAGES),
    )
