"""The classes of the store, which alone says which classes exist, and how a class leaves it."""

from collections.abc import Collection, Iterable
from datetime import timedelta
from typing import NamedTuple

from spark_jobs.errors import FruitsError
from spark_jobs.store.csv_copies import copy_csvs
from spark_jobs.store.leases import held_lease, live_runs
from spark_jobs.store.pointers import current_by_class, withdraw
from spark_jobs.store.root import Root, concurrently
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_FEATURES_CSV, QUARANTINED_IMAGES, RAW_IMAGES
from spark_jobs.store.sweep import sweep_table, sweep_versions
from spark_jobs.store.tables import current, replace_classes, rows_by_class
from spark_jobs.store.versions import Version

# The tables, in the order in which a class enters them and leaves them: each before those made from it.
TABLES = (QUARANTINED_IMAGES, RAW_IMAGES, MOBILENET_FEATURES)

# Why a class fails whose source is gone when its result is committed.
FORGOTTEN = "fruits forget took it out of the store while this run worked on it"


class Holding(NamedTuple):
    """What the store holds of one class: the rows of each table, and of its CSV."""

    quarantined: int
    images: int
    features: int
    csv_rows: int


def current_versions(store: Root, output: str, labels: Iterable[str] | None = None) -> dict[str, Version]:
    """The current version of each class, or of each given class, of a table or of the CSVs."""
    read = current_by_class if output == PCA_FEATURES_CSV else current
    return read(store, output, labels)


def holdings(store: Root) -> dict[str, Holding]:
    """What the store holds of each of its classes, by label, sorted. It reads logs and pointers alone."""
    rows = concurrently(lambda table: rows_by_class(store, table), TABLES)
    csvs = current_by_class(store, PCA_FEATURES_CSV)
    rows.append({label: version.rows for label, version in csvs.items()})
    labels = sorted({label for table in rows for label in table})
    return {label: Holding(*(table.get(label, 0) for table in rows)) for label in labels}


def old_classes(store: Root) -> set[str]:
    """The classes of a store of release 0.1 that is still to convert."""
    found = concurrently(lambda table: current_by_class(store, table), TABLES)
    return {label for versions in found for label in versions}


def refuse_old_store(store: Root) -> None:
    """Raises `FruitsError` for a store that is still to convert, whose tables are not complete yet."""
    if old_classes(store):
        raise FruitsError(
            f"FRUITS_STORE={store.uri} is of release 0.1. The next run converts it. Run it first: fruits run"
        )


def forget_classes(store: Root, labels: Collection[str], run: str, keep: timedelta) -> set[str]:
    """Takes classes out of all tables and CSVs. Returns the other runs that write to the store meanwhile.

    Files are removed after `keep`, as all files that were replaced. If it is interrupted, the classes are
    still classes of the store, and calling it again takes out the rest.
    """
    with held_lease(store, run) as lease:
        for table in TABLES:
            present = rows_by_class(store, table).keys() & set(labels)
            if present:
                replace_classes(store, table, {label: [] for label in present}, lease)
        lease.check()
        withdraw(store, PCA_FEATURES_CSV, labels)
        copy_csvs(store)
        for table in TABLES:
            sweep_table(store, table, keep, lease)
        sweep_versions(store, PCA_FEATURES_CSV, keep, lease)
        return live_runs(store, lease.now()) - {run}


def forgotten(store: Root, labels: Collection[str], source: str) -> set[str]:
    """The classes that are not in the table `source` any more.

    A job that has made its results current asks this afterwards, and takes the results of these classes out
    again. Since a class leaves the source first, `fruits forget` and a job at the same time leave nothing.
    """
    return set(labels) - rows_by_class(store, source).keys()
