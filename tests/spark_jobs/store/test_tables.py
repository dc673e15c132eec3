"""The versioned tables: pointers, concurrent writers and readers, sweeping, writes that are whole."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
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
    """Writes a version of a class, one file of some row groups, without publishing it."""
    root = open_root(store)
    directory = f"{new_directory(table, 'run')}/{class_key(label)}"
    writer = PartWriter(root, directory, SCHEMA)
    for group in paths:
        writer.write(pa.RecordBatch.from_arrays([group, [label] * len(group)], schema=SCHEMA))
    return Pointer(
        label=label, directory=directory, data_version=combined_version(*paths[0]), parts=[writer.close()]
    )


# Pointers and what they name.


def test_what_was_published_is_current_and_sorted_by_label(store: str) -> None:
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


def test_given_classes_are_those_of_them_that_exist(store: str) -> None:
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
def test_a_class_key_is_short_and_plain(label: str) -> None:
    key = class_key(label)
    assert key.replace("-", "").isalnum()
    assert key.isascii()
    assert not key.startswith("-")
    assert len(key) <= 61


def test_classes_that_look_alike_have_different_keys() -> None:
    assert len({class_key(label).lower() for label in AWKWARD}) == len(AWKWARD)


def test_files_are_named_in_full_for_pandas_in_the_order_of_class_and_path(store: str) -> None:
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


def test_a_part_tells_its_row_groups_and_size_and_is_read_by_them(store: str) -> None:
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
LENGTH = 50_000  # a pointer of so many bytes takes several writes, so that a half could be seen


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
    """Says which versions of the class that all publish were seen; halves are seen as "torn"."""
    together.wait()
    versions = set()
    while not finished.is_set():
        for pointer in current(open_root(store), "raw").values():
            versions.add(pointer.data_version if whole(pointer) else "torn")
    seen.put(versions)


def test_readers_never_see_half_a_pointer_while_processes_publish_the_same_class(store: str) -> None:
    # Not forked: this process has the threads of Spark and Arrow.
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
        assert len(versions) > 2  # else nothing was replaced while they read
    final = current(open_root(store), "raw")
    assert list(final) == ["Kiwi", "one", "two"]
    assert final["Kiwi"].data_version in [f"{name} {PUBLICATIONS - 1}" for name in ("one", "two")]
    assert {path.suffix for path in (Path(store) / "raw/current").iterdir()} == {".json"}


def test_threads_that_publish_different_classes_at_once_lose_none(store: str) -> None:
    root = open_root(store)
    labels = [f"class {number}" for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda label: publish(root, "raw", [long_pointer(label, label)]), labels))
    pointers = current(root, "raw")
    assert sorted(pointers) == sorted(labels)
    assert all(map(whole, pointers.values()))


# Writes that are whole.

WRITER = """
import sys
from itertools import count
from spark_jobs.store.root import open_root
root, path = open_root(sys.argv[1]), sys.argv[2]
for number in count():
    root.write(path, f"{number % 10}".encode() * 1_000_000)
    print(number, flush=True)
"""


@pytest.mark.parametrize("writes", [1, 2, 5, 9])
def test_a_process_that_is_killed_while_it_writes_leaves_the_file_whole(store: str, writes: int) -> None:
    path = pointer_path("raw", "Kiwi")
    process = subprocess.Popen([sys.executable, "-c", WRITER, store, path], stdout=subprocess.PIPE)
    assert process.stdout is not None
    for _ in range(writes):
        process.stdout.readline()
    time.sleep(writes / 1000)  # a little into the next write
    process.send_signal(signal.SIGKILL)
    process.communicate()
    content = (Path(store) / path).read_bytes()
    assert len(content) == 1_000_000
    assert len(set(content)) == 1


def test_a_write_that_fails_leaves_nothing_beside_what_was_there(store: str) -> None:
    (Path(store) / "a folder").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        open_root(store).write("a folder", b"content")
    assert [path.name for path in Path(store).iterdir()] == ["a folder"]


def test_many_files_are_read_in_the_order_of_their_names_given(store: str) -> None:
    root = open_root(store)
    contents = [(f"{number}", f"{number}".encode()) for number in range(100)]
    root.write_many(contents)
    assert root.read_many(path for path, _ in reversed(contents)) == [
        content for _, content in contents[::-1]
    ]


# Sweeping.

DAY = timedelta(hours=24)


def age(store: str, *paths: str, hours: float) -> None:
    """Sets the times of files, and of all files below folders, back."""
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


def test_what_nothing_points_to_any_more_is_swept_and_counted(store: str) -> None:
    old, other, new = published(store), published(store, "Banana"), published(store)
    age(store, "raw", hours=25)
    assert sweep(open_root(store), "raw", DAY) == 1
    assert [exists(store, pointer) for pointer in (old, other, new)] == [False, True, True]
    assert sweep(open_root(store), "raw", DAY) == 0


def test_what_a_dead_run_left_is_swept(store: str) -> None:
    kept, orphan = published(store), put_version(store, "raw", "Banana", [["1"]])
    age(store, "raw", hours=25)
    assert sweep(open_root(store), "raw", DAY) == 1
    assert [exists(store, pointer) for pointer in (kept, orphan)] == [True, False]


def test_what_a_run_is_still_writing_is_kept(store: str) -> None:
    published(store)
    age(store, "raw", hours=25)
    writing = put_version(store, "raw", "Kiwi", [["1"]])
    assert sweep(open_root(store), "raw", DAY) == 0
    assert exists(store, writing)


def test_a_directory_is_as_old_as_its_newest_file(store: str) -> None:
    published(store)
    writing = put_version(store, "raw", "Kiwi", [["1"]])
    open_root(store).write(f"{writing.directory}/part-2.parquet", b"")
    age(store, "raw", hours=25)
    age(store, f"{writing.directory}/part-2.parquet", hours=1)
    assert sweep(open_root(store), "raw", DAY) == 0


def test_what_was_replaced_just_now_is_kept_for_its_readers_though_written_long_ago(store: str) -> None:
    old = published(store)
    age(store, "raw", hours=1000)
    published(store)
    assert sweep(open_root(store), "raw", DAY) == 0
    assert exists(store, old)
    age(store, pointer_path("raw", "Kiwi"), hours=25)
    assert sweep(open_root(store), "raw", DAY) == 1
    assert not exists(store, old)


def test_a_model_is_swept_by_the_same_rules(store: str) -> None:
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


def test_other_tables_and_files_beside_the_versions_are_not_swept(store: str) -> None:
    root = open_root(store)
    published(store)
    others = ["raw2/version=1/x/key/part", "raw/Kiwi.csv", "raw/version=x.csv", "raw/notes/version=1/a/b/c"]
    root.write_many((path, b"") for path in others)
    age(store, "", hours=1000)
    assert sweep(root, "raw", DAY) == 0
    assert all((Path(store) / path).exists() for path in others)


def test_sweeping_leaves_no_empty_folders(store: str) -> None:
    published(store)
    put_version(store, "raw", "Banana", [["1"]])
    age(store, "raw", hours=25)
    sweep(open_root(store), "raw", DAY)
    assert not [path for path in Path(store).rglob("*") if path.is_dir() and not any(path.iterdir())]


def test_runs_that_sweep_at_the_same_time_do_not_fail_one_another(store: str) -> None:
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


def test_pointers_are_json_that_people_can_read(store: str) -> None:
    publish(
        open_root(store),
        "raw",
        [Pointer(label="Crème brûlée", directory="raw/version=1/x/y", data_version="v")],
    )
    [path] = (Path(store) / "raw/current").iterdir()
    assert "Crème brûlée" in path.read_text(encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8"))["label"] == "Crème brûlée"
