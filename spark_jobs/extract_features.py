"""Decodes and resizes the photos of `raw_images`, and writes their features to `mobilenet_features`.

Features that are there already stay, or are copied: see `feature_plan`.
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from spark_jobs.compact_tables import compact_table
from spark_jobs.convert_store import prepared_store
from spark_jobs.dimensions import FEATURES, IMAGE_SIDE
from spark_jobs.errors import FruitsError
from spark_jobs.feature_plan import ClassTakes, Take, copies_of_computed, plan_features
from spark_jobs.inference import Extractor, load_extractor
from spark_jobs.photos.guarded import decode_guarded
from spark_jobs.photos.images import BadImage
from spark_jobs.photos.limits import DEFAULT_LIMITS, Limits
from spark_jobs.photos.model_input import decoded_input, model_input, preprocessing
from spark_jobs.store.classes import FORGOTTEN, forgotten
from spark_jobs.store.leases import Lease
from spark_jobs.store.parquet import (
    ROW_GROUP_IMAGES,
    PartWriter,
    RowGroup,
    read_row_groups,
    rows_in,
    vectors_at,
    vectors_column,
)
from spark_jobs.store.photos import check_sha256
from spark_jobs.store.root import Root, concurrently, open_root
from spark_jobs.store.schemas import FEATURE_EXTRACTOR, MOBILENET_FEATURES, RAW_IMAGES, SCHEMAS
from spark_jobs.store.sweep import sweep_table
from spark_jobs.store.tables import (
    ClassChange,
    change_classes,
    class_version,
    compared_again,
    replace_classes,
)
from spark_jobs.store.versions import Part, Version, classes_behind
from spark_jobs.tasks import Reporter, even_tasks, run_tasks
from spark_jobs.wire import ClassFigures
from spark_jobs.wording import counted, recompute_hint

# Images of a task, at least and about at most.
LEAST_IMAGES, MOST_IMAGES = 128, 2048
# Decoding and resizing so many bytes of a photo takes as long as the inference of an image: a photo of 12
# megapixels and 3 MB takes 180 ms on a core, and an inference 7 to 13 ms.
_IMAGE_BYTES = 150_000

# What extraction reads of a photo, and its hash.
_INPUT, _CONTENT = ("input", "sha256_input"), ("content", "sha256_stored")

# The new file of each class, or the reason why the class has failed.
_Results = list[tuple[str, "Part | str"]]


@dataclass(frozen=True, kw_only=True)
class ExtractParams:
    """Parameters of the extraction: the classes, and the extractor.

    The extractor is given by its directory, relative to the store, its SHA-256 and its data version. With
    `recompute`, the photos of the classes are computed again, whatever features they have. Decoding a photo
    may take the `limits`; a large JPEG is decoded in a smaller scale if `scaled`.
    """

    store: str
    version: str
    classes: list[str]
    extractor_directory: str
    extractor_sha256: str
    extractor_version: str
    keep_hours: float
    recompute: bool = False
    limits: Limits = DEFAULT_LIMITS
    scaled: bool = False

    @property
    def made_with(self) -> dict[str, str]:
        """The versions of what makes features, apart from the photos."""
        return made_with(self.extractor_version, self.scaled)


def made_with(extractor_version: str, scaled: bool) -> dict[str, str]:
    """The versions of extractor and preprocessing, by name; `scaled` decoding differs from exact decoding."""
    return {FEATURE_EXTRACTOR: extractor_version, "preprocessing": preprocessing(scaled)}


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


def up_to_date(
    params: ExtractParams, images: Mapping[str, Version], features: Mapping[str, Version]
) -> dict[str, ClassFeatures]:
    """The figures of the classes that have features of all their photos, by the present extractor.

    `images` and `features` are the current versions in the two tables.
    """
    if params.recompute:
        return {}
    wanted = {label: images[label] for label in params.classes if label in images}
    behind = classes_behind(features, wanted, source=RAW_IMAGES, other_inputs=params.made_with)
    return {
        label: _figures(features[label], new=0, gone=0, written=0)
        for label, version in wanted.items()
        if label not in behind and not version.damage
    }


def extract_features(spark: SparkSession, params: ExtractParams, report: Reporter) -> ExtractReport:
    """Brings each given class of `mobilenet_features` up to date with the current `raw_images`.

    A class of which a file or a photo was lost or changed fails, and keeps its last version. A class that
    another run changes meanwhile is compared again.
    """
    result = ExtractReport({}, {})
    with prepared_store(spark, params.store, params.version, report) as (store, lease):

        def attempt(labels: list[str]) -> set[str]:
            met = _extract_once(spark, replace(params, classes=labels), store, lease, report, result)
            gone = forgotten(store, met, RAW_IMAGES) if met else set()  # `fruits forget` has changed these
            result.failed.update(dict.fromkeys(gone, FORGOTTEN))
            return met - gone

        result.failed.update(compared_again(params.classes, attempt))
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
    plans, failed = plan_features(store, params.classes, params.made_with, recompute=params.recompute)
    new: dict[str, list[Part]] = defaultdict(list)

    def run(verb: str, function: Callable[[list[Any]], _Results], pieces: Sequence[Any]) -> None:
        for results in run_tasks(
            spark,
            f"mobilenet_features: {verb}, {counted(len(plans), 'class', 'classes')}",
            function,
            work=even_tasks(spark, pieces, _weight, least=LEAST_IMAGES, most=MOST_IMAGES),
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
        found, waiting = copies_of_computed(store, alike, written) if alike else ([], [])
        takes += found
        # Where a class has failed, its photos were not computed for the other classes that have them.
        waiting = [photo for photo in waiting if photo.group.label not in failed]
        first = {photo.sha256: photo for photo in reversed(waiting)}
        groups = [photo.group for photo in first.values()]
        alike = [photo for photo in waiting if photo is not first[photo.sha256]]
    computed = {label: sum(part.rows for part in parts) for label, parts in new.items()}
    by_class = groupby(sorted(takes, key=lambda take: take.label), key=lambda take: take.label)
    run("copy", partial(_copy, params), [ClassTakes(label, list(own)) for label, own in by_class])
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


def _weight(piece: RowGroup | ClassTakes) -> int:
    """How long a piece of work takes, in images of 5 KB."""
    return piece.rows + piece.bytes // _IMAGE_BYTES


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


def _extract(params: ExtractParams, groups: list[RowGroup]) -> _Results:
    """One Spark task: writes the features of its photos, one file for each class.

    Returns each class with its file, or with the reason where one of its files is missing or damaged.
    """
    store = open_root(params.store)
    extractor = load_extractor(params.store, params.extractor_directory, params.extractor_sha256)
    by_class = groupby(groups, key=lambda group: group.label)
    return [
        (
            label,
            _written(
                store,
                params,
                label,
                features_of(_read(store, list(own), params), extractor, params.limits, scaled=params.scaled),
            ),
        )
        for label, own in by_class
    ]


def _copy(params: ExtractParams, classes: list[ClassTakes]) -> _Results:
    """One Spark task: copies features, to one file for each class. Returns the same as `_extract`."""
    store = open_root(params.store)

    def copied(own: ClassTakes) -> tuple[str, Part | str]:
        return own.label, _written(store, params, own.label, _taken(store, own.takes))

    return concurrently(copied, classes, store.write_threads)


def _taken(store: Root, takes: Sequence[Take]) -> Iterator[tuple[pa.RecordBatch, NDArray[np.float32]]]:
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
    try:
        for images, features in batches:
            rows = [*(images.column(name) for name in ("path", "label", "sha256")), vectors_column(features)]
            writer.write(pa.RecordBatch.from_arrays(rows, schema=schema))
    except FruitsError as error:
        return f"{error}. {recompute_hint(label)}"
    return writer.close()


def _read(store: Root, groups: list[RowGroup], params: ExtractParams) -> Iterator[pa.RecordBatch]:
    """The photos of each row group, as one record batch, with either `input` or `content`.

    Raises `FruitsError` where a file or a photo is not as ingestion wrote it.
    """

    def columns(shared: Mapping[str, Any]) -> list[str]:
        has_input = shared.get("preprocessing") == params.made_with["preprocessing"]
        return ["path", "label", "sha256", *(_INPUT if has_input else _CONTENT)]

    for path, part_groups in groupby(groups, key=lambda group: group.path):
        picked = list(part_groups)
        batches = read_row_groups(store, path, [group.number for group in picked], columns)
        for group, whole in zip(picked, batches, strict=True):
            batch = whole if group.picks is None else whole.take(pa.array(group.picks))
            read, its_hash = batch.schema.names[-2:]
            values = (batch.column(name) for name in ("path", "sha256", its_hash, read))
            for photo, sha256, stored, content in zip(*values, strict=True):
                # A row of an earlier release has the photo as it came.
                expected = stored.as_py() or sha256.as_py()
                check_sha256(store.uri_of(path), photo.as_py(), content.as_buffer(), expected)
            yield batch


def features_of(
    photos: Iterable[pa.RecordBatch],
    extractor: Extractor,
    limits: Limits = DEFAULT_LIMITS,
    *,
    scaled: bool = False,
) -> Iterator[tuple[pa.RecordBatch, NDArray[np.float32]]]:
    """Yields each record batch with the features of its photos: (n, 1280) float32 for n photos.

    The columns of a record batch are `path` and either the stored `input` of the model or the `content` of
    the photos, which may be decoded `scaled`. Raises `FruitsError` for a photo that cannot be decoded any
    more.
    """
    image = np.empty((IMAGE_SIDE, IMAGE_SIDE, 3), np.float32)
    for batch in photos:
        features = np.empty((batch.num_rows, FEATURES), np.float32)
        has_input = "input" in batch.schema.names
        columns = (batch.column(name) for name in ("path", "input" if has_input else "content"))
        for path, content, vector in zip(*columns, features, strict=True):
            try:
                picture = (
                    decoded_input(content.as_py())
                    if has_input
                    # No limit of pixels: ingestion has applied the limit that was set at its time.
                    else decode_guarded(content.as_py(), sys.maxsize, limits, scaled=scaled).image
                )
            except (BadImage, FruitsError) as reason:
                raise FruitsError(
                    f"the photo {path.as_py()!r} was good when it was ingested, and is bad now: {reason}"
                ) from reason
            vector[:] = extractor(model_input(picture, out=image))
        yield batch, features
