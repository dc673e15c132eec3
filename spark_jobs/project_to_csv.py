"""Projects `mobilenet_features` with the PCA model, and writes one CSV for each class."""

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from spark_jobs.dimensions import FEATURES
from spark_jobs.errors import FruitsError
from spark_jobs.spark_model import read_components
from spark_jobs.store.csv_copies import convert_csvs, copy_csvs, csv_path, sha256_of
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import FORMULA_START, MOBILENET_FEATURES, PCA_FEATURES_CSV, PCA_MODEL
from spark_jobs.store.tables import (
    Part,
    Pointer,
    class_key,
    combined_version,
    current,
    new_directory,
    publish,
    read_row_groups,
    sweep,
)
from spark_jobs.tasks import Reporter, even_tasks, run_tasks
from spark_jobs.wire import ClassFigures
from spark_jobs.wording import counted

# Images of a task, at least and about at most. A class is never split.
LEAST_IMAGES, MOST_IMAGES = 4096, 16384
PREVIEW_ROWS = 5

_NO_FEATURES = "it has no mobilenet_features yet; materialize mobilenet_features for it first"


@dataclass(frozen=True, kw_only=True)
class ProjectParams:
    """Parameters of the projection: the classes, and the model by its directory in the store and version."""

    store: str
    version: str
    classes: list[str]
    model_directory: str
    model_version: str
    keep_hours: float


@dataclass(frozen=True, kw_only=True)
class ClassCsv(ClassFigures):
    """The CSV of one class: its figures, its path relative to the store, and its first lines."""

    path: str
    head: str


@dataclass(frozen=True)
class ProjectReport:
    """Figures of current classes, reasons of failed classes, and the number of removed directories."""

    classes: dict[str, ClassCsv]
    failed: dict[str, str]
    removed_versions: int = 0


class _Written(NamedTuple):
    label: str
    path: str
    rows: int
    bytes: int
    sha256: str
    head: str


def project_to_csv(spark: SparkSession, params: ProjectParams, report: Reporter) -> ProjectReport:
    """Replaces the CSV of each given class as a whole. Its columns are `path,label,pc1,...,pck`.

    Rows are sorted by path. The projection is the same as in Spark's `PCAModel.transform`: features times
    components, without subtracting the mean. A class of which a file was lost or changed fails, and keeps its
    last CSV.
    """
    store = open_root(params.store)
    convert_csvs(store)
    features = current(store, MOBILENET_FEATURES, params.classes)
    directory = new_directory(PCA_FEATURES_CSV, params.version)
    written: list[_Written] = []
    failed = {label: _NO_FEATURES for label in params.classes if label not in features}
    for results in run_tasks(
        spark,
        f"pca_features_csv: project, {counted(len(features), 'class', 'classes')}",
        partial(_project, params, directory),
        work=even_tasks(
            spark,
            list(features.values()),
            lambda pointer: pointer.rows,
            least=LEAST_IMAGES,
            most=MOST_IMAGES,
        ),
        images=lambda pointers: sum(pointer.rows for pointer in pointers),
        report=report,
    ):
        for label, result in results:
            if isinstance(result, str):
                failed[label] = result
            else:
                written.append(result)
    pointers = {
        csv.label: Pointer(
            label=csv.label,
            directory=posixpath.dirname(csv.path),
            data_version=combined_version(features[csv.label].data_version, params.model_version),
            parts=[Part(csv.path, [csv.rows], csv.bytes)],
            inputs={MOBILENET_FEATURES: features[csv.label].data_version, PCA_MODEL: params.model_version},
            details={"sha256": csv.sha256},
        )
        for csv in written
    }
    publish(store, PCA_FEATURES_CSV, pointers.values())
    copy_csvs(store)
    return ProjectReport(
        classes={
            csv.label: ClassCsv(
                images=csv.rows,
                bytes=csv.bytes,
                data_version=pointers[csv.label].data_version,
                path=csv_path(csv.label),
                head=csv.head,
            )
            for csv in written
        },
        failed=failed,
        removed_versions=sweep(store, PCA_FEATURES_CSV, timedelta(hours=params.keep_hours)),
    )


def _project(
    params: ProjectParams, directory: str, pointers: list[Pointer]
) -> list[tuple[str, _Written | str]]:
    """One Spark task: writes one CSV for each of its classes.

    Returns each class with its CSV, or with the reason where a file of its features is missing or damaged.
    """
    store = open_root(params.store)
    components = read_components(params.store, params.model_directory)
    results: list[tuple[str, _Written | str]] = []
    for pointer in pointers:
        label = str(pointer.label)
        try:
            results.append((label, _project_class(store, components, directory, pointer)))
        except FruitsError as error:
            results.append((label, f"{error}. Materialize mobilenet_features for it again"))
    return results


def _project_class(
    store: Root, components: NDArray[np.float64], directory: str, pointer: Pointer
) -> _Written:
    """Writes a version of the CSV of one class."""
    label = str(pointer.label)
    path = f"{directory}/{class_key(label)}/part.csv"
    names = ["path", "label", *(f"pc{number + 1}" for number in range(components.shape[1]))]
    schema = pa.schema([(name, pa.string() if name in ("path", "label") else pa.float64()) for name in names])
    head = ""
    with store.create(path) as stream, pyarrow.csv.CSVWriter(stream, schema) as writer:
        for rows in _feature_rows(store, pointer):
            vectors = rows.column("features").flatten().to_numpy().reshape(-1, FEATURES)
            projected = vectors.astype(np.float64) @ components
            columns = [pa.array(column) for column in projected.T]
            batch = pa.RecordBatch.from_arrays(
                [_as_text(rows.column("path")), _as_text(rows.column("label")), *columns], names
            )
            head = head or _head(batch.slice(0, PREVIEW_ROWS))
            writer.write_batch(batch)
        writer.close()
        size = stream.tell()
    return _Written(
        label=label,
        path=path,
        rows=pointer.rows,
        bytes=size,
        sha256=sha256_of(store, path),
        head=head,
    )


def _head(rows: pa.RecordBatch) -> str:
    """The rows as text for a reader: components have three decimals."""
    lines = [",".join(rows.schema.names)]
    for path, label, *components in zip(*rows.to_pydict().values(), strict=True):
        line = ",".join([path, label, *(f"{component:.3f}" for component in components)])
        # A file name may contain a line break.
        lines.append("".join(character if character.isprintable() else "?" for character in line))
    return "\n".join(lines)


def _feature_rows(store: Root, pointer: Pointer) -> Iterator[pa.RecordBatch]:
    for part in pointer.parts:
        groups = range(len(part.row_groups))
        yield from read_row_groups(store, part.path, groups, ["path", "label", "features"])


def _as_text(values: pa.Array) -> pa.Array:
    """Text that a spreadsheet does not run: an apostrophe precedes the start of a formula."""
    return pc.replace_substring_regex(values, pattern=FORMULA_START, replacement=r"'\1")
