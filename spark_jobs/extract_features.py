"""Decodes and resizes the photos of `raw_images`, and writes their features to `mobilenet_features`."""

import hashlib
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import groupby

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
from spark_jobs.store.parquet import (
    PartWriter,
    RowGroup,
    read_row_groups,
    row_groups,
    rows_in,
    vectors_column,
)
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import FEATURE_EXTRACTOR, MOBILENET_FEATURES, RAW_IMAGES, SCHEMAS
from spark_jobs.store.sweep import sweep_table
from spark_jobs.store.tables import class_version, current, replace_classes
from spark_jobs.store.versions import Part
from spark_jobs.tasks import Reporter, even_tasks, run_tasks
from spark_jobs.wire import ClassFigures
from spark_jobs.wording import counted

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
    """Figures of current classes, and reasons of failed classes."""

    classes: dict[str, ClassFeatures]
    failed: dict[str, str]


def extract_features(spark: SparkSession, params: ExtractParams, report: Reporter) -> ExtractReport:
    """Replaces each given class of `mobilenet_features` as a whole, from the current `raw_images`.

    A class of which a file or a photo was lost or changed fails, and keeps its last version.
    """
    with prepared_store(spark, params.store, params.version, report) as (store, lease):
        raw = current(store, RAW_IMAGES, params.classes)
        failed = {label: _NO_IMAGES for label in params.classes if label not in raw}
        failed |= {label: version.damage for label, version in raw.items() if version.damage}
        groups = row_groups({label: version for label, version in raw.items() if label not in failed})
        parts: dict[str, list[Part]] = defaultdict(list)
        for results in run_tasks(
            spark,
            f"mobilenet_features: extract, {counted(len(raw), 'class', 'classes')}",
            partial(_extract, params),
            work=even_tasks(spark, groups, lambda group: group.rows, least=LEAST_IMAGES, most=MOST_IMAGES),
            images=rows_in,
            report=report,
        ):
            for label, result in results:
                if isinstance(result, str):
                    failed[label] = result
                else:
                    parts[label].append(result)
        extracted = {label: files for label, files in parts.items() if label not in failed}
        replace_classes(store, MOBILENET_FEATURES, extracted, lease)
        if gone := forgotten(store, extracted, RAW_IMAGES):
            replace_classes(store, MOBILENET_FEATURES, dict.fromkeys(gone, ()), lease)
            failed |= dict.fromkeys(gone, FORGOTTEN)
        compact_table(spark, store, MOBILENET_FEATURES, lease, report)
        sweep_table(store, MOBILENET_FEATURES, timedelta(hours=params.keep_hours), lease)
    versions = {
        label: class_version(MOBILENET_FEATURES, label, files)
        for label, files in extracted.items()
        if label not in failed
    }
    return ExtractReport(
        classes={
            label: ClassFeatures(
                images=version.rows, bytes=version.bytes, data_version=version.data_version, **version.details
            )
            for label, version in versions.items()
        },
        failed=failed,
    )


def _extract(params: ExtractParams, groups: list[RowGroup]) -> list[tuple[str, Part | str]]:
    """One Spark task: writes the features of its row groups, one file for each class.

    Returns each class with its file, or with the reason where one of its files is missing or damaged.
    """
    store = open_root(params.store)
    extractor = load_extractor(params.store, params.extractor_directory, params.extractor_sha256)
    results: list[tuple[str, Part | str]] = []
    for label, class_groups in groupby(groups, key=lambda group: group.label):
        try:
            batches = features_of(_read(store, list(class_groups)), extractor)
            results.append((label, _write(store, params, batches)))
        except FruitsError as error:
            results.append((label, f"{error}. Materialize raw_images for it again"))
    return results


def _write(
    store: Root, params: ExtractParams, batches: Iterable[tuple[pa.RecordBatch, NDArray[np.float32]]]
) -> Part:
    """Writes photos' features as one file of `mobilenet_features`."""
    schema = SCHEMAS[MOBILENET_FEATURES]
    made_with = {FEATURE_EXTRACTOR: params.extractor_version, "preprocessing": PREPROCESSING}
    writer = PartWriter(store, f"{MOBILENET_FEATURES}/{params.version}", schema, made_with)
    non_finite = constant = 0
    for images, features in batches:
        non_finite += int(np.count_nonzero(~np.isfinite(features).all(axis=1)))
        constant += int(np.count_nonzero(np.ptp(features, axis=1) == 0))
        rows = [*(images.column(name) for name in ("path", "label", "sha256")), vectors_column(features)]
        writer.write(pa.RecordBatch.from_arrays(rows, schema=schema))
    return writer.close(non_finite=non_finite, constant=constant)


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
