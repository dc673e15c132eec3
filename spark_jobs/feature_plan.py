"""What is to do for the features of classes: photos to compute, and features to keep or to copy.

Features belong to the content of a photo, its SHA-256. A photo that has features by the same extractor and
preprocessing, in any class, is not computed again.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain, islice
from typing import NamedTuple

from spark_jobs.errors import FruitsError
from spark_jobs.store.parquet import RowGroup, read_columns
from spark_jobs.store.photos import PHOTO_COLUMNS
from spark_jobs.store.root import Root, concurrently
from spark_jobs.store.schemas import MOBILENET_FEATURES, RAW_IMAGES
from spark_jobs.store.tables import DAMAGED, TableFile, check_inside, files_by_class
from spark_jobs.store.versions import Part

# The columns by which features are known.
FEATURE_COLUMNS = ("path", "sha256")

_NO_IMAGES = "it has no raw_images yet; materialize raw_images for it first"


class Image(NamedTuple):
    """A photo in a file: the number of its row, its path and its SHA-256."""

    row: int
    path: str
    sha256: str


class _File(NamedTuple):
    """A file of a table with its photos, or the damage of a file that cannot be read."""

    path: str
    part: Part | None
    images: Sequence[Image]
    damage: str = ""


class Alike(NamedTuple):
    """A photo with the content of another photo, and where it is in `raw_images`."""

    path: str
    sha256: str
    group: RowGroup


class Take(NamedTuple):
    """Features to copy from one file for one class. The images have the paths of the new rows."""

    label: str
    source: Part
    images: list[Image]


class ClassTakes(NamedTuple):
    """All features to copy for one class."""

    label: str
    takes: Sequence[Take]

    @property
    def rows(self) -> int:
        return sum(len(take.images) for take in self.takes)

    @property
    def bytes(self) -> int:
        return 0  # copying takes about the same time for each row


@dataclass(kw_only=True)
class FeaturePlan:
    """The work of one class: photos to compute, and features to copy.

    `alike` are photos with the content of a photo that is computed. `kept` files stay, the files `removed`
    go, and `seen` are all; paths are relative to the table.
    """

    compute: list[RowGroup] = field(default_factory=list)
    take: list[Take] = field(default_factory=list)
    alike: list[Alike] = field(default_factory=list)
    kept: list[Part] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    gone: int = 0


def plan_features(
    store: Root, classes: Sequence[str], made_with: Mapping[str, str], *, recompute: bool
) -> tuple[dict[str, FeaturePlan], dict[str, str]]:
    """The work of each class, by label, and why classes have failed already.

    Features count if they are `made_with` the same versions. With `recompute`, no features count.
    """
    raw_files, feature_files = concurrently(
        lambda table: files_by_class(store, table), (RAW_IMAGES, MOBILENET_FEATURES)
    )
    raw = _files(store, RAW_IMAGES, raw_files, classes)
    failed = {label: _NO_IMAGES for label in classes if label not in raw}
    failed |= {
        label: next(file.damage for file in files if file.damage)
        for label, files in raw.items()
        if any(file.damage for file in files)
    }
    features = _files(store, MOBILENET_FEATURES, feature_files, classes)
    usable = None if recompute else made_with
    plans: dict[str, FeaturePlan] = {}
    missing: dict[str, list[tuple[_File, Image]]] = {}
    for label in sorted(raw.keys() - failed.keys()):
        wanted = {image.path: image.sha256 for file in raw[label] for image in file.images}
        plans[label], served = _kept(label, wanted, features.get(label, []), usable)
        missing[label] = [
            (file, image) for file in raw[label] for image in file.images if image.path not in served
        ]
    sources: dict[str, tuple[Part, int]] = {}
    if usable and any(missing.values()):
        others = _files(store, MOBILENET_FEATURES, feature_files, feature_files.keys() - features.keys())
        every = chain.from_iterable((*features.values(), *others.values()))
        sources = _sources(file for file in every if file.part and file.part.made_with == usable)
    computed: set[str] = set()
    for label, images in missing.items():
        taken: dict[str, list[Image]] = defaultdict(list)
        to_compute: dict[str, list[Image]] = defaultdict(list)
        parts = {file.path: file.part for file in raw[label] if file.part}
        for file, image in images:
            if source := sources.get(image.sha256):
                taken[source[0].path].append(Image(source[1], image.path, image.sha256))
                parts[source[0].path] = source[0]
            elif image.sha256 in computed:
                [alone] = _row_groups(label, parts[file.path], [image])
                plans[label].alike.append(Alike(image.path, image.sha256, alone))
            else:
                computed.add(image.sha256)
                to_compute[file.path].append(image)
        plans[label].take += [Take(label, parts[path], rows) for path, rows in taken.items()]
        for path, rows in to_compute.items():
            plans[label].compute += _row_groups(label, parts[path], rows)
    return plans, failed


def _files(
    store: Root, table: str, files: Mapping[str, Sequence[TableFile]], labels: Iterable[str]
) -> dict[str, list[_File]]:
    """The files, with their photos, of each given class that has any among all files of a table, by label."""
    found = {label: files[label] for label in labels if label in files}
    places = [(f"{table}/{file.path}", file.bytes) for files in found.values() for file in files]
    read = iter(_read_files(store, table, places))
    return {
        label: sorted(islice(read, len(files)), key=lambda file: [image.path for image in file.images[:1]])
        for label, files in found.items()
    }


def _read_files(store: Root, table: str, places: Sequence[tuple[str, int]]) -> list[_File]:
    """Files of a table with their photos, in their order. `places` are their paths and sizes in bytes."""

    # Ingestion has read these columns of the photos.
    columns = PHOTO_COLUMNS if table == RAW_IMAGES else FEATURE_COLUMNS

    def read(place: tuple[str, int]) -> _File:
        path, size = place
        try:
            check_inside(store, table, path)
            part, rows = read_columns(store, path, size, columns)
        except FruitsError as error:
            return _File(path, None, [], f"{error}. {DAMAGED.format(table=table)}")
        values = zip(*(rows.column(name).to_pylist() for name in ("path", "sha256")), strict=True)
        return _File(path, part, [Image(row, *image) for row, image in enumerate(values)])

    return concurrently(read, places)


def _kept(
    label: str, wanted: Mapping[str, str], files: Sequence[_File], made_with: Mapping[str, str] | None
) -> tuple[FeaturePlan, set[str]]:
    """What stays of the features of a class, and the paths of the photos that it serves.

    A file that has rows of other photos is replaced by a copy without them.
    """
    plan = FeaturePlan(gone=len({image.path for file in files for image in file.images} - wanted.keys()))
    served: set[str] = set()
    for file in files:
        path = file.path.removeprefix(f"{MOBILENET_FEATURES}/")
        plan.seen.append(path)
        valid = file.part and file.part.made_with == made_with
        fitting = [
            image
            for image in file.images
            if valid and wanted.get(image.path) == image.sha256 and image.path not in served
        ]
        served |= {image.path for image in fitting}
        if file.part and valid and len(fitting) == len(file.images):
            plan.kept.append(file.part)
            continue
        plan.removed.append(path)
        if file.part and fitting:
            plan.take.append(Take(label, file.part, fitting))
    return plan, served


def _sources(files: Iterable[_File]) -> dict[str, tuple[Part, int]]:
    """Where the features of each photo are, by its SHA-256: the file and the number of the row."""
    return {image.sha256: (file.part, image.row) for file in files if file.part for image in file.images}


def _row_groups(label: str, part: Part, images: Sequence[Image]) -> list[RowGroup]:
    """The row groups of a file that hold the photos, each with the numbers of their rows in it."""
    ends = list(accumulate(part.row_groups))
    picked: dict[int, list[int]] = defaultdict(list)
    for image in images:
        number = bisect_right(ends, image.row)
        picked[number].append(image.row - (ends[number] - part.row_groups[number]))
    return [
        RowGroup(
            label,
            part.path,
            number,
            len(rows),
            tuple(rows) if len(rows) < part.row_groups[number] else None,
            len(rows) * part.bytes // part.rows,
        )
        for number, rows in picked.items()
    ]


def copies_of_computed(
    store: Root, alike: Sequence[Alike], parts: Sequence[Part]
) -> tuple[list[Take], list[Alike]]:
    """Copies of features in new files for photos with the same content, and the photos without features."""
    where = _sources(_read_files(store, MOBILENET_FEATURES, [(part.path, part.bytes) for part in parts]))
    taken: dict[tuple[str, str], Take] = {}
    for photo in alike:
        if source := where.get(photo.sha256):
            label, (part, row) = photo.group.label, source
            take = taken.setdefault((label, part.path), Take(label, part, []))
            take.images.append(Image(row, photo.path, photo.sha256))
    return list(taken.values()), [photo for photo in alike if photo.sha256 not in where]
