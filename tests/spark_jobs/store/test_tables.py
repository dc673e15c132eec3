"""The Delta tables: readers see whole commits, and a fault of a class concerns that class alone."""

import json
import multiprocessing
import os
import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction

from spark_jobs.errors import FruitsError
from spark_jobs.store.leases import held_lease
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import COLUMNS_VERSION
from spark_jobs.store.sweep import sweep_table
from spark_jobs.store.tables import (
    CHECKPOINT_INTERVAL,
    current,
    log_entry,
    open_table,
    replace_classes,
    rows_by_class,
)
from tests.spark_jobs.store.test_versions import AWKWARD
from tests.spark_jobs.store.written import TABLE, commit_class, rows_of, write_part


@pytest.fixture
def root(store: str) -> Root:
    return open_root(store)


def plain_rows(root: Root) -> list[dict[str, str]]:
    """The rows that delta-rs reads without this project's code."""
    rows: list[dict[str, str]] = DeltaTable(root.uri_of(TABLE)).to_pyarrow_table().to_pylist()
    return rows


def test_a_table_that_was_never_written_has_no_classes(root: Root) -> None:
    assert current(root, TABLE) == {}
    assert rows_by_class(root, TABLE) == {}


def test_classes_of_any_name_are_current_and_sorted(root: Root) -> None:
    with held_lease(root, "run") as lease:
        parts = {label: [write_part(root, label, [f"{label}/1", f"{label}/2"])] for label in AWKWARD}
        replace_classes(root, TABLE, parts, lease)
    assert list(current(root, TABLE)) == sorted(AWKWARD)
    assert rows_by_class(root, TABLE) == dict.fromkeys(sorted(AWKWARD), 2)
    assert {row["label"] for row in plain_rows(root)} == set(AWKWARD)


def test_current_returns_the_given_classes_that_exist(root: Root) -> None:
    for label in ("Kiwi", "Banana", "Lemon"):
        commit_class(root, label, ["a"])
    assert list(current(root, TABLE, ["Lemon", "none", "Banana"])) == ["Banana", "Lemon"]
    assert current(root, TABLE, []) == {}


def test_a_commit_replaces_its_classes_and_no_other_class(root: Root) -> None:
    kept = commit_class(root, "Banana", ["a"])
    commit_class(root, "Kiwi", ["a", "b"])
    commit_class(root, "Kiwi", ["c"])
    assert rows_of(root) == {"Banana": 1, "Kiwi": 1}
    assert current(root, TABLE)["Banana"].parts == [kept]
    assert sorted(row["path"] for row in plain_rows(root)) == ["a", "c"]


def test_a_class_without_files_leaves_the_table(root: Root) -> None:
    commit_class(root, "Banana", ["a"])
    commit_class(root, "Kiwi", ["a"])
    with held_lease(root, "run") as lease:
        replace_classes(root, TABLE, {"Kiwi": []}, lease)
    assert rows_of(root) == {"Banana": 1}


def test_files_of_a_class_are_in_the_order_of_their_first_photos(root: Root) -> None:
    with held_lease(root, "run") as lease:
        parts = [write_part(root, "Kiwi", [path]) for path in ("c", "a", "b")]
        replace_classes(root, TABLE, {"Kiwi": parts}, lease)
    assert [part.first for part in current(root, TABLE)["Kiwi"].parts] == ["a", "b", "c"]


def test_equal_photos_give_an_equal_data_version(root: Root) -> None:
    versions = []
    for groups in (["a", "b"], ["c"]), (["c", "a"], ["b"]), (["a", "b", "c"],), (["a", "b"],):
        with held_lease(root, "run") as lease:
            replace_classes(
                root, TABLE, {"Kiwi": [write_part(root, "Kiwi", paths) for paths in groups]}, lease
            )
        versions.append(current(root, TABLE)["Kiwi"].data_version)
    assert versions[0] == versions[1] == versions[2] != versions[3]


def test_readers_of_any_age_can_read_the_table(root: Root) -> None:
    commit_class(root, "Kiwi", ["a"])
    protocol = DeltaTable(root.uri_of(TABLE)).protocol()
    assert (protocol.min_reader_version, protocol.min_writer_version) == (1, 2)
    assert not protocol.reader_features
    assert not protocol.writer_features


def test_no_path_and_no_hash_of_a_photo_stands_in_the_log(root: Root) -> None:
    for number in range(CHECKPOINT_INTERVAL + 1):
        commit_class(root, "Kiwi", [f"secret-{number}.jpg", "another-secret.jpg"])
    log = Path(root.uri) / TABLE / "_delta_log"
    [checkpoint] = log.glob("*.checkpoint.parquet")
    contents = [path.read_text() for path in log.glob("*.json")]
    contents.append(json.dumps(pq.read_table(checkpoint).to_pylist(), default=str))
    assert all("secret" not in content for content in contents)
    stats = {action["add"]["stats"] for content in contents[:-1] for action in actions_of(content, "add")}
    assert stats == {'{"numRecords": 2}'}


def actions_of(entry: str, kind: str) -> list[dict[str, dict[str, str]]]:
    return [action for line in entry.splitlines() if kind in (action := json.loads(line))]


def test_a_table_of_a_newer_release_is_refused_by_name(root: Root) -> None:
    commit_class(root, "Kiwi", ["a"])
    DeltaTable(root.uri_of(TABLE)).alter.set_table_properties(
        {"fruits.columns": str(COLUMNS_VERSION + 1)}, raise_if_not_exists=False
    )
    with pytest.raises(
        FruitsError, match=rf"{TABLE} has columns of version {COLUMNS_VERSION + 1}.*newer release"
    ):
        current(root, TABLE)


def test_a_log_that_cannot_be_read_is_named(root: Root) -> None:
    commit_class(root, "Kiwi", ["a"])
    commit_class(root, "Kiwi", ["b"])
    (Path(root.uri) / log_entry(TABLE, 1)).write_text('{"add": 5}')
    with pytest.raises(FruitsError, match=rf"log of the table {root.uri_of(TABLE)} cannot be read"):
        current(root, TABLE)


FOREIGN = [
    "/etc/passwd",
    "../raw_images/part.parquet",
    "a/../../b.parquet",
    "s3://bucket/part.parquet",
    "a//b",
]


@pytest.mark.parametrize("path", FOREIGN)
def test_a_file_outside_the_table_damages_its_class_alone(root: Root, path: str) -> None:
    commit_class(root, "Banana", ["a"])
    commit_class(root, "Kiwi", ["a"])
    forge(root, path, "Kiwi")
    versions = current(root, TABLE)
    assert not versions["Banana"].damage
    assert f"the log of {root.uri_of(TABLE)} names {path!r}, which is not in it" in versions["Kiwi"].damage


@pytest.mark.parametrize("label", ["../Kiwi", "a/b", "..", "Ki\0wi"])
def test_a_label_that_is_no_name_damages_its_class_alone(root: Root, label: str) -> None:
    part = commit_class(root, "Banana", ["a"])
    forge(root, part.path.removeprefix(f"{TABLE}/"), label)
    versions = current(root, TABLE)
    assert f"names the class {label!r}, which is no name" in versions[label].damage


def forge(root: Root, path: str, label: str) -> None:
    """Adds a file to the log that this project would not write."""
    table = DeltaTable(root.uri_of(TABLE))
    action = AddAction(path, 1, {"label": label}, 0, True, json.dumps({"numRecords": 1}))
    table.create_write_transaction([action], "append", table.schema(), partition_by=["label"])


@pytest.mark.parametrize("damage", ["removed", "cut", "foreign"])
def test_a_damaged_file_damages_its_class_alone_and_its_rows_stay_known(root: Root, damage: str) -> None:
    commit_class(root, "Banana", ["a"])
    with held_lease(root, "run") as lease:
        part = write_part(root, "Kiwi", ["a", "b"])
        file = Path(root.uri_of(part.path))
        if damage == "removed":
            file.unlink()
        elif damage == "cut":
            file.write_bytes(file.read_bytes()[:-50])
        else:
            pq.write_table(pa.table({"path": ["a", "b"]}), file)
        replace_classes(root, TABLE, {"Kiwi": [part]}, lease)
    versions = current(root, TABLE)
    assert not versions["Banana"].damage
    assert part.path in versions["Kiwi"].damage
    assert versions["Kiwi"].damage.endswith(f"Materialize {TABLE} for it again")
    assert versions["Kiwi"].rows == rows_by_class(root, TABLE)["Kiwi"] == 2


def test_after_many_commits_a_reader_starts_from_a_checkpoint(root: Root) -> None:
    for number in range(3 * CHECKPOINT_INTERVAL + 5):
        commit_class(root, "Kiwi", [str(number)])
    log = Path(root.uri) / TABLE / "_delta_log"
    last = json.loads((log / "_last_checkpoint").read_bytes())["version"]
    later = [path for path in log.glob("*.json") if int(path.stem) > last]
    assert len(later) < CHECKPOINT_INTERVAL
    for path in set(log.glob("*.json")) - set(later):
        path.unlink()
    assert [row["path"] for row in plain_rows(root)] == [str(3 * CHECKPOINT_INTERVAL + 4)]


def test_old_entries_of_the_log_go_and_each_version_of_the_kept_time_can_be_read(root: Root) -> None:
    for number in range(4 * CHECKPOINT_INTERVAL):
        commit_class(root, "Kiwi", [str(number)])
    log, oldest_kept = Path(root.uri) / TABLE / "_delta_log", 2 * CHECKPOINT_INTERVAL + 3
    for path in log.iterdir():
        if path.name[0].isdigit() and int(path.name[:20]) < oldest_kept:
            os.utime(path, (0, 0))
    with held_lease(root, "run") as lease:
        sweep_table(root, TABLE, timedelta(hours=1), lease)
    assert min(int(path.stem) for path in log.glob("*.json")) == 2 * CHECKPOINT_INTERVAL
    for version in range(oldest_kept, 4 * CHECKPOINT_INTERVAL):
        table = DeltaTable(root.uri_of(TABLE), version=version)
        assert table.to_pyarrow_table()["path"].to_pylist() == [str(version - 1)]


# Several writers and readers.


def test_threads_that_write_different_classes_lose_no_commit(root: Root) -> None:
    labels = [f"class {number}" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda label: commit_class(root, label, [label], f"run of {label}"), labels))
    assert rows_of(root) == dict.fromkeys(sorted(labels), 1)


ROUNDS = 20
CLASSES = [f"class {number}" for number in range(8)]


def write_rounds(together: Barrier, store: str, name: str, labels: Sequence[str]) -> None:
    """In each round, replaces all classes at once; each row holds the writer and the round."""
    root = open_root(store)
    chance = random.Random(name)
    for number in range(ROUNDS):
        together.wait()
        with held_lease(root, f"{name}-{number}") as lease:
            parts = {}
            for label in labels:
                paths = [f"{name} {number} {row}" for row in range(3)]
                half = chance.randrange(1, 3)
                run = lease.run
                parts[label] = [write_part(root, label, some, run) for some in (paths[:half], paths[half:])]
            replace_classes(root, TABLE, parts, lease)
            sweep_table(root, TABLE, timedelta(hours=1), lease)


def read_until(store: str, finished: Event, seen: "SimpleQueue[tuple[int, list[str]]]") -> None:
    """Puts the number of looks into `seen`, and each look in which a class was not one writer's round."""
    looks, faults = 0, []
    while not (finished.is_set() and looks):
        rows = DeltaTable(f"{store}/{TABLE}").to_pyarrow_table().to_pylist()
        looks += 1
        for label in CLASSES:
            of_class = [row["path"] for row in rows if row["label"] == label]
            writers = {path.rpartition(" ")[0] for path in of_class}
            if len(of_class) != 3 or len(writers) != 1:
                faults.append(f"{label}: {of_class}")
    seen.put((looks, faults))
    os._exit(0)  # pyarrow's threads can abort a process that ends right after it has read a dataset


def test_two_writers_on_overlapping_classes_and_a_reader_see_whole_classes_only(root: Root) -> None:
    with held_lease(root, "first") as lease:
        first = {
            label: [write_part(root, label, ["first 0 0", "first 0 1", "first 0 2"])] for label in CLASSES
        }
        replace_classes(root, TABLE, first, lease)
    # Spawned, not forked, because this process runs threads of Spark and Arrow.
    spawn = multiprocessing.get_context("spawn")
    together, finished = spawn.Barrier(2, timeout=120), spawn.Event()
    seen: SimpleQueue[tuple[int, list[str]]] = spawn.SimpleQueue()
    writers = [
        spawn.Process(target=write_rounds, args=(together, root.uri, name, labels))
        for name, labels in (("one", CLASSES[:6]), ("two", CLASSES[2:]))
    ]
    reader = spawn.Process(target=read_until, args=(root.uri, finished, seen))
    for process in [reader, *writers]:
        process.start()
    for process in writers:
        process.join()
    finished.set()
    looks, faults = seen.get()
    reader.join()
    assert [process.exitcode for process in [*writers, reader]] == [0] * 3
    assert faults == []
    assert looks > ROUNDS
    opened = open_table(root, TABLE)
    assert opened is not None
    assert opened.version() == 1 + 2 * ROUNDS  # each commit was made once
    last = {label: read[0].rpartition(" ")[0] for label, read in paths_by_class(root).items()}
    assert {last[label] for label in CLASSES[:2]} == {f"one {ROUNDS - 1}"}
    assert {last[label] for label in CLASSES[6:]} == {f"two {ROUNDS - 1}"}
    assert len({last[label] for label in CLASSES[2:6]}) == 1


def paths_by_class(root: Root) -> dict[str, list[str]]:
    rows = plain_rows(root)
    return {label: [row["path"] for row in rows if row["label"] == label] for label in CLASSES}


def test_a_commit_that_meets_another_commit_is_made_again_on_top_of_it(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_class(root, "Kiwi", ["a"])
    opened_by_first, go_on = threading.Event(), threading.Event()
    create = DeltaTable.create_write_transaction

    def wait_once(*arguments: object, **options: object) -> None:
        monkeypatch.setattr(DeltaTable, "create_write_transaction", create)
        opened_by_first.set()
        go_on.wait(60)
        create(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(DeltaTable, "create_write_transaction", wait_once)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(commit_class, root, "Kiwi", ["of the first"], "first")
        assert opened_by_first.wait(60)
        commit_class(root, "Kiwi", ["of the second", "and more"], "second")
        go_on.set()
        first.result()
    assert [row["path"] for row in plain_rows(root)] == ["of the first"]


def test_a_commit_whose_answer_was_lost_is_not_made_twice(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:

    commit_class(root, "Kiwi", ["a"])
    create = DeltaTable.create_write_transaction

    def lose_the_answer(*arguments: object, **options: object) -> None:
        create(*arguments, **options)  # type: ignore[arg-type]
        raise CommitFailedError

    monkeypatch.setattr(DeltaTable, "create_write_transaction", lose_the_answer)
    commit_class(root, "Kiwi", ["b"])
    assert DeltaTable(root.uri_of(TABLE)).version() == 2
    assert rows_of(root) == {"Kiwi": 1}
