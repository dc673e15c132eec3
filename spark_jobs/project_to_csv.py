"""Projects `mobilenet_features` with the PCA model, and writes one CSV for each class."""

import hashlib
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from itertools import chain
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from spark_jobs.convert_store import prepared_store
from spark_jobs.errors import FruitsError
from spark_jobs.spark_model import read_components
from spark_jobs.store.classes import FORGOTTEN, forgotten
from spark_jobs.store.csv_copies import copy_csvs, csv_paths
from spark_jobs.store.csv_rows import read_csv, write_csv
from spark_jobs.store.parquet import read_column_of, read_row_groups, vectors_in
from spark_jobs.store.pointers import current_by_class, folder_of, new_directory, publish, withdraw
from spark_jobs.store.root import Root, concurrently, open_root
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_FEATURES_CSV, PCA_MODEL
from spark_jobs.store.sweep import sweep_versions
from spark_jobs.store.tables import current
from spark_jobs.store.versions import Part, Version, class_key, classes_behind, combined_version
from spark_jobs.tasks import Reporter, even_tasks, run_tasks
from spark_jobs.wire import ClassFigures
from spark_jobs.wording import counted, recompute_hint

# Images of a task, at least and about at most. A class is never split.
LEAST_IMAGES, MOST_IMAGES = 4096, 16384
PREVIEW_ROWS = 5

_NO_FEATURES = "it has no mobilenet_features yet; materialize mobilenet_features for it first"


@dataclass(frozen=True, kw_only=True)
class ProjectParams:
    """Parameters of the projection: the classes, and the model by its directory in the store and version.

    With `recompute`, all rows of the classes are computed again.
    """

    store: str
    version: str
    classes: list[str]
    model_directory: str
    model_version: str
    keep_hours: float
    recompute: bool = False


@dataclass(frozen=True, kw_only=True)
class ClassCsv(ClassFigures):
    """The CSV of one class: its figures, its path relative to the store, and its first lines if it is new."""

    path: str
    head: str = ""


@dataclass(frozen=True)
class ProjectReport:
    """Figures of current classes, and reasons of failed classes."""

    classes: dict[str, ClassCsv]
    failed: dict[str, str]


class _Work(NamedTuple):
    """One class to project: its features, and its CSV so far."""

    features: Version
    old: Version | None


class _Written(NamedTuple):
    """A new CSV: its rows, of which `new` were computed, and the rows of the old CSV that are `gone`."""

    label: str
    path: str
    rows: int
    new: int
    gone: int
    bytes: int
    sha256: str
    head: str


def up_to_date(
    store: Root, params: ProjectParams, features: Mapping[str, Version], csvs: Mapping[str, Version]
) -> dict[str, ClassCsv]:
    """The figures of the classes whose CSV is that of their features and of the model, and whole.

    `features` and `csvs` are the current versions; `csvs` has all classes, for the names of their copies.
    """
    if params.recompute:
        return {}
    model = {PCA_MODEL: params.model_version}
    wanted = {label: csvs[label] for label in params.classes if label in csvs}
    behind = classes_behind(wanted, features, source=MOBILENET_FEATURES, other_inputs=model)
    paths = csv_paths(csvs)
    sizes = {
        info.path: info.size
        for name in (PCA_FEATURES_CSV, folder_of(PCA_FEATURES_CSV))
        for info in store.list(name)
    }
    return {
        label: _figures(version, paths[label], new=0, gone=0)
        for label, version in wanted.items()
        if label not in behind
        and label in features
        and not features[label].damage
        and [sizes.get(part.path) for part in version.parts] == [sizes.get(paths[label])] == [version.bytes]
    }


def project_to_csv(spark: SparkSession, params: ProjectParams, report: Reporter) -> ProjectReport:
    """Brings the CSV of each given class up to date. Its columns are `path,label,pc1,...,pck`.

    Rows are sorted by path. The projection is the same as in Spark's `PCAModel.transform`: features times
    components, without subtracting the mean. Rows of the last CSV stay if the same model made them of files
    of features that are still there. A class of which a file was lost or changed fails, and keeps its last
    CSV.
    """
    with prepared_store(spark, params.store, params.version, report) as (store, lease):
        features = current(store, MOBILENET_FEATURES, params.classes)
        failed = {label: _NO_FEATURES for label in params.classes if label not in features}
        failed |= {label: version.damage for label, version in features.items() if version.damage}
        old = current_by_class(store, PCA_FEATURES_CSV, params.classes)
        work = [_Work(version, old.get(label)) for label, version in features.items() if label not in failed]
        written: list[_Written] = []
        for results in run_tasks(
            spark,
            f"pca_features_csv: project, {counted(len(work), 'class', 'classes')}",
            partial(_project, params, new_directory(PCA_FEATURES_CSV, params.version)),
            work=even_tasks(spark, work, lambda one: one.features.rows, least=LEAST_IMAGES, most=MOST_IMAGES),
            images=lambda pieces: sum(piece.features.rows for piece in pieces),
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
        lease.check_erasures()
        sweep_versions(store, PCA_FEATURES_CSV, timedelta(hours=params.keep_hours), lease)
    return ProjectReport(
        classes={
            csv.label: replace(
                _figures(versions[csv.label], paths[csv.label], new=csv.new, gone=csv.gone), head=csv.head
            )
            for csv in written
            if csv.label not in failed
        },
        failed=failed,
    )


def _figures(version: Version, path: str, *, new: int, gone: int) -> ClassCsv:
    return ClassCsv(
        images=version.rows,
        bytes=version.bytes,
        data_version=version.data_version,
        new=new,
        kept=version.rows - new,
        gone=gone,
        written_bytes=version.bytes if new or gone else 0,
        path=path,
    )


def _version(csv: _Written, features: Version, model_version: str) -> Version:
    """The version of a class that its CSV makes up. Its details name the files of features that it is of."""
    return Version(
        label=csv.label,
        directory=posixpath.dirname(csv.path),
        data_version=combined_version(features.data_version, model_version),
        parts=[Part(csv.path, [csv.rows], csv.bytes)],
        inputs={MOBILENET_FEATURES: features.data_version, PCA_MODEL: model_version},
        details={"sha256": csv.sha256, "files": [part.path for part in features.parts]},
    )


def _project(params: ProjectParams, directory: str, work: list[_Work]) -> list[tuple[str, _Written | str]]:
    """One Spark task: writes one CSV for each of its classes.

    Returns each class with its CSV, or with the reason where a file of its features is missing or damaged.
    """
    store = open_root(params.store)
    components = read_components(params.store, params.model_directory)

    def projected(one: _Work) -> tuple[str, _Written | str]:
        label = str(one.features.label)
        try:
            return label, _project_class(store, components, directory, one, params)
        except FruitsError as error:
            return label, f"{error}. {recompute_hint(label)}"

    return concurrently(projected, work, store.write_threads)


def _project_class(
    store: Root, components: NDArray[np.float64], directory: str, work: _Work, params: ProjectParams
) -> _Written:
    """Writes a version of the CSV of one class."""
    label, parts = str(work.features.label), work.features.parts
    old = _old_rows(store, work.old)
    kept = None if old is None or params.recompute else _kept_rows(store, work, old, params.model_version)
    files = set(work.old.details["files"]) if work.old and kept is not None else set()
    new = [
        _projected(rows, components)
        for part in parts
        if part.path not in files
        for rows in _rows(store, part, ["path", "label", "features"])
    ]
    computed = sum(rows.num_rows for rows in new)
    tables = [pa.Table.from_batches([batch]) for batch in new]
    rows = pa.concat_tables(tables if kept is None else [*tables, kept]).sort_by("path").combine_chunks()
    gone = 0
    if old is not None:
        gone = old.num_rows - int(pc.sum(pc.is_in(old.column("path"), rows.column("path"))).as_py() or 0)
    csv = write_csv(rows)
    path = f"{directory}/{class_key(label)}/part.csv"
    with store.create(path) as stream:
        stream.write(csv)
    store.sync(path)
    return _Written(
        label=label,
        path=path,
        rows=rows.num_rows,
        new=computed,
        gone=gone,
        bytes=len(csv),
        sha256=hashlib.sha256(csv).hexdigest(),
        head=_head(rows.slice(0, PREVIEW_ROWS)),
    )


def _old_rows(store: Root, old: Version | None) -> pa.Table | None:
    """The rows of the last CSV of a class; None where it has none, or its file is missing or damaged."""
    if old is None or not old.parts:
        return None
    try:
        content = store.read(old.parts[0].path)
    except FileNotFoundError:
        return None
    whole = hashlib.sha256(content).hexdigest() == old.details.get("sha256")
    return read_csv(content) if whole else None


def _kept_rows(store: Root, work: _Work, old: pa.Table, model_version: str) -> pa.Table | None:
    """The rows of the last CSV that the new CSV has too; None where all rows are to compute."""
    files = work.old.details.get("files") if work.old else None
    if not work.old or not isinstance(files, list) or work.old.inputs.get(PCA_MODEL) != model_version:
        return None
    still_there = [part for part in work.features.parts if part.path in files]
    read = concurrently(lambda part: read_column_of(store, part, "path"), still_there)
    paths = list(chain.from_iterable(read))
    kept = old.filter(pc.is_in(old.column("path"), pa.array(paths, pa.string())))
    # In a CSV of an earlier release, two names can look alike: '=x and =x.
    if not kept.num_rows == pc.count_distinct(kept.column("path")).as_py() == len(paths):
        return None
    label = pa.array([work.features.label] * kept.num_rows, pa.string())
    return kept.set_column(kept.schema.get_field_index("label"), "label", label)


def _projected(rows: pa.RecordBatch, components: NDArray[np.float64]) -> pa.RecordBatch:
    """The rows of a CSV: path, label and the components pc1, pc2, ..."""
    projected = vectors_in(rows).astype(np.float64) @ components
    names = ["path", "label", *(f"pc{number + 1}" for number in range(components.shape[1]))]
    columns = [rows.column("path"), rows.column("label"), *map(pa.array, projected.T)]
    return pa.RecordBatch.from_arrays(columns, names)


def _rows(store: Root, part: Part, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    return read_row_groups(store, part.path, range(len(part.row_groups)), columns)


def _head(rows: pa.Table) -> str:
    """The rows as text for a reader: components have three decimals."""
    lines = [",".join(rows.schema.names)]
    for path, label, *components in zip(*rows.to_pydict().values(), strict=True):
        line = ",".join([path, label, *(f"{component:.3f}" for component in components)])
        # A file name may contain a line break.
        lines.append("".join(character if character.isprintable() else "?" for character in line))
    return "\n".join(lines)
