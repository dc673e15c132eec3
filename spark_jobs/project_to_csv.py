"""Projects `mobilenet_features` with the PCA model, and writes one CSV for each class."""

import hashlib
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

from spark_jobs.convert_store import prepared_store
from spark_jobs.errors import FruitsError
from spark_jobs.spark_model import read_components
from spark_jobs.store.classes import FORGOTTEN, forgotten
from spark_jobs.store.csv_copies import copy_csvs
from spark_jobs.store.parquet import read_row_groups, vectors_in
from spark_jobs.store.pointers import new_directory, publish, withdraw
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import FORMULA_START, MOBILENET_FEATURES, PCA_FEATURES_CSV, PCA_MODEL
from spark_jobs.store.sweep import sweep_versions
from spark_jobs.store.tables import current
from spark_jobs.store.versions import Part, Version, class_key, combined_version
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
    """Figures of current classes, and reasons of failed classes."""

    classes: dict[str, ClassCsv]
    failed: dict[str, str]


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
    with prepared_store(spark, params.store, params.version, report) as (store, lease):
        features = current(store, MOBILENET_FEATURES, params.classes)
        failed = {label: _NO_FEATURES for label in params.classes if label not in features}
        failed |= {label: version.damage for label, version in features.items() if version.damage}
        whole = [version for label, version in features.items() if label not in failed]
        written: list[_Written] = []
        for results in run_tasks(
            spark,
            f"pca_features_csv: project, {counted(len(whole), 'class', 'classes')}",
            partial(_project, params, new_directory(PCA_FEATURES_CSV, params.version)),
            work=even_tasks(spark, whole, lambda version: version.rows, least=LEAST_IMAGES, most=MOST_IMAGES),
            images=lambda versions: sum(version.rows for version in versions),
            report=report,
        ):
            for label, result in results:
                if isinstance(result, str):
                    failed[label] = result
                else:
                    written.append(result)
        versions = {csv.label: _version(csv, features[csv.label], params.model_version) for csv in written}
        lease.check()
        publish(store, PCA_FEATURES_CSV, versions.values())
        if gone := forgotten(store, versions, MOBILENET_FEATURES):
            withdraw(store, PCA_FEATURES_CSV, gone)
            failed |= dict.fromkeys(gone, FORGOTTEN)
        paths = copy_csvs(store)
        sweep_versions(store, PCA_FEATURES_CSV, timedelta(hours=params.keep_hours), lease)
    return ProjectReport(
        classes={
            csv.label: ClassCsv(
                images=csv.rows,
                bytes=csv.bytes,
                data_version=versions[csv.label].data_version,
                path=paths[csv.label],
                head=csv.head,
            )
            for csv in written
            if csv.label not in failed
        },
        failed=failed,
    )


def _version(csv: _Written, features: Version, model_version: str) -> Version:
    """The version of a class that its CSV makes up."""
    return Version(
        label=csv.label,
        directory=posixpath.dirname(csv.path),
        data_version=combined_version(features.data_version, model_version),
        parts=[Part(csv.path, [csv.rows], csv.bytes)],
        inputs={MOBILENET_FEATURES: features.data_version, PCA_MODEL: model_version},
        details={"sha256": csv.sha256},
    )


def _project(
    params: ProjectParams, directory: str, versions: list[Version]
) -> list[tuple[str, _Written | str]]:
    """One Spark task: writes one CSV for each of its classes.

    Returns each class with its CSV, or with the reason where a file of its features is missing or damaged.
    """
    store = open_root(params.store)
    components = read_components(params.store, params.model_directory)
    results: list[tuple[str, _Written | str]] = []
    for version in versions:
        label = str(version.label)
        try:
            results.append((label, _project_class(store, components, directory, version)))
        except FruitsError as error:
            results.append((label, f"{error}. Materialize mobilenet_features for it again"))
    return results


def _project_class(
    store: Root, components: NDArray[np.float64], directory: str, version: Version
) -> _Written:
    """Writes a version of the CSV of one class."""
    label = str(version.label)
    path = f"{directory}/{class_key(label)}/part.csv"
    rows = pa.Table.from_batches([_projected(rows, components) for rows in _feature_rows(store, version)])
    rows = rows.sort_by("path").combine_chunks()
    for column, name in enumerate(("path", "label")):
        rows = rows.set_column(column, name, _as_text(rows.column(name)))
    content = pa.BufferOutputStream()
    pyarrow.csv.write_csv(rows, content)
    csv = content.getvalue().to_pybytes()
    with store.create(path) as stream:
        stream.write(csv)
    store.sync(path)
    return _Written(
        label=label,
        path=path,
        rows=rows.num_rows,
        bytes=len(csv),
        sha256=hashlib.sha256(csv).hexdigest(),
        head=_head(rows.slice(0, PREVIEW_ROWS)),
    )


def _projected(rows: pa.RecordBatch, components: NDArray[np.float64]) -> pa.RecordBatch:
    """The rows of a CSV: path, label and the components pc1, pc2, ..."""
    projected = vectors_in(rows).astype(np.float64) @ components
    names = ["path", "label", *(f"pc{number + 1}" for number in range(components.shape[1]))]
    columns = [rows.column("path"), rows.column("label"), *map(pa.array, projected.T)]
    return pa.RecordBatch.from_arrays(columns, names)


def _head(rows: pa.Table) -> str:
    """The rows as text for a reader: components have three decimals."""
    lines = [",".join(rows.schema.names)]
    for path, label, *components in zip(*rows.to_pydict().values(), strict=True):
        line = ",".join([path, label, *(f"{component:.3f}" for component in components)])
        # A file name may contain a line break.
        lines.append("".join(character if character.isprintable() else "?" for character in line))
    return "\n".join(lines)


def _feature_rows(store: Root, version: Version) -> Iterator[pa.RecordBatch]:
    for part in version.parts:
        groups = range(len(part.row_groups))
        yield from read_row_groups(store, part.path, groups, ["path", "label", "features"])


def _as_text(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text that a spreadsheet does not run: an apostrophe precedes the start of a formula."""
    return pc.replace_substring_regex(values, pattern=FORMULA_START, replacement=r"'\1")
