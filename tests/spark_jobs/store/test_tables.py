"""The Delta tables: readers see whole commits, and a fault of a class concerns that class alone."""

import json
import multiprocessing
import os
import random
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import count
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from spark_jobs.errors import FruitsError
from spark_jobs.store import tables
from spark_jobs.store.leases import held_lease
from spark_jobs.store.parquet import read_column
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import COLUMNS_VERSION, SCHEMAS
from spark_jobs.store.sweep import sweep_table
from spark_jobs.store.tables import (
    CHECKPOINT_INTERVAL,
    Change,
    ClassChange,
    change_classes,
    commit,
    current,
    log_entry,
    open_table,
    replace_classes,
    rows_by_class,
    upgrade_table,
)
from spark_jobs.store.versions import Part
from tests.spark_jobs.store.test_versions import AWKWARD
from tests.spark_jobs.store.written import TABLE, commit_class, rows_of, write_earlier_table, write_part


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
    "file:///etc/passwd",
    "../raw_images/part.parquet",
    "a/../../b.parquet",
    "a%2F..%2F..%2Fb.parquet",
    "s3://bucket/part.parquet",
    "a//b",
    "a%00b",
]


@pytest.mark.parametrize("path", FOREIGN)
def test_a_file_outside_the_table_damages_its_class_alone(root: Root, path: str) -> None:
    commit_class(root, "Banana", ["a"])
    commit_class(root, "Kiwi", ["a"])
    forge(root, path=path)
    versions = current(root, TABLE)
    assert not versions["Banana"].damage
    named = f"the log of {root.uri_of(TABLE)} names {unquote(path)!r}, which is not in it"
    assert named in versions["Kiwi"].damage


@pytest.mark.parametrize("label", ["../Kiwi", "a/b", "..", "Ki\0wi"])
def test_a_label_that_is_no_name_damages_its_class_alone(root: Root, label: str) -> None:
    commit_class(root, "Banana", ["a"])
    forge(root, partitionValues={"label": label})
    versions = current(root, TABLE)
    assert not versions["Banana"].damage
    assert f"names the class {label!r}, which is no name" in versions[label].damage


@pytest.mark.parametrize("values", [{"label": None}, {"label": ""}, {}], ids=["null", "empty", "none"])
def test_a_file_without_a_class_damages_no_class_and_can_be_taken_out(
    root: Root, values: dict[str, str | None]
) -> None:
    commit_class(root, "Banana", ["a"])
    forge(root, partitionValues=values)
    versions = current(root, TABLE)
    assert not versions["Banana"].damage
    assert "names the class '', which is no name" in versions[""].damage
    assert rows_by_class(root, TABLE) == {"": 1, "Banana": 1}
    with held_lease(root, "run") as lease:
        replace_classes(root, TABLE, {"": []}, lease)
    assert rows_of(root) == {"Banana": 1}


@pytest.mark.parametrize("stats", [None, "", "{", "null", "{}"])
def test_a_file_without_a_number_of_rows_damages_its_class_alone(root: Root, stats: str | None) -> None:
    commit_class(root, "Banana", ["a"])
    forge(root, stats=stats)
    versions = current(root, TABLE)
    assert not versions["Banana"].damage
    assert "part.parquet cannot be read" in versions["Kiwi"].damage
    assert rows_by_class(root, TABLE) == {"Banana": 1, "Kiwi": 0}


def forge(root: Root, **changes: Any) -> None:
    """Writes an entry of the log by hand, which adds a file of the class `Kiwi` with some fields changed."""
    opened = open_table(root, TABLE)
    assert opened is not None
    fields = {"path": "part.parquet", "partitionValues": {"label": "Kiwi"}, "size": 1, "dataChange": True}
    fields |= {"modificationTime": 0, "stats": json.dumps({"numRecords": 1})} | changes
    entry = f"{json.dumps({'add': fields})}\n{json.dumps({'commitInfo': {}})}\n"
    root.write(log_entry(TABLE, opened.version() + 1), entry.encode())


def test_files_of_a_folder_that_the_log_encodes_are_read_kept_and_replaced(root: Root) -> None:
    run = "run #1: 100 %, 2%20 + é"
    part = commit_class(root, "Kiwi", ["a", "b"], run)
    commit_class(root, "Lemon", ["a"], run)
    assert not any(version.damage for version in current(root, TABLE).values())
    with held_lease(root, "sweeping") as lease:
        assert sweep_table(root, TABLE, timedelta(0), lease) == 0
    commit_class(root, "Kiwi", ["c"])
    assert rows_of(root) == {"Kiwi": 1, "Lemon": 1}
    with held_lease(root, "sweeping") as lease:
        assert sweep_table(root, TABLE, timedelta(hours=1), lease) == 0
        assert sweep_table(root, TABLE, timedelta(0), lease) == 1
    assert not root.has(part.path)
    assert not any(version.damage for version in current(root, TABLE).values())


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


def test_a_table_that_a_backup_has_brought_back_is_read_as_it_is(root: Root, tmp_path: Path) -> None:
    commit_class(root, "Kiwi", ["a"])
    backup = open_root(str(tmp_path / "backup"))
    shutil.copytree(root.uri, backup.uri)
    assert list(current(root, TABLE)) == ["Kiwi"]
    commit_class(root, "Lemon", ["a"])
    assert list(current(root, TABLE)) == ["Kiwi", "Lemon"]
    # After the return to the earlier version, another machine has committed.
    commit_class(backup, "Orange", ["a"])
    shutil.rmtree(root.uri)
    shutil.copytree(backup.uri, root.uri)
    assert list(current(root, TABLE)) == ["Kiwi", "Orange"]


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
    assert not any(version.damage for version in current(root, TABLE).values())


ROUNDS = 20
CLASSES = [f"class {number}" for number in range(8)]
# Classes of the first writer only, of both, and of the second only: each commit holds a group or none of it.
GROUPS = (CLASSES[:2], CLASSES[2:6], CLASSES[6:])


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


def mixed(paths: Mapping[str, Sequence[str]]) -> list[str]:
    """The groups of classes that do not hold the three rows of one round of one writer for each class."""
    faults = []
    for labels in GROUPS:
        rounds = {path.rpartition(" ")[0] for label in labels for path in paths[label]}
        if len(rounds) != 1 or any(len(paths[label]) != 3 for label in labels):
            faults.append(str({label: paths[label] for label in labels}))
    return faults


def read_until(store: str, finished: Event, seen: "SimpleQueue[tuple[int, list[str]]]") -> None:
    """Puts the number of looks into `seen`, and what was wrong in them.

    It looks by three ways: a table that delta-rs opens, one that follows the log, and the reader of the jobs.
    """
    root, looks, faults = open_root(store), 0, []
    try:
        following = DeltaTable(root.uri_of(TABLE))
        while not (finished.is_set() and looks):
            following.update_incremental()
            for table in (DeltaTable(root.uri_of(TABLE)), following):
                faults += mixed(by_class(table.to_pyarrow_table().to_pylist()))
            versions = current(root, TABLE)
            faults += mixed({label: read_column(root, versions[label], "path") for label in CLASSES})
            looks += 1
    except Exception as error:
        faults.append(repr(error))
    seen.put((looks, faults))
    os._exit(0)  # pyarrow's threads can abort a process that ends right after it has read a dataset


def test_two_writers_on_overlapping_classes_and_a_reader_see_whole_commits_only(root: Root) -> None:
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
    last = {label: read[0].rpartition(" ")[0] for label, read in by_class(plain_rows(root)).items()}
    assert {last[label] for label in CLASSES[:2]} == {f"one {ROUNDS - 1}"}
    assert {last[label] for label in CLASSES[6:]} == {f"two {ROUNDS - 1}"}
    assert len({last[label] for label in CLASSES[2:6]}) == 1


def by_class(rows: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """The paths of the rows of each of the classes."""
    return {label: [row["path"] for row in rows if row["label"] == label] for label in CLASSES}


def write_forever(store: str, ready: Event) -> None:
    """Replaces all classes again and again; each row holds the round."""
    root = open_root(store)
    for number in count():
        with held_lease(root, f"round-{number}") as lease:
            paths = [f"run {number} {row}" for row in range(3)]
            parts = {label: [write_part(root, label, paths, lease.run)] for label in CLASSES}
            replace_classes(root, TABLE, parts, lease)
            sweep_table(root, TABLE, timedelta(hours=1), lease)
        ready.set()


def test_after_kills_at_any_moment_all_classes_are_of_one_round_and_the_next_run_commits(root: Root) -> None:
    spawn, chance = multiprocessing.get_context("spawn"), random.Random(1)
    for _ in range(8):
        ready = spawn.Event()
        process = spawn.Process(target=write_forever, args=(root.uri, ready))
        process.start()
        assert ready.wait(120)
        time.sleep(chance.uniform(0, 0.2))  # a round takes about as long
        process.kill()
        process.join()
        paths = by_class(plain_rows(root))
        assert len({path.rpartition(" ")[0] for read in paths.values() for path in read}) == 1
        assert {len(read) for read in paths.values()} == {3}
        assert not any(version.damage for version in current(root, TABLE).values())
    commit_class(root, CLASSES[0], ["after"])
    assert by_class(plain_rows(root))[CLASSES[0]] == ["after"]


@pytest.mark.parametrize("commits", [1, 2 * CHECKPOINT_INTERVAL + 1])
def test_a_commit_that_meets_other_commits_is_made_again_on_top_of_them(
    root: Root, tmp_path: Path, commits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other run sweeps after each of its commits, and keeps nothing.

    The runs of one process take turns. Under another path, the store is that of another process.
    """
    commit_class(root, "Kiwi", ["a"])
    (tmp_path / "alias").symlink_to(root.uri)
    elsewhere = open_root(str(tmp_path / "alias"))
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
        for number in range(commits):
            commit_class(elsewhere, "Kiwi", [f"of the second {number}", "and more"], "second")
            with held_lease(elsewhere, "second") as lease:
                sweep_table(elsewhere, TABLE, timedelta(0), lease)
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


# Tables of an earlier release.


@pytest.fixture
def earlier(root: Root) -> Root:
    write_earlier_table(root)
    return root


def test_a_table_of_an_earlier_release_is_read_and_gets_the_new_columns(earlier: Root) -> None:
    assert rows_of(earlier) == {"Kiwi": 1}
    upgrade_table(earlier, TABLE)
    upgrade_table(earlier, TABLE)
    commit_class(earlier, "Lemon", ["b"])
    assert DeltaTable(earlier.uri_of(TABLE)).metadata().configuration == {
        "fruits.columns": str(COLUMNS_VERSION)
    }
    assert {row["path"]: row["etag"] for row in plain_rows(earlier)} == dict.fromkeys("ab")
    versions = current(earlier, TABLE)
    assert read_column(earlier, versions["Kiwi"], "etag") == [None]


def test_runs_that_upgrade_a_table_at_the_same_time_upgrade_it_once(earlier: Root) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: upgrade_table(earlier, TABLE), range(4)))
    table = DeltaTable(earlier.uri_of(TABLE))
    assert [field.name for field in table.schema().fields] == SCHEMAS[TABLE].names
    assert rows_of(earlier) == {"Kiwi": 1}


# Changes of some files of a class.


def test_a_change_adds_and_removes_the_files_that_it_names(root: Root) -> None:
    first, second, other = (commit_more(root, label, [path]) for label, path in FILES)
    with held_lease(root, "run") as lease:
        new = write_part(root, "Kiwi", ["c"])
        change = ClassChange([new], [name_of(first)])
        seen = {"Kiwi": [name_of(first), name_of(second)]}
        assert change_classes(root, TABLE, {"Kiwi": change}, lease, seen) == set()
    assert [part.path for part in current(root, TABLE)["Kiwi"].parts] == [second.path, new.path]
    assert current(root, TABLE)["Lemon"].parts == [other]


def test_a_class_that_another_run_has_changed_meanwhile_is_named_and_left_alone(root: Root) -> None:
    first, second, other = (commit_more(root, label, [path]) for label, path in FILES)
    with held_lease(root, "run") as lease:
        changes = {
            "Kiwi": ClassChange([write_part(root, "Kiwi", ["c"])], [name_of(first)]),
            "Lemon": ClassChange([write_part(root, "Lemon", ["d"])], []),
        }
        seen = {"Kiwi": [name_of(first)], "Lemon": [name_of(other)]}  # not `second`
        assert change_classes(root, TABLE, changes, lease, seen) == {"Kiwi"}
    assert current(root, TABLE)["Kiwi"].parts == [first, second]
    assert current(root, TABLE)["Lemon"].rows == 2


def test_a_change_whose_answer_was_lost_is_not_taken_for_that_of_another_run(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = commit_more(root, "Kiwi", ["a"])
    commit_once = tables._commit_once

    def lose_the_answer(*arguments: Any) -> bool:
        commit_once(*arguments)
        return False

    with held_lease(root, "run") as lease:
        new = write_part(root, "Kiwi", ["c"])
        monkeypatch.setattr(tables, "_commit_once", lose_the_answer)
        change = {"Kiwi": ClassChange([new], [name_of(first)])}
        assert change_classes(root, TABLE, change, lease, {"Kiwi": [name_of(first)]}) == set()
    assert current(root, TABLE)["Kiwi"].parts == [new]


FILES = [("Kiwi", "a"), ("Kiwi", "b"), ("Lemon", "a")]


def name_of(part: Part) -> str:
    return part.path.removeprefix(f"{TABLE}/")


def commit_more(root: Root, label: str, paths: Sequence[str]) -> Part:
    """Adds a file to a class."""
    with held_lease(root, "run") as lease:
        part = write_part(root, label, paths)
        commit(root, TABLE, lease, lambda _: Change({label: [part]}, []))
    return part
