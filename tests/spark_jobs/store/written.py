"""Writes classes of the table `quarantined_images`, whose rows are small, for tests of the store."""

from collections.abc import Iterable, Sequence

import pyarrow as pa
import pytest

from spark_jobs.store.leases import held_lease
from spark_jobs.store.parquet import PartWriter
from spark_jobs.store.root import Root
from spark_jobs.store.schemas import QUARANTINED_IMAGES, SCHEMAS
from spark_jobs.store.tables import current, replace_classes
from spark_jobs.store.versions import Part

TABLE = QUARANTINED_IMAGES


def write_part(root: Root, label: str, paths: Sequence[str], run: str = "run") -> Part:
    """A finished file with one row for each path, which is not committed."""
    writer = PartWriter(root, f"{TABLE}/{run}", SCHEMAS[TABLE])
    rows = [{"path": path, "label": label, "sha256": path, "bytes": 1, "reason": "bad"} for path in paths]
    writer.write(pa.RecordBatch.from_pylist(rows, SCHEMAS[TABLE]))
    return writer.close()


def commit_class(root: Root, label: str, paths: Sequence[str], run: str = "run") -> Part:
    """Replaces a class by one file with one row for each path, as a run does."""
    with held_lease(root, run) as lease:
        part = write_part(root, label, paths, run)
        replace_classes(root, TABLE, {label: [part]}, lease)
    return part


def write_earlier_table(root: Root) -> None:
    """Commits a row of the class Kiwi as an earlier release did, without the columns modified and etag."""
    columns = [column for column in SCHEMAS[TABLE] if column.name not in ("modified", "etag")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCHEMAS, TABLE, pa.schema(columns))
        patch.setattr("spark_jobs.store.tables.COLUMNS_VERSION", 1)
        commit_class(root, "Kiwi", ["a"])


def rows_of(root: Root, labels: Iterable[str] | None = None) -> dict[str, int]:
    """The current number of rows of each class."""
    return {label: version.rows for label, version in current(root, TABLE, labels).items()}
