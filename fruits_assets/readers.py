"""Reads the outputs of a store, on disk or on S3: for notebooks and for programs that train on the outputs.

    from fruits_assets.readers import list_files, read_arrow, read_pandas

    features = read_pandas("/data/store", "mobilenet_features")

A store is a folder or `s3://bucket/prefix`. Credentials are those that boto3 finds. An output is a table
(`raw_images`, `quarantined_images`, `mobilenet_features`) or `pca_features_csv`. The columns `path` and
`label` are always text, also for classes that are called `001` or `None`.
"""

import os
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.fs as pafs

from spark_jobs.errors import FruitsError
from spark_jobs.spark_model import SPARK_MODEL
from spark_jobs.store.classes import current_versions
from spark_jobs.store.csv_rows import read_csv
from spark_jobs.store.parquet import read_row_groups
from spark_jobs.store.pointers import class_pointers, current_one, pointer_path
from spark_jobs.store.root import Root, concurrently, delta_options, open_root, plain_s3_uri
from spark_jobs.store.s3_errors import s3_errors_explained
from spark_jobs.store.schemas import PCA_FEATURES_CSV, PCA_MODEL, SCHEMAS
from spark_jobs.store.versions import Part, Version
from spark_jobs.wording import named

if TYPE_CHECKING:
    import pandas as pd

# A message names this many classes.
_NAMED = 10


def read_arrow(
    store: str,
    output: str,
    classes: Collection[str] | None = None,
    columns: Sequence[str] | None = None,
    *,
    version: int | datetime | None = None,
) -> pa.Table:
    """The current rows of an output, of all classes or of the given classes, sorted by class and file.

    `columns` chooses columns, in their order. `version` reads a table as it was: the number of a version of
    its Delta log, or a time. Versions can be read as long as the store keeps their files
    (FRUITS_KEEP_HOURS).

    Raises `FruitsError` for an unknown output or class, for a file that is missing or damaged, for a version
    that is gone, and for a fault of S3.
    """
    with s3_errors_explained():
        root = _open(store)
        if version is not None:
            return _earlier(root, output, classes, columns, version)
        versions = _versions(root, output, classes)
        parts = [part for found in versions.values() for part in found.parts]
        names = list(columns) if columns else None
        if output == PCA_FEATURES_CSV:
            tables = concurrently(lambda part: _read_csv(root, part, names), parts)
            return pa.concat_tables(tables) if tables else pa.table({})
        schema = SCHEMAS[output]
        names = names or schema.names
        tables = concurrently(lambda part: _read_part(root, part, names), parts)
        empty = pa.schema([schema.field(name) for name in names]).empty_table()
        return pa.concat_tables([empty, *tables])


def read_pandas(
    store: str,
    output: str,
    classes: Collection[str] | None = None,
    columns: Sequence[str] | None = None,
    *,
    version: int | datetime | None = None,
) -> "pd.DataFrame":
    """`read_arrow` as a data frame of pandas."""
    return read_arrow(store, output, classes, columns, version=version).to_pandas()


def list_files(store: str, output: str, classes: Collection[str] | None = None) -> list[str]:
    """The full names of the current files of an output, sorted by class. Raises the errors of `read_arrow`.

    Files that are not in the list may be of earlier versions: do not read a folder of the store instead.
    """
    with s3_errors_explained():
        root = _open(store)
        versions = _versions(root, output, classes).values()
        return [root.uri_of(part.path) for version in versions for part in version.parts]


def spark_model(store: str) -> str:
    """The full name of the folder that `pyspark.ml.feature.PCAModel.load` reads.

    Raises `FruitsError` if the store has no model.
    """
    with s3_errors_explained():
        root = _open(store)
        model = current_one(root, PCA_MODEL)
    if model is None:
        raise FruitsError(f"{root.uri} has no pca_model yet. Run all classes first: fruits run")
    return root.uri_of(f"{model.directory}/{SPARK_MODEL}")


def _open(store: str) -> Root:
    """The root of a store, which must exist. On S3, its clients get the credentials that boto3 finds."""
    if plain_s3_uri(store).startswith("s3://"):
        from resources.aws_credentials import provide_credentials

        provide_credentials()
    root = open_root(store if "://" in store else os.path.expanduser(store))
    if not root.exists():
        raise FruitsError(f"The store {root.uri} does not exist. Name the value of FRUITS_STORE.")
    return root


def _versions(root: Root, output: str, classes: Collection[str] | None) -> dict[str, Version]:
    """The current version of each class, or of each given class; all of them are whole."""
    if output not in (*SCHEMAS, PCA_FEATURES_CSV):
        known = ", ".join([*SCHEMAS, PCA_FEATURES_CSV])
        raise FruitsError(f"There is no output {output!r}. The outputs are {known}.")
    versions = current_versions(root, output, classes)
    if absent := [label for label in classes or () if label not in versions]:
        labels = list(current_versions(root, output))
        shown = named(labels, _NAMED)
        raise FruitsError(
            f"{root.uri_of(output)} has no class {absent[0]!r}. Its classes are: {shown or 'none'}."
        )
    for label, version in versions.items():
        if version.damage:
            raise FruitsError(f"The class {label!r}: {version.damage}.")
    if output == PCA_FEATURES_CSV and classes is None:
        known_pointers = {pointer_path(output, label) for label in versions}
        for path in set(class_pointers(root, output)) - known_pointers:
            raise FruitsError(
                f"The pointer {root.uri_of(path)} is damaged. Run all classes again: fruits run"
            )
    return versions


def _read_part(root: Root, part: Part, columns: Sequence[str]) -> pa.Table:
    return pa.Table.from_batches(read_row_groups(root, part.path, range(len(part.row_groups)), columns))


def _read_csv(root: Root, part: Part, columns: Sequence[str] | None) -> pa.Table:
    """The rows of a CSV."""
    try:
        content = root.read(part.path)
    except FileNotFoundError as error:
        raise FruitsError(
            f"{root.uri_of(part.path)} is missing. Run all classes again: fruits run"
        ) from error
    rows = read_csv(content)
    return rows.select(columns) if columns else rows


def _earlier(
    root: Root,
    table: str,
    classes: Iterable[str] | None,
    columns: Sequence[str] | None,
    version: int | datetime,
) -> pa.Table:
    """The rows of a table in an earlier version of its log."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    if table not in SCHEMAS:
        raise FruitsError(f"Only {', '.join(SCHEMAS)} have earlier versions, not {table}.")
    try:
        opened = DeltaTable(root.uri_of(table), storage_options=delta_options(root.uri))
        opened.load_as_version(version)
        chosen = [("label", "in", list(classes))] if classes is not None else None
        names = list(columns) if columns else SCHEMAS[table].names
        # With deltalake's own file system, Python may abort at its end: https://github.com/apache/arrow/issues/34314
        files = pafs.SubTreeFileSystem(table, root.fs)
        return opened.to_pyarrow_table(filters=chosen, columns=names, filesystem=files)
    except (DeltaError, FileNotFoundError) as error:
        raise FruitsError(
            f"Version {version} of {root.uri_of(table)} cannot be read ({error}). Runs remove versions after "
            "FRUITS_KEEP_HOURS."
        ) from error
