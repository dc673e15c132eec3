"""The `mobilenet_features` table and the PCA model to one CSV for each class."""

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
from spark_jobs.spark_model import read_components
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
from spark_jobs.tasks import Reporter, pack, run_tasks
from spark_jobs.wire import ClassFigures

# Classes are packed into tasks of about so many images; a class is never split.
TASK_IMAGES = 2048
PREVIEW_ROWS = 5


@dataclass(frozen=True, kw_only=True)
class ProjectParams:
    """Which classes, and the model: its directory below the store and its data version."""

    store: str
    version: str
    classes: list[str]
    model_directory: str
    model_version: str
    keep_hours: float


@dataclass(frozen=True, kw_only=True)
class ClassCsv(ClassFigures):
    """The CSV of one class: figures, its path below the store, and its first lines."""

    path: str
    head: str


@dataclass(frozen=True)
class ProjectReport:
    """Classes that are current, and those that failed with the reason; directories swept."""

    classes: dict[str, ClassCsv]
    failed: dict[str, str]
    removed_versions: int = 0


class _Written(NamedTuple):
    label: str
    temporary: str
    rows: int
    bytes: int
    head: str


def project_to_csv(spark: SparkSession, params: ProjectParams, report: Reporter) -> ProjectReport:
    """Replaces the given classes' CSVs, `path,label,pc1,...,pck`, each whole.

    Rows are in the order of their paths. The projection is that of Spark's `PCAModel.transform`:
    features times components, without subtracting the mean.
    """
    store = open_root(params.store)
    features = current(store, MOBILENET_FEATURES, params.classes)
    directory = new_directory(PCA_FEATURES_CSV, params.version)
    written = [
        result
        for results in run_tasks(
            spark,
            f"pca_features_csv: project, {len(features):,} classes",
            partial(_project, params, directory),
            pack(features.values(), lambda pointer: pointer.rows, TASK_IMAGES),
            lambda pointers: sum(pointer.rows for pointer in pointers),
            report,
        )
        for result in results
    ]
    # Nothing is replaced before everything is projected, so that an interruption leaves all as it was.
    store.move_many((csv.temporary, csv_path(csv.label)) for csv in written)
    store.remove(directory)  # empty now
    pointers = {
        csv.label: Pointer(
            label=csv.label,
            directory=posixpath.dirname(csv.temporary),
            data_version=combined_version(features[csv.label].data_version, params.model_version),
            parts=[Part(csv_path(csv.label), [csv.rows], csv.bytes)],
            inputs={MOBILENET_FEATURES: features[csv.label].data_version, PCA_MODEL: params.model_version},
        )
        for csv in written
    }
    publish(store, PCA_FEATURES_CSV, pointers.values())
    return ProjectReport(
        {
            csv.label: ClassCsv(
                images=csv.rows,
                bytes=csv.bytes,
                data_version=pointers[csv.label].data_version,
                path=csv_path(csv.label),
                head=csv.head,
            )
            for csv in written
        },
        {
            label: "it has no mobilenet_features yet; materialize mobilenet_features for it first"
            for label in params.classes
            if label not in features
        },
        sweep(store, PCA_FEATURES_CSV, timedelta(hours=params.keep_hours)),
    )


def csv_path(label: str) -> str:
    """Where a class's CSV stands in the store: under its own name, as far as a file system allows.

    A file name has at most 255 bytes; a longer one is cut and ends in 12 digits that tell it apart.
    """
    name = f"{label}.csv"
    if len(name.encode()) > 255:
        digits = class_key(label)[-12:]
        name = f"{label.encode()[:200].decode(errors='ignore')}~{digits}.csv"
    return f"{PCA_FEATURES_CSV}/{name}"


def _project(params: ProjectParams, directory: str, pointers: list[Pointer]) -> list[_Written]:
    """One Spark task: some classes, one CSV each."""
    store = open_root(params.store)
    components = read_components(params.store, params.model_directory)
    return [_project_class(store, components, directory, pointer) for pointer in pointers]


def _project_class(
    store: Root, components: NDArray[np.float64], directory: str, pointer: Pointer
) -> _Written:
    label = str(pointer.label)
    temporary = f"{directory}/{class_key(label)}/part.csv"
    names = ["path", "label", *(f"pc{number + 1}" for number in range(components.shape[1]))]
    schema = pa.schema([(name, pa.string() if name in ("path", "label") else pa.float64()) for name in names])
    head = ""
    with store.create(temporary) as stream, pyarrow.csv.CSVWriter(stream, schema) as writer:
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
    return _Written(label=label, temporary=temporary, rows=pointer.rows, bytes=size, head=head)


def _head(rows: pa.RecordBatch) -> str:
    """Some rows for a person's eyes: components with three decimals."""
    lines = [",".join(rows.schema.names)]
    for path, label, *components in zip(*rows.to_pydict().values(), strict=True):
        line = ",".join([path, label, *(f"{component:.3f}" for component in components)])
        # A file's name may hold a line break.
        lines.append("".join(character if character.isprintable() else "?" for character in line))
    return "\n".join(lines)


def _feature_rows(store: Root, pointer: Pointer) -> Iterator[pa.RecordBatch]:
    for part in pointer.parts:
        groups = range(len(part.row_groups))
        yield from read_row_groups(store, part.path, groups, ["path", "label", "features"])


def _as_text(values: pa.Array) -> pa.Array:
    """Text that a spreadsheet shows and does not run: an apostrophe before what starts a formula."""
    return pc.replace_substring_regex(values, pattern=FORMULA_START, replacement=r"'\1")
