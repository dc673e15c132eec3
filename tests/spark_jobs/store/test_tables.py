"""The versioned tables: pointers, concurrent writers and readers, removal of old versions."""

import json
import multiprocessing
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from spark_jobs.store.root import open_root
from spark_jobs.store.tables import (
    Part,
    PartWriter,
    Pointer,
    class_key,
    combined_version,
    current,
    current_one,
    files,
    new_directory,
    pointer_path,
    publish,
    read_row_groups,
    row_groups,
    rows_in,
    sweep,
)

AWKWARD = [
    "=cmd()",
    "-rf",
    "a b",
    "a-b",
    "A b",
    "é",
    "e",
    "😀" * 60,
    "é" * 127 + "x",
    "100%/"[:4],
    "#1",
    "日本",
]
SCHEMA = pa.schema([("path", pa.string()), ("label", pa.string())])


def put_version(store: str, table: str, label: str, paths: list[list[str]]) -> Pointer:
    """Writes a version of a class without publishing it: one file, with one row group per list of paths."""
    root = open_root(store)
    directory = f"{new_directory(table, 'run')}/{class_key(label)}"
    writer = PartWriter(root, directory, SCHEMA)
    for group in paths:
        writer.write(pa.RecordBatch.from_arrays([group, [label] * len(group)], schema=SCHEMA))
    return Pointer(
        label=label, directory=directory, data_version=combined_version(*paths[0]), parts=[writer.close()]
    )


# Pointers and their files.


def test_published_classes_are_current_and_sorted_by_label(store: str) -> None:
    root = open_root(store)
    pointers = [
        Pointer(
            label=label,
            directory=f"raw/version=1/x/{class_key(label)}",
            data_version="v",
            parts=[Part("p", [3, 4], 5)],
            inputs={"a": "b"},
            details={"n": 1},
        )
        for label in AWKWARD
    ]
    publish(root, "raw", pointers)
    found = current(root, "raw")
    assert list(found.values()) == sorted(pointers, key=lambda pointer: str(pointer.label))
    assert (found["é"].rows, found["é"].bytes) == (7, 5)


def test_current_returns_the_given_classes_that_exist(store: str) -> None:
    root = open_root(store)
    publish(
        root,
        "raw",
        [Pointer(label=label, directory=label, data_version="v") for label in ("Kiwi", "Banana", "Lemon")],
    )
    assert list(current(root, "raw", ["Lemon", "none", "Banana"])) == ["Banana", "Lemon"]
    assert current(root, "raw", []) == {}


def test_a_table_that_was_never_written_is_empty(store: str) -> None:
    assert current(open_root(store), "raw") == {}
    assert current_one(open_root(store), "model") is None
    assert files(store, "raw") == []


def test_a_table_without_classes_has_one_pointer(store: str) -> None:
    root = open_root(store)
    for version in ("1", "2"):
        publish(
            root,
            "model",
            [Pointer(label=None, directory=f"model/version={version}/x/model", data_version=version)],
        )
    assert current_one(root, "model") == Pointer(
        label=None, directory="model/version=2/x/model", data_version="2"
    )


@pytest.mark.parametrize("label", AWKWARD)
def test_a_class_key_is_short_and_alphanumeric(label: str) -> None:
    key = class_key(label)
    assert key.replace("-", "").isalnum()
    assert key.isascii()
    assert not key.startswith("-")
    assert len(key) <= 61


def test_similar_class_names_have_different_keys() -> None:
    assert len({class_key(label).lower() for label in AWKWARD}) == len(AWKWARD)


def test_files_are_absolute_paths_sorted_by_class_and_path(store: str) -> None:
    versions = [
        put_version(store, "raw", label, [[f"{label}/1"], [f"{label}/2"]]) for label in ("b=%", "a #")
    ]
    publish(open_root(store), "raw", versions)
    unpublished = put_version(store, "raw", "a #", [["not yet"]])
    names = files(store, "raw")
    assert all(Path(name).is_absolute() and Path(name).is_file() for name in names)
    assert list(pd.concat(map(pd.read_parquet, names))["path"]) == ["a #/1", "a #/2", "b=%/1", "b=%/2"]
    assert files(store, "raw", ["b=%"]) == names[1:]
    assert unpublished.parts[0].path not in str(names)


def test_a_part_holds_its_size_and_its_row_groups_are_read_by_number(store: str) -> None:
    pointer = put_version(store, "raw", "Kiwi", [["1", "2"], ["3"], ["4", "5", "6"]])
    [part] = pointer.parts
    assert part.row_groups == [2, 1, 3]
    assert part.bytes == (Path(store) / part.path).stat().st_size
    groups = row_groups({"Kiwi": pointer})
    assert rows_in(groups) == pointer.rows == 6
    batches = list(
        read_row_groups(open_root(store), part.path, [groups[2].number, groups[0].number], ["path"])
    )
    assert [batch.column("path").to_pylist() for batch in batches] == [["4", "5", "6"], ["1", "2"]]


def test_a_combined_version_depends_on_every_part_and_their_order() -> None:
    versions = [combined_version(*parts) for parts in (["ab", "c"], ["a", "bc"], ["bc", "a"], ["abc"], [])]
    assert len(set(versions)) == len(versions)


# Several writers and readers.

PUBLICATIONS = 40
LENGTH = 50_000  # bytes; a pointer of this size takes several writes, so a reader could see a part of it


def long_pointer(label: str, version: str) -> Pointer:
    return Pointer(
        label=label,
        directory=version,
        data_version=version,
        details={"filler": version * (LENGTH // len(version))},
    )


def whole(pointer: Pointer) -> bool:
    return pointer == long_pointer(str(pointer.label), pointer.data_version)


def publish_often(together: Barrier, store: str, name: str) -> None:
    together.wait()
    for number in range(PUBLICATIONS):
        publish(open_root(store), "raw", [long_pointer("Kiwi", f"{name} {number}"), long_pointer(name, "1")])


def read_often(together: Barrier, store: str, finished: Event, seen: "SimpleQueue[set[str]]") -> None:
    """Puts the versions of all classes that it read into `seen`; a partial pointer counts as "torn"."""
    together.wait()
    versions = set()
    while not finished.is_set():
        for pointer in current(open_root(store), "raw").values():
            versions.add(pointer.data_version if whole(pointer) else "torn")
    seen.put(versions)


def test_readers_see_only_whole_pointers_while_processes_publish(store: str) -> None:
    # Spawned, not forked, because this process runs threads of Spark and Arrow.
    spawn = multiprocessing.get_context("spawn")
    together, finished = spawn.Barrier(4, timeout=120), spawn.Event()
    seen: SimpleQueue[set[str]] = spawn.SimpleQueue()
    writers = [spawn.Process(target=publish_often, args=(together, store, name)) for name in ("one", "two")]
    readers = [spawn.Process(target=read_often, args=(together, store, finished, seen)) for _ in range(2)]
    for process in [*writers, *readers]:
        process.start()
    for process in writers:
        process.join()
    finished.set()
    for process in readers:
        process.join()
    assert [process.exitcode for process in [*writers, *readers]] == [0] * 4
    for versions in (seen.get(), seen.get()):
        assert "torn" not in versions
        assert len(versions) > 2  # otherwise no pointer was replaced during the reads
    final = current(open_root(store), "raw")
    assert list(final) == ["Kiwi", "one", "two"]
    assert final["Kiwi"].data_version in [f"{name} {PUBLICATIONS - 1}" for name in ("one", "two")]
    assert {path.suffix for path in (Path(store) / "raw/current").iterdir()} == {".json"}


def test_threads_that_publish_different_classes_lose_no_pointer(store: str) -> None:
    root = open_root(store)
    labels = [f"class {number}" for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda label: publish(root, "raw", [long_pointer(label, label)]), labels))
    pointers = current(root, "raw")
    assert sorted(pointers) == sorted(labels)
    assert all(map(whole, pointers.values()))


# Removal of old versions.

DAY = timedelta(hours=24)


def age(store: str, *paths: str, hours: float) -> None:
    """Makes files, and all files below folders, `hours` older."""
    then = time.time() - hours * 3600
    for path in paths:
        top = Path(store) / path
        for file in [top, *top.rglob("*")]:
            os.utime(file, (then, then))


def published(store: str, label: str = "Kiwi") -> Pointer:
    pointer = put_version(store, "raw", label, [["1"]])
    publish(open_root(store), "raw", [pointer])
    return pointer


def exists(store: str, pointer: Pointer) -> bool:
    return (Path(store) / pointer.directory).exists()


def test_a_replaced_version_is_removed_and_counted(store: str) -> None:
    old, other, new = published(store), published(store, "Banana"), published(store)
    age(store, "raw", hours=25)
    assert sweep(open_root(store), "raw", DAY) == 1
    assert [exists(store, pointer) for pointer in (old, other, new)] == [False, True, True]
    assert sweep(open_root(store), "raw", DAY) == 0


def test_the_files_of_a_killed_run_are_removed(store: str) -> None:
    kept, orphan = published(store), put_version(store, "raw", "Banana", [["1"]])
    age(store, "raw", hours=25)
    assert sweep(open_root(store), "raw", DAY) == 1
    assert [exists(store, pointer) for pointer in (kept, orphan)] == [True, False]


def test_the_files_of_a_run_that_still_writes_are_kept(store: str) -> None:
    published(store)
    age(store, "raw", hours=25)
    writing = put_version(store, "raw", "Kiwi", [["1"]])
    assert sweep(open_root(store), "raw", DAY) == 0
    assert exists(store, writing)


def test_the_age_of_a_directory_is_the_age_of_its_newest_file(store: str) -> None:
    published(store)
    writing = put_version(store, "raw", "Kiwi", [["1"]])
    open_root(store).write(f"{writing.directory}/part-2.parquet", b"")
    age(store, "raw", hours=25)
    age(store, f"{writing.directory}/part-2.parquet", hours=1)
    assert sweep(open_root(store), "raw", DAY) == 0


def test_an_old_version_is_kept_for_its_readers_after_its_replacement(store: str) -> None:
    old = published(store)
    age(store, "raw", hours=1000)
    published(store)
    assert sweep(open_root(store), "raw", DAY) == 0
    assert exists(store, old)
    age(store, pointer_path("raw", "Kiwi"), hours=25)
    assert sweep(open_root(store), "raw", DAY) == 1
    assert not exists(store, old)


def test_replaced_models_are_removed_by_the_same_rules(store: str) -> None:
    root = open_root(store)
    pointers = []
    for _ in range(2):
        pointers.append(
            Pointer(label=None, directory=f"{new_directory('model', 'run')}/model", data_version="v")
        )
        root.write(f"{pointers[-1].directory}/spark/data/part.parquet", b"")
        root.write(f"{pointers[-1].directory}/model.json", b"{}")
        age(store, "model/version=run", hours=1000)
        publish(root, "model", pointers[-1:])
    assert sweep(root, "model", DAY) == 0
    age(store, "model/current.json", hours=25)
    assert sweep(root, "model", DAY) == 1
    assert [exists(store, pointer) for pointer in pointers] == [False, True]


def test_other_tables_and_other_files_are_not_removed(store: str) -> None:
    root = open_root(store)
    published(store)
    others = ["raw2/version=1/x/key/part", "raw/Kiwi.csv", "raw/version=x.csv", "raw/notes/version=1/a/b/c"]
    root.write_many((path, b"") for path in others)
    age(store, "", hours=1000)
    assert sweep(root, "raw", DAY) == 0
    assert all((Path(store) / path).exists() for path in others)


def test_a_sweep_leaves_no_empty_folders(store: str) -> None:
    published(store)
    put_version(store, "raw", "Banana", [["1"]])
    age(store, "raw", hours=25)
    sweep(open_root(store), "raw", DAY)
    assert not [path for path in Path(store).rglob("*") if path.is_dir() and not any(path.iterdir())]


def test_concurrent_sweeps_do_not_fail(store: str) -> None:
    root, kept = open_root(store), published(store)
    root.write_many((f"raw/version=1/{number}/key/part.parquet", b"") for number in range(400))
    together = threading.Barrier(3)

    def sweep_all() -> None:
        together.wait()
        sweep(root, "raw", timedelta(0))

    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(sweep_all) for _ in range(3)]:
            future.result()
    [left] = Path(store).rglob("*.parquet")
    assert str(left.relative_to(store)) == kept.parts[0].path


def test_pointers_are_readable_json(store: str) -> None:
    publish(
        open_root(store),
        "raw",
        [Pointer(label="Crème brûlée", directory="raw/version=1/x/y", data_version="v")],
    )
    [path] = (Path(store) / "raw/current").iterdir()
    assert "Crème brûlée" in path.read_text(encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8"))["label"] == "Crème brûlée"
