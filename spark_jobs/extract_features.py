"""Decodes and resizes the photos of `raw_images`, and writes their features to `mobilenet_features`.

Features belong to the content of a photo, its SHA-256. A photo that has features by the same extractor and
preprocessing, in any class, is not computed again: its features stay, or are copied.
"""

import hashlib
import sys
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from itertools import accumulate, chain, groupby, islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from spark_jobs.compact_tables import compact_table
from spark_jobs.convert_store import prepared_store
from spark_jobs.dimensions import FEATURES, IMAGE_SIDE
from spark_jobs.errors import FruitsError
from spark_jobs.images import PREPROCESSING, decode, model_input
from spark_jobs.inference import Extractor, load_extractor
from spark_jobs.store.classes import FORGOTTEN, forgotten
from spark_jobs.store.leases import Lease
from spark_jobs.store.parquet import (
    ROW_GROUP_IMAGES,
    PartWriter,
    RowGroup,
    read_columns,
    read_row_groups,
    rows_in,
    vectors_at,
    vectors_column,
)
from spark_jobs.store.root import IO_THREADS, Root, open_root
from spark_jobs.store.schemas import FEATURE_EXTRACTOR, MOBILENET_FEATURES, RAW_IMAGES, SCHEMAS
from spark_jobs.store.sweep import sweep_table
from spark_jobs.store.tables import (
    CHANGED_MEANWHILE,
    DAMAGED,
    MOST_ATTEMPTS,
    ClassChange,
    change_classes,
    check_inside,
    class_version,
    current,
    files_by_class,
    replace_classes,
)
from spark_jobs.store.versions import Part, Version, classes_behind
from spark_jobs.tasks import Reporter, even_tasks, run_tasks
from spark_jobs.wire import ClassFigures
from spark_jobs.wording import counted, recompute_hint

# Images of a task, at least and about at most.
LEAST_IMAGES, MOST_IMAGES = 128, 2048

# The new file of each class, or the reason why the class has failed.
_Results = list[tuple[str, "Part | str"]]

_NO_IMAGES = "it has no raw_images yet; materialize raw_images for it first"


@dataclass(frozen=True, kw_only=True)
class ExtractParams:
    """Parameters of the extraction: the classes, and the extractor.

    The extractor is given by its directory, relative to the store, its SHA-256 and its data version. With
    `recompute`, the photos of the classes are computed again, whatever features they have.
    """

    store: str
    version: str
    classes: list[str]
    extractor_directory: str
    extractor_sha256: str
    extractor_version: str
    keep_hours: float
    recompute: bool = False

    @property
    def made_with(self) -> dict[str, str]:
        """The versions of what makes features, apart from the photos."""
        return {FEATURE_EXTRACTOR: self.extractor_version, "preprocessing": PREPROCESSING}


@dataclass(frozen=True, kw_only=True)
class ClassFeatures(ClassFigures):
    """Figures of one class.

    `non_finite` counts the feature vectors with NaN or infinity, `constant` those whose values are all the
    same. Both should be 0.
    """

    non_finite: int
    constant: int


@dataclass(frozen=True)
class ExtractReport:
    """Figures of current classes, and reasons of failed classes."""

    classes: dict[str, ClassFeatures]
    failed: dict[str, str]


class _Image(NamedTuple):
    """A photo in a file: the number of its row, its path and its SHA-256."""

    row: int
    path: str
    sha256: str


class _File(NamedTuple):
    """A file of a table with its photos, or the damage of a file that cannot be read."""

    path: str
    part: Part | None
    images: Sequence[_Image]
    damage: str = ""


class _Alike(NamedTuple):
    """A photo with the content of another photo, and where it is in `raw_images`."""

    path: str
    sha256: str
    group: RowGroup


class _Take(NamedTuple):
    """Features to copy from one file for one class. The images have the paths of the new rows."""

    label: str
    source: Part
    images: Sequence[_Image]


class _ClassTakes(NamedTuple):
    """All features to copy for one class."""

    label: str
    takes: Sequence[_Take]

    @property
    def rows(self) -> int:
        return sum(len(take.images) for take in self.takes)


@dataclass(kw_only=True)
class _Plan:
    """The work of one class: photos to compute, and features to copy.

    `alike` are photos with the content of a photo that is computed. `kept` files stay, the files `removed`
    go, and `seen` are all; paths are relative to the table.
    """

    compute: list[RowGroup] = field(default_factory=list)
    take: list[_Take] = field(default_factory=list)
    alike: list[_Alike] = field(default_factory=list)
    kept: list[Part] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    gone: int = 0


def up_to_date(store: Root, params: ExtractParams) -> dict[str, ClassFeatures]:
    """The figures of the classes that have features of all their photos, by the present extractor."""
    if params.recompute:
        return {}
    images = current(store, RAW_IMAGES, params.classes)
    features = current(store, MOBILENET_FEATURES, params.classes)
    behind = classes_behind(features, images, source=RAW_IMAGES, other_inputs=params.made_with)
    return {
        label: _figures(version, new=0, gone=0, written=0)
        for label, version in features.items()
        if label not in behind and not images[label].damage
    }


def extract_features(spark: SparkSession, params: ExtractParams, report: Reporter) -> ExtractReport:
    """Brings each given class of `mobilenet_features` up to date with the current `raw_images`.

    A class of which a file or a photo was lost or changed fails, and keeps its last version. A class that
    another run changes meanwhile is compared again.
    """
    result = ExtractReport({}, {})
    with prepared_store(spark, params.store, params.version, report) as (store, lease):
        pending = params.classes
        for _ in range(MOST_ATTEMPTS):
            met = _extract_once(spark, replace(params, classes=pending), store, lease, report, result)
            pending = sorted(met)
            if not pending:
                break
            # `fruits forget` may be what has changed them.
            result.failed.update(dict.fromkeys(forgotten(store, pending, RAW_IMAGES), FORGOTTEN))
            pending = [label for label in pending if label not in result.failed]
        result.failed.update(dict.fromkeys(pending, CHANGED_MEANWHILE))
        if gone := forgotten(store, result.classes, RAW_IMAGES):
            replace_classes(store, MOBILENET_FEATURES, dict.fromkeys(gone, ()), lease)
            for label in gone:
                del result.classes[label]
                result.failed[label] = FORGOTTEN
        compact_table(spark, store, MOBILENET_FEATURES, lease, report)
        sweep_table(store, MOBILENET_FEATURES, timedelta(hours=params.keep_hours), lease)
    return result


def _extract_once(
    spark: SparkSession,
    params: ExtractParams,
    store: Root,
    lease: Lease,
    report: Reporter,
    result: ExtractReport,
) -> set[str]:
    """Adds the figures of the classes to the result. Returns the classes that another run has changed."""
    plans, failed = _plans(store, params)
    new: dict[str, list[Part]] = defaultdict(list)

    def run(verb: str, function: Callable[[list[Any]], _Results], pieces: Sequence[Any]) -> None:
        for results in run_tasks(
            spark,
            f"mobilenet_features: {verb}, {counted(len(plans), 'class', 'classes')}",
            function,
            work=even_tasks(spark, pieces, lambda piece: piece.rows, least=LEAST_IMAGES, most=MOST_IMAGES),
            images=lambda pieces: rows_in(pieces) if verb == "extract" else 0,
            report=report,
        ):
            for label, part in results:
                if isinstance(part, str):
                    failed[label] = part
                else:
                    new[label].append(part)

    groups = [group for plan in plans.values() for group in plan.compute]
    alike = [photo for plan in plans.values() for photo in plan.alike]
    takes = [take for plan in plans.values() for take in plan.take]
    while groups:
        run("extract", partial(_extract, params), groups)
        written = [part for parts in new.values() for part in parts]
        found, waiting = _copies(store, alike, written) if alike else ([], [])
        takes += found
        # Where a class has failed, its photos were not computed for the other classes that have them.
        waiting = [photo for photo in waiting if photo.group.label not in failed]
        first = {photo.sha256: photo for photo in reversed(waiting)}
        groups = [photo.group for photo in first.values()]
        alike = [photo for photo in waiting if photo is not first[photo.sha256]]
    computed = {label: sum(part.rows for part in parts) for label, parts in new.items()}
    by_class = groupby(sorted(takes, key=lambda take: take.label), key=lambda take: take.label)
    run("copy", partial(_copy, params), [_ClassTakes(label, list(own)) for label, own in by_class])
    done = {label: plan for label, plan in plans.items() if label not in failed}
    changes = {label: ClassChange(new[label], plan.removed) for label, plan in done.items()}
    seen = {label: plan.seen for label, plan in done.items()}
    met = change_classes(store, MOBILENET_FEATURES, changes, lease, seen)
    result.failed.update(failed)
    for label in sorted(done.keys() - met):
        version = class_version(MOBILENET_FEATURES, label, [*done[label].kept, *new[label]])
        result.classes[label] = _figures(
            version,
            new=computed.get(label, 0),
            gone=done[label].gone,
            written=sum(part.bytes for part in new[label]),
        )
    return met


def _figures(version: Version, *, new: int, gone: int, written: int) -> ClassFeatures:
    return ClassFeatures(
        images=version.rows,
        bytes=version.bytes,
        data_version=version.data_version,
        new=new,
        kept=version.rows - new,
        gone=gone,
        written_bytes=written,
        **version.details,
    )


def _plans(store: Root, params: ExtractParams) -> tuple[dict[str, _Plan], dict[str, str]]:
    """The work of each class, by label, and why classes have failed already."""
    raw = _files(store, RAW_IMAGES, params.classes)
    failed = {label: _NO_IMAGES for label in params.classes if label not in raw}
    failed |= {
        label: next(file.damage for file in files if file.damage)
        for label, files in raw.items()
        if any(file.damage for file in files)
    }
    features = _files(store, MOBILENET_FEATURES, params.classes)
    plans: dict[str, _Plan] = {}
    missing: dict[str, list[tuple[_File, _Image]]] = {}
    for label in sorted(raw.keys() - failed.keys()):
        wanted = {image.path: image.sha256 for file in raw[label] for image in file.images}
        plans[label], served = _kept(label, wanted, features.get(label, []), params)
        missing[label] = [
            (file, image) for file in raw[label] for image in file.images if image.path not in served
        ]
    sources = {} if params.recompute or not any(missing.values()) else _by_content(store, params, features)
    computed: set[str] = set()
    for label, images in missing.items():
        taken: dict[str, list[_Image]] = defaultdict(list)
        to_compute: dict[str, list[_Image]] = defaultdict(list)
        parts = {file.path: file.part for file in raw[label] if file.part}
        for file, image in images:
            if source := sources.get(image.sha256):
                taken[source[0].path].append(_Image(source[1], image.path, image.sha256))
                parts[source[0].path] = source[0]
            elif image.sha256 in computed:
                [alone] = _row_groups(label, parts[file.path], [image])
                plans[label].alike.append(_Alike(image.path, image.sha256, alone))
            else:
                computed.add(image.sha256)
                to_compute[file.path].append(image)
        plans[label].take += [_Take(label, parts[path], rows) for path, rows in taken.items()]
        for path, rows in to_compute.items():
            plans[label].compute += _row_groups(label, parts[path], rows)
    return plans, failed


def _files(store: Root, table: str, labels: Iterable[str]) -> dict[str, list[_File]]:
    """The files, with their photos, of each given class that has any in a table, by label."""
    found = files_by_class(store, table, labels)
    places = [(f"{table}/{file.path}", file.bytes) for files in found.values() for file in files]
    read = iter(_read_files(store, table, places))
    return {
        label: sorted(islice(read, len(files)), key=lambda file: [image.path for image in file.images[:1]])
        for label, files in found.items()
    }


def _read_files(store: Root, table: str, places: Sequence[tuple[str, int]]) -> list[_File]:
    """Files of a table with their photos, in their order. `places` are their paths and sizes in bytes."""

    def read(place: tuple[str, int]) -> _File:
        path, size = place
        try:
            check_inside(store, table, path)
            part, rows = read_columns(store, path, size, ["path", "sha256"])
        except FruitsError as error:
            return _File(path, None, [], f"{error}. {DAMAGED.format(table=table)}")
        values = zip(*(rows.column(name).to_pylist() for name in ("path", "sha256")), strict=True)
        return _File(path, part, [_Image(row, *image) for row, image in enumerate(values)])

    with ThreadPoolExecutor(IO_THREADS) as pool:
        return list(pool.map(read, places))


def _kept(
    label: str, wanted: Mapping[str, str], files: Sequence[_File], params: ExtractParams
) -> tuple[_Plan, set[str]]:
    """What stays of the features of a class, and the paths of the photos that it serves.

    A file that has rows of other photos is replaced by a copy without them.
    """
    plan = _Plan(gone=len({image.path for file in files for image in file.images} - wanted.keys()))
    served: set[str] = set()
    for file in files:
        path = file.path.removeprefix(f"{MOBILENET_FEATURES}/")
        plan.seen.append(path)
        valid = file.part and file.part.made_with == params.made_with and not params.recompute
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
            plan.take.append(_Take(label, file.part, fitting))
    return plan, served


def _by_content(
    store: Root, params: ExtractParams, own: Mapping[str, list[_File]]
) -> dict[str, tuple[Part, int]]:
    """Where the features of each photo of the store are, by SHA-256: the file and the number of the row."""
    others = files_by_class(store, MOBILENET_FEATURES).keys() - own.keys()
    files = chain.from_iterable((*own.values(), *_files(store, MOBILENET_FEATURES, others).values()))
    return _sources(file for file in files if file.part and file.part.made_with == params.made_with)


def _sources(files: Iterable[_File]) -> dict[str, tuple[Part, int]]:
    return {image.sha256: (file.part, image.row) for file in files if file.part for image in file.images}


def _row_groups(label: str, part: Part, images: Sequence[_Image]) -> list[RowGroup]:
    """The row groups of a file that hold the photos, each with the numbers of their rows in it."""
    ends = list(accumulate(part.row_groups))
    picked: dict[int, list[int]] = defaultdict(list)
    for image in images:
        number = bisect_right(ends, image.row)
        picked[number].append(image.row - (ends[number] - part.row_groups[number]))
    return [RowGroup(label, part.path, number, len(rows), tuple(rows)) for number, rows in picked.items()]


def _copies(store: Root, alike: Sequence[_Alike], parts: Sequence[Part]) -> tuple[list[_Take], list[_Alike]]:
    """Copies of features in new files for photos with the same content, and the photos without features."""
    where = _sources(_read_files(store, MOBILENET_FEATURES, [(part.path, part.bytes) for part in parts]))
    takes = [
        _Take(photo.group.label, source[0], [_Image(source[1], photo.path, photo.sha256)])
        for photo in alike
        if (source := where.get(photo.sha256))
    ]
    return takes, [photo for photo in alike if photo.sha256 not in where]


def _extract(params: ExtractParams, groups: list[RowGroup]) -> _Results:
    """One Spark task: writes the features of its photos, one file for each class.

    Returns each class with its file, or with the reason where one of its files is missing or damaged.
    """
    store = open_root(params.store)
    extractor = load_extractor(params.store, params.extractor_directory, params.extractor_sha256)
    by_class = groupby(groups, key=lambda group: group.label)
    return [
        (label, _written(store, params, label, features_of(_read(store, list(own)), extractor)))
        for label, own in by_class
    ]


def _copy(params: ExtractParams, classes: list[_ClassTakes]) -> _Results:
    """One Spark task: copies features, to one file for each class. Returns the same as `_extract`."""
    store = open_root(params.store)
    return [(own.label, _written(store, params, own.label, _taken(store, own.takes))) for own in classes]


def _taken(store: Root, takes: Sequence[_Take]) -> Iterator[tuple[pa.RecordBatch, NDArray[np.float32]]]:
    """The new rows of copied features, and the features."""
    for take in takes:
        for start in range(0, len(take.images), ROW_GROUP_IMAGES):
            images = take.images[start : start + ROW_GROUP_IMAGES]
            rows = {
                "path": [image.path for image in images],
                "label": [take.label] * len(images),
                "sha256": [image.sha256 for image in images],
            }
            yield (
                pa.RecordBatch.from_pydict(rows),
                vectors_at(store, take.source, [image.row for image in images]),
            )


def _written(
    store: Root,
    params: ExtractParams,
    label: str,
    batches: Iterable[tuple[pa.RecordBatch, NDArray[np.float32]]],
) -> Part | str:
    """A new file of a class in `mobilenet_features`, or the reason where it reads a damaged file."""
    schema = SCHEMAS[MOBILENET_FEATURES]
    writer = PartWriter(store, f"{MOBILENET_FEATURES}/{params.version}", schema, params.made_with)
    non_finite = constant = 0
    try:
        for images, features in batches:
            non_finite += int(np.count_nonzero(~np.isfinite(features).all(axis=1)))
            constant += int(np.count_nonzero(np.ptp(features, axis=1) == 0))
            rows = [*(images.column(name) for name in ("path", "label", "sha256")), vectors_column(features)]
            writer.write(pa.RecordBatch.from_arrays(rows, schema=schema))
    except FruitsError as error:
        return f"{error}. {recompute_hint(label)}"
    return writer.close(non_finite=non_finite, constant=constant)


def _read(store: Root, groups: list[RowGroup]) -> Iterator[pa.RecordBatch]:
    """The photos of each row group, as one record batch.

    Raises `FruitsError` where a file or a photo is not as ingestion wrote it.
    """
    for path, part_groups in groupby(groups, key=lambda group: group.path):
        picked = list(part_groups)
        numbers = [group.number for group in picked]
        batches = read_row_groups(store, path, numbers, ["path", "label", "sha256", "content"])
        for group, whole in zip(picked, batches, strict=True):
            batch = whole if group.picks is None else whole.take(pa.array(group.picks))
            columns = (batch.column(name) for name in ("path", "sha256", "content"))
            for photo, sha256, content in zip(*columns, strict=True):
                if hashlib.sha256(content.as_buffer()).hexdigest() != sha256.as_py():
                    raise FruitsError(
                        f"the photo {photo.as_py()} in {store.uri_of(path)} does not match its SHA-256: the "
                        "file was changed after it was written"
                    )
            yield batch


def features_of(
    photos: Iterable[pa.RecordBatch], extractor: Extractor
) -> Iterator[tuple[pa.RecordBatch, NDArray[np.float32]]]:
    """Yields each record batch with the features of its photos: (n, 1280) float32 for n photos.

    The column `content` of a record batch holds the bytes of the photos.
    """
    image = np.empty((IMAGE_SIDE, IMAGE_SIDE, 3), np.float32)
    for batch in photos:
        features = np.empty((batch.num_rows, FEATURES), np.float32)
        for content, vector in zip(batch.column("content"), features, strict=True):
            # No limit here: ingestion has applied the limits that were set at its time.
            decoded = decode(content.as_py(), max_pixels=sys.maxsize)
            vector[:] = extractor(model_input(decoded.image, out=image))
        yield batch, features
