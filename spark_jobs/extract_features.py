"""The `raw_images` table to the `mobilenet_features` table: decode, resize, infer."""

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
from spark_jobs.tasks import Reporter, pack, run_tasks
from spark_jobs.wire import ClassFigures

# A version of how photos become the model's input; a change makes every class's features stale.
PREPROCESSING = "exif-rgb-bicubic224-mobilenet_v2/1"

# Tasks a core: enough that the cores finish together, few enough that their start costs nothing.
TASKS_PER_CORE = 12
TASK_IMAGES = (128, 2048)


@dataclass(frozen=True, kw_only=True)
class ExtractParams:
    """Which classes, and the extractor: its directory below the store, SHA-256 and data version."""

    store: str
    version: str
    classes: list[str]
    extractor_directory: str
    extractor_sha256: str
    extractor_version: str
    keep_hours: float


@dataclass(frozen=True, kw_only=True)
class ClassFeatures(ClassFigures):
    """Figures of one class. `non_finite` and `constant` count feature vectors, and should be 0."""

    non_finite: int
    constant: int


@dataclass(frozen=True)
class ExtractReport:
    """Classes that are current, and those that failed with the reason; directories swept."""

    classes: dict[str, ClassFeatures]
    failed: dict[str, str]
    removed_versions: int = 0


class _Extracted(NamedTuple):
    label: str
    part: Part
    non_finite: int
    constant: int


def extract_features(spark: SparkSession, params: ExtractParams, report: Reporter) -> ExtractReport:
    """Replaces the given classes of `mobilenet_features`, each whole, from the current `raw_images`."""
    store = open_root(params.store)
    raw = current(store, RAW_IMAGES, params.classes)
    directory = new_directory(MOBILENET_FEATURES, params.version)
    groups = row_groups(raw)
    least, most = TASK_IMAGES
    share = rows_in(groups) // (spark.sparkContext.defaultParallelism * TASKS_PER_CORE)
    extracted: dict[str, list[_Extracted]] = {label: [] for label in raw}
    for results in run_tasks(
        spark,
        f"mobilenet_features: extract, {len(raw):,} classes",
        partial(_extract, params, directory),
        pack(groups, lambda group: group.rows, min(max(share, least), most)),
        rows_in,
        report,
    ):
        for result in results:
            extracted[result.label].append(result)

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
    ]
    publish(store, MOBILENET_FEATURES, pointers)
    return ExtractReport(
        {
            str(pointer.label): ClassFeatures(
                images=pointer.rows, bytes=pointer.bytes, data_version=pointer.data_version, **pointer.details
            )
            for pointer in pointers
        },
        {
            label: "it has no raw_images yet; materialize raw_images for it first"
            for label in params.classes
            if label not in raw
        },
        sweep(store, MOBILENET_FEATURES, timedelta(hours=params.keep_hours)),
    )


def _extract(params: ExtractParams, directory: str, groups: list[RowGroup]) -> list[_Extracted]:
    """One Spark task: the features of some row groups, one file for each class among them."""
    store = open_root(params.store)
    extractor = load_extractor(params.store, params.extractor_directory, params.extractor_sha256)
    schema = SCHEMAS[MOBILENET_FEATURES]
    results = []
    extracted = zip(groups, features_of(_read(store, groups), extractor), strict=True)
    for label, of_class in groupby(extracted, key=lambda pair: pair[0].label):
        writer = PartWriter(store, f"{directory}/{class_key(label)}", schema)
        non_finite = constant = 0
        for _, (images, features) in of_class:
            non_finite += int(np.count_nonzero(~np.isfinite(features).all(axis=1)))
            constant += int(np.count_nonzero(np.ptp(features, axis=1) == 0))
            vectors = pa.FixedSizeListArray.from_arrays(features.reshape(-1), FEATURES)
            rows = [*(images.column(name) for name in ("path", "label", "sha256")), vectors]
            writer.write(pa.RecordBatch.from_arrays(rows, schema=schema))
        results.append(_Extracted(label=label, part=writer.close(), non_finite=non_finite, constant=constant))
    return results


def _read(store: Root, groups: list[RowGroup]) -> Iterator[pa.RecordBatch]:
    """The photos of each row group."""
    for path, of_part in groupby(groups, key=lambda group: group.path):
        numbers = [group.number for group in of_part]
        yield from read_row_groups(store, path, numbers, ["path", "label", "sha256", "content"])


def features_of(
    photos: Iterable[pa.RecordBatch], extractor: Extractor
) -> Iterator[tuple[pa.RecordBatch, NDArray[np.float32]]]:
    """Each record batch, n photos with their bytes in `content`, and its features: (n, 1280) float32."""
    image = np.empty((IMAGE_SIDE, IMAGE_SIDE, 3), np.float32)
    for some in photos:
        features = np.empty((some.num_rows, FEATURES), np.float32)
        for content, vector in zip(some.column("content"), features, strict=True):
            # Ingestion has judged the photo already, by the limits of that day.
            decoded = decode(content.as_py(), max_pixels=sys.maxsize)
            vector[:] = extractor(model_input(decoded.image, out=image))
        yield some, features
