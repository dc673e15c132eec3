"""Decodes and resizes the photos of `raw_images`, and writes their features to `mobilenet_features`."""

import hashlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import groupby
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from spark_jobs.dimensions import FEATURES, IMAGE_SIDE
from spark_jobs.errors import FruitsError
from spark_jobs.images import decode, model_input
from spark_jobs.inference import Extractor, load_extractor
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import FEATURE_EXTRACTOR, MOBILENET_FEATURES, RAW_IMAGES, SCHEMAS
from spark_jobs.store.tables import (
    Part,
    PartWriter,
    Pointer,
    RowGroup,
    class_key,
    combined_version,
    current,
    new_directory,
    publish,
    read_row_groups,
    row_groups,
    rows_in,
    sweep,
)
from spark_jobs.tasks import Reporter, even_tasks, run_tasks
from spark_jobs.wire import ClassFigures
from spark_jobs.wording import counted

# A version of the steps from a photo to the model's input; a change makes the features of every class stale.
PREPROCESSING = "exif-rgb-bicubic224-mobilenet_v2/1"

# Images of a task, at least and about at most.
LEAST_IMAGES, MOST_IMAGES = 128, 2048

_NO_IMAGES = "it has no raw_images yet; materialize raw_images for it first"


@dataclass(frozen=True, kw_only=True)
class ExtractParams:
    """Parameters of the extraction: the classes, and the extractor.

    The extractor is given by its directory, relative to the store, its SHA-256 and its data version.
    """

    store: str
    version: str
    classes: list[str]
    extractor_directory: str
    extractor_sha256: str
    extractor_version: str
    keep_hours: float


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
    """Figures of current classes, reasons of failed classes, and the number of removed directories."""

    classes: dict[str, ClassFeatures]
    failed: dict[str, str]
    removed_versions: int = 0


class _Extracted(NamedTuple):
    part: Part
    non_finite: int
    constant: int


def extract_features(spark: SparkSession, params: ExtractParams, report: Reporter) -> ExtractReport:
    """Replaces each given class of `mobilenet_features` as a whole, from the current `raw_images`.

    A class of which a file or a photo was lost or changed fails, and keeps its last version.
    """
    store = open_root(params.store)
    raw = current(store, RAW_IMAGES, params.classes)
    directory = new_directory(MOBILENET_FEATURES, params.version)
    groups = row_groups(raw)
    extracted: dict[str, list[_Extracted]] = {label: [] for label in raw}
    failed = {label: _NO_IMAGES for label in params.classes if label not in raw}
    for results in run_tasks(
        spark,
        f"mobilenet_features: extract, {counted(len(raw), 'class', 'classes')}",
        partial(_extract, params, directory),
        work=even_tasks(spark, groups, lambda group: group.rows, least=LEAST_IMAGES, most=MOST_IMAGES),
        images=rows_in,
        report=report,
    ):
        for label, result in results:
            if isinstance(result, str):
                failed[label] = result
            else:
                extracted[label].append(result)

    pointers = [
        Pointer(
            label=label,
            directory=f"{directory}/{class_key(label)}",
            data_version=combined_version(raw[label].data_version, params.extractor_version, PREPROCESSING),
            parts=[result.part for result in results],
            inputs={RAW_IMAGES: raw[label].data_version, FEATURE_EXTRACTOR: params.extractor_version},
            details={
                "non_finite": sum(result.non_finite for result in results),
                "constant": sum(result.constant for result in results),
            },
        )
        for label, results in extracted.items()
        if label not in failed
    ]
    publish(store, MOBILENET_FEATURES, pointers)
    return ExtractReport(
        classes={
            str(pointer.label): ClassFeatures(
                images=pointer.rows, bytes=pointer.bytes, data_version=pointer.data_version, **pointer.details
            )
            for pointer in pointers
        },
        failed=failed,
        removed_versions=sweep(store, MOBILENET_FEATURES, timedelta(hours=params.keep_hours)),
    )


def _extract(
    params: ExtractParams, directory: str, groups: list[RowGroup]
) -> list[tuple[str, _Extracted | str]]:
    """One Spark task: writes the features of its row groups, one file for each class.

    Returns each class with its result, or with the reason where one of its files is missing or damaged.
    """
    store = open_root(params.store)
    extractor = load_extractor(params.store, params.extractor_directory, params.extractor_sha256)
    results: list[tuple[str, _Extracted | str]] = []
    for label, class_groups in groupby(groups, key=lambda group: group.label):
        try:
            batches = features_of(_read(store, list(class_groups)), extractor)
            results.append((label, _write(store, f"{directory}/{class_key(label)}", batches)))
        except FruitsError as error:
            results.append((label, f"{error}. Materialize raw_images for it again"))
    return results


def _write(
    store: Root, directory: str, batches: Iterable[tuple[pa.RecordBatch, NDArray[np.float32]]]
) -> _Extracted:
    """Writes photos' features as one file of `mobilenet_features`."""
    schema = SCHEMAS[MOBILENET_FEATURES]
    writer = PartWriter(store, directory, schema)
    non_finite = constant = 0
    for images, features in batches:
        non_finite += int(np.count_nonzero(~np.isfinite(features).all(axis=1)))
        constant += int(np.count_nonzero(np.ptp(features, axis=1) == 0))
        vectors = pa.FixedSizeListArray.from_arrays(features.reshape(-1), FEATURES)
        rows = [*(images.column(name) for name in ("path", "label", "sha256")), vectors]
        writer.write(pa.RecordBatch.from_arrays(rows, schema=schema))
    return _Extracted(part=writer.close(), non_finite=non_finite, constant=constant)


def _read(store: Root, groups: list[RowGroup]) -> Iterator[pa.RecordBatch]:
    """The photos of each row group, as one record batch.

    Raises `FruitsError` where a file or a photo is not as ingestion wrote it.
    """
    for path, part_groups in groupby(groups, key=lambda group: group.path):
        numbers = [group.number for group in part_groups]
        for batch in read_row_groups(store, path, numbers, ["path", "label", "sha256", "content"]):
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
