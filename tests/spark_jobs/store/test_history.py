"""Classes that come back as the tables had them at an earlier time, or after a run."""

import os
import re
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from spark_jobs.errors import FruitsError
from spark_jobs.store.classes import TABLES, Holding, forget_classes, forgotten, holdings
from spark_jobs.store.history import restore_classes
from spark_jobs.store.leases import held_lease
from spark_jobs.store.parquet import PartWriter, read_column, vectors_column
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import MOBILENET_FEATURES, QUARANTINED_IMAGES, RAW_IMAGES, SCHEMAS
from spark_jobs.store.sweep import sweep_table
from spark_jobs.store.tables import CHECKPOINT_INTERVAL, LOG, current, open_table, replace_classes
from spark_jobs.store.versions import Part
from tests.s3_server import s3_bucket

DAY = timedelta(hours=24)


@pytest.fixture
def root(store: str) -> Root:
    return open_root(store)


def write_part(root: Root, table: str, label: str, names: Iterable[str], run: str) -> Part:
    """A finished file with one row for each name of a photo."""
    known: dict[str, Any] = {"label": label, "sha256": "0" * 64, "bytes": 1, "reason": "bad", "content": b"1"}
    rows = [{"path": f"{label}/{name}", **known} for name in names]
    batch = pa.RecordBatch.from_pylist(
        [{**dict.fromkeys(SCHEMAS[table].names), **row} for row in rows],
        pa.schema([field for field in SCHEMAS[table] if field.name != "features"]),
    )
    if table == MOBILENET_FEATURES:
        vectors = vectors_column(np.zeros((len(rows), 1280), np.float32))
        batch = pa.RecordBatch.from_arrays([*batch.columns, vectors], schema=SCHEMAS[table])
    writer = PartWriter(root, f"{table}/{run}", SCHEMAS[table])
    writer.write(batch)
    return writer.close()


def write_class(
    root: Root, label: str, names: Iterable[str], run: str, tables: Iterable[str] = TABLES
) -> datetime:
    """Replaces a class as the jobs of a run do; returns a time after it and before the next run."""
    with held_lease(root, run) as lease:
        for table in tables:
            replace_classes(root, table, {label: [write_part(root, table, label, names, run)]}, lease)
    return a_moment()


def a_moment() -> datetime:
    """A time between the commits before and after the call. Commits have times in milliseconds."""
    time.sleep(0.01)
    moment = datetime.now(UTC)
    time.sleep(0.01)
    return moment


def names_in(root: Root, label: str) -> dict[str, list[str]]:
    """The names of the photos of a class in each table that has the class."""
    versions = {table: current(root, table, [label]) for table in TABLES}
    return {
        table: [path.rpartition("/")[2] for path in read_column(root, found[label], "path")]
        for table, found in versions.items()
        if found
    }


def everywhere(*names: str) -> dict[str, list[str]]:
    return {table: list(names) for table in TABLES}


def test_a_class_comes_back_in_all_tables_as_it_was_at_a_time(root: Root) -> None:
    first = write_class(root, "Kiwi", ["1.jpg", "2.jpg"], "run-1")
    write_class(root, "Lemon", ["1.jpg"], "run-1")
    write_class(root, "Kiwi", ["3.jpg"], "run-2")
    then = {table: current(root, table) for table in TABLES}
    restored = restore_classes(root, ["Kiwi"], "restore-1", first)
    assert names_in(root, "Kiwi") == everywhere("1.jpg", "2.jpg")
    for table in TABLES:
        assert restored[table] == current(root, table, ["Kiwi"])
        assert current(root, table)["Lemon"] == then[table]["Lemon"]


def test_a_class_comes_back_as_it_was_after_a_run_also_by_the_start_of_its_id(root: Root) -> None:
    write_class(root, "Kiwi", ["1.jpg"], "aaaa-1")
    write_class(root, "Kiwi", ["2.jpg"], "bbbb-2")
    restore_classes(root, ["Kiwi"], "restore-1", "aaaa-1")
    assert names_in(root, "Kiwi") == everywhere("1.jpg")
    restore_classes(root, ["Kiwi"], "restore-2", "bbbb")
    assert names_in(root, "Kiwi") == everywhere("2.jpg")


def test_a_table_without_a_commit_of_the_run_goes_back_to_the_time_of_the_run(root: Root) -> None:
    write_class(root, "Kiwi", ["1.jpg"], "run-1")
    write_class(root, "Kiwi", ["2.jpg"], "images-only", [QUARANTINED_IMAGES, RAW_IMAGES])
    write_class(root, "Kiwi", ["3.jpg"], "run-3")
    restore_classes(root, ["Kiwi"], "restore-1", "images-only")
    assert names_in(root, "Kiwi") == everywhere("2.jpg") | {MOBILENET_FEATURES: ["1.jpg"]}


def test_a_restoration_can_be_restored_from(root: Root) -> None:
    first = write_class(root, "Kiwi", ["1.jpg"], "run-1")
    second = write_class(root, "Kiwi", ["2.jpg"], "run-2")
    restore_classes(root, ["Kiwi"], "restore-1", first)
    restore_classes(root, ["Kiwi"], "restore-2", second)
    assert names_in(root, "Kiwi") == everywhere("2.jpg")
    restore_classes(root, ["Kiwi"], "restore-3", "restore-1")
    assert names_in(root, "Kiwi") == everywhere("1.jpg")


def test_a_class_that_is_as_it_was_gets_no_commit(root: Root) -> None:
    moment = write_class(root, "Kiwi", ["1.jpg"], "run-1")
    before = [log_of(root, table) for table in TABLES]
    restore_classes(root, ["Kiwi"], "restore-1", moment)
    assert [log_of(root, table) for table in TABLES] == before


def test_files_that_a_class_has_kept_since_are_left_alone(root: Root) -> None:
    moment = write_class(root, "Kiwi", ["1.jpg"], "run-1", [QUARANTINED_IMAGES, MOBILENET_FEATURES])
    parts = [write_part(root, RAW_IMAGES, "Kiwi", [name], "run-1") for name in ("1.jpg", "2.jpg", "3.jpg")]
    with held_lease(root, "run-1") as lease:
        replace_classes(root, RAW_IMAGES, {"Kiwi": parts[:2]}, lease)
        moment = a_moment()
        replace_classes(root, RAW_IMAGES, {"Kiwi": []}, lease)
        replace_classes(root, RAW_IMAGES, {"Kiwi": parts[1:]}, lease)
    restore_classes(root, ["Kiwi"], "restore-1", moment)
    assert names_in(root, "Kiwi")[RAW_IMAGES] == ["1.jpg", "2.jpg"]


def test_a_class_that_had_no_features_then_has_none_afterwards(root: Root) -> None:
    moment = write_class(root, "Kiwi", ["1.jpg"], "run-1", [QUARANTINED_IMAGES, RAW_IMAGES])
    write_class(root, "Kiwi", ["2.jpg"], "run-2")
    restore_classes(root, ["Kiwi"], "restore-1", moment)
    assert names_in(root, "Kiwi") == {QUARANTINED_IMAGES: ["1.jpg"], RAW_IMAGES: ["1.jpg"]}


def test_a_forgotten_class_comes_back_and_nothing_else_does(root: Root) -> None:
    moment = write_class(root, "Kiwi", ["1.jpg"], "run-1")
    moment = write_class(root, "Lemon", ["1.jpg"], "run-1")
    forget_classes(root, ["Kiwi", "Lemon"], "forget-1", DAY)
    assert holdings(root) == {}
    restore_classes(root, ["Kiwi"], "restore-1", moment)
    assert holdings(root) == {"Kiwi": Holding(quarantined=1, images=1, features=1, csv_rows=0)}


def test_a_sweep_keeps_the_files_of_a_restored_class(root: Root) -> None:
    moment = write_class(root, "Kiwi", ["1.jpg"], "run-1")
    write_class(root, "Kiwi", ["2.jpg"], "run-2")
    restore_classes(root, ["Kiwi"], "restore-1", moment)
    with held_lease(root, "sweeper") as lease:
        assert sum(sweep_table(root, table, timedelta(0), lease) for table in TABLES) == len(TABLES)
    assert names_in(root, "Kiwi") == everywhere("1.jpg")


def test_an_unknown_run_is_refused_with_the_last_runs(root: Root) -> None:
    write_class(root, "Kiwi", ["1.jpg"], "run-1")
    write_class(root, "Kiwi", ["1.jpg"], "run-2")
    with pytest.raises(FruitsError, match=r"name no run 'dead'\. The last runs: run-2 at .*; run-1 at "):
        restore_classes(root, ["Kiwi"], "restore-1", "dead")
    with pytest.raises(FruitsError, match=r"Several runs begin with 'run'\. The last runs: run-2"):
        restore_classes(root, ["Kiwi"], "restore-1", "run")
    with pytest.raises(FruitsError, match=r"name no run ''"):
        restore_classes(root, ["Kiwi"], "restore-1", "")


def test_a_class_that_was_not_there_is_refused_and_no_class_changes(root: Root) -> None:
    before = a_moment()
    moment = write_class(root, "Kiwi", ["1.jpg"], "run-1")
    write_class(root, "Kiwi", ["2.jpg"], "run-2")
    write_class(root, "Lemon", ["1.jpg"], "run-2")
    with pytest.raises(FruitsError, match=r"raw_images had no class 'Lemon' at 20.*The last runs: run-2 at"):
        restore_classes(root, ["Kiwi", "Lemon"], "restore-1", moment)
    with pytest.raises(FruitsError, match=r"raw_images had no class 'Kiwi' at 20"):
        restore_classes(root, ["Kiwi"], "restore-1", before)
    assert names_in(root, "Kiwi") == everywhere("2.jpg")


def test_a_store_without_tables_has_nothing_to_restore(root: Root) -> None:
    with pytest.raises(FruitsError, match=r"The tables have no commits yet\."):
        restore_classes(root, ["Kiwi"], "restore-1", a_moment())


@pytest.mark.parametrize("damaged", [False, True], ids=["gone", "damaged"])
def test_a_file_of_then_that_is_lost_refuses_the_class_and_changes_no_table(
    root: Root, damaged: bool
) -> None:
    moment = write_class(root, "Kiwi", ["1.jpg"], "run-1")
    write_class(root, "Kiwi", ["2.jpg"], "run-2")
    [lost] = Path(root.uri, MOBILENET_FEATURES, "run-1").iterdir()
    if damaged:
        lost.write_bytes(lost.read_bytes()[:-9])
    else:
        lost.unlink()
    with pytest.raises(FruitsError, match=rf"'Kiwi' cannot be restored as it was .*{re.escape(lost.name)}"):
        restore_classes(root, ["Kiwi"], "restore-1", moment)
    assert names_in(root, "Kiwi") == everywhere("2.jpg")


def test_a_time_before_the_log_is_refused_with_the_earliest_time_that_works(root: Root) -> None:
    first = write_class(root, "Kiwi", ["0.jpg"], "run-0")
    for number in range(1, 2 * CHECKPOINT_INTERVAL):
        write_class(root, "Kiwi", [f"{number}.jpg"], f"run-{number}")
    with held_lease(root, "sweeper") as lease:
        for table in TABLES:
            for path in (Path(root.uri) / table / "_delta_log").iterdir():
                if path.name[:20] <= f"{CHECKPOINT_INTERVAL:020}":
                    os.utime(path, (0, 0))
            sweep_table(root, table, timedelta(hours=1), lease)
    assert log_of(root, RAW_IMAGES)[0] > f"{0:020}.json"
    with pytest.raises(
        FruitsError, match=r"does not reach back to .* earliest time .* is (\S+)\.$"
    ) as refused:
        restore_classes(root, ["Kiwi"], "restore-1", first)
    earliest = datetime.fromisoformat(str(refused.value).rpartition(" is ")[2].rstrip("."))
    opened = open_table(root, RAW_IMAGES)
    assert opened
    [oldest] = [entry["run"] for entry in opened.history()][-1:]
    restore_classes(root, ["Kiwi"], "restore-2", earliest)
    assert names_in(root, "Kiwi") == everywhere(f"{oldest.removeprefix('run-')}.jpg")


def test_a_class_is_forgotten_and_comes_back_on_s3(tmp_path: Path) -> None:
    with s3_bucket(tmp_path) as bucket:
        root = open_root(f"{bucket}/store")
        write_class(root, "Kiwi", ["1.jpg"], "run-1")
        write_class(root, "Kiwi", ["2.jpg"], "run-2")
        assert forget_classes(root, ["Kiwi"], "forget-1", DAY) == set()
        assert holdings(root) == {}
        restore_classes(root, ["Kiwi"], "restore-1", "run-1")
        assert names_in(root, "Kiwi") == everywhere("1.jpg")
        for info in root.list(f"{RAW_IMAGES}/run-2"):
            root.remove_file(info.path)
        with pytest.raises(
            FruitsError, match=r"'Kiwi' cannot be restored .*s3://fruits/store/raw_images/run-2/"
        ):
            restore_classes(root, ["Kiwi"], "restore-2", "run-2")
        assert names_in(root, "Kiwi") == everywhere("1.jpg")


def log_of(root: Root, table: str) -> list[str]:
    return sorted(path.name for path in Path(root.uri, table, LOG).iterdir() if path.suffix == ".json")


def test_a_job_sees_the_classes_that_were_forgotten_while_it_worked(root: Root) -> None:
    for label in ("Kiwi", "Lemon"):
        write_class(root, label, ["1.jpg"], "run-1")
    forget_classes(root, ["Kiwi"], "forget-1", DAY)
    assert forgotten(root, ["Kiwi", "Lemon"], RAW_IMAGES) == {"Kiwi"}


def test_forgetting_keeps_the_files_for_the_time_that_is_set_and_names_other_writers(root: Root) -> None:
    write_class(root, "Kiwi", ["1.jpg"], "run-1")
    with held_lease(root, "a run") as _:
        assert forget_classes(root, ["Kiwi"], "forget-1", DAY) == {"a run"}
    assert all(Path(root.uri, table, "run-1").exists() for table in TABLES)
    assert forget_classes(root, ["Kiwi"], "forget-2", timedelta(0)) == set()
    assert not any(Path(root.uri, table, "run-1").exists() for table in TABLES)
