"""Outputs with pointers: the current version is whole, whatever several writers and readers do."""

import json
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from typing import Any

import pytest

from spark_jobs.errors import FruitsError
from spark_jobs.store.pointers import current_by_class, current_one, parse_pointer, pointer_path, publish
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.versions import Part, Version, class_key
from tests.spark_jobs.store.test_versions import AWKWARD


def test_published_classes_are_current_and_sorted_by_label(store: str) -> None:
    root = open_root(store)
    root.write("raw/p", b"12345")
    pointers = [
        Version(
            label=label,
            directory=f"raw/version=1/x/{class_key(label)}",
            data_version="v",
            parts=[Part("raw/p", [3, 4], 5)],
            inputs={"a": "b"},
            details={"n": 1},
        )
        for label in AWKWARD
    ]
    publish(root, "raw", pointers)
    found = current_by_class(root, "raw")
    assert list(found.values()) == sorted(pointers, key=lambda pointer: str(pointer.label))
    assert (found["é"].rows, found["é"].bytes) == (7, 5)


def test_current_returns_the_given_classes_that_exist(store: str) -> None:
    root = open_root(store)
    publish(
        root,
        "raw",
        [Version(label=label, directory="raw/x", data_version="v") for label in ("Kiwi", "Banana", "Lemon")],
    )
    assert list(current_by_class(root, "raw", ["Lemon", "none", "Banana"])) == ["Banana", "Lemon"]
    assert current_by_class(root, "raw", []) == {}


def test_an_output_that_was_never_written_is_empty(store: str) -> None:
    assert current_by_class(open_root(store), "raw") == {}
    assert current_one(open_root(store), "model") is None


def test_an_output_without_classes_has_one_pointer(store: str) -> None:
    root = open_root(store)
    for version in ("1", "2"):
        publish(
            root,
            "model",
            [Version(label=None, directory=f"model/version={version}/x/model", data_version=version)],
        )
    assert current_one(root, "model") == Version(
        label=None, directory="model/version=2/x/model", data_version="2"
    )


# Several writers and readers.

PUBLICATIONS = 40
LENGTH = 50_000  # bytes; a pointer of this size takes several writes, so a reader could see a part of it


def long_pointer(label: str, version: str) -> Version:
    return Version(
        label=label,
        directory="raw/x",
        data_version=version,
        details={"filler": version * (LENGTH // len(version))},
    )


def whole(pointer: Version) -> bool:
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
        for pointer in current_by_class(open_root(store), "raw").values():
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
    final = current_by_class(open_root(store), "raw")
    assert list(final) == ["Kiwi", "one", "two"]
    assert final["Kiwi"].data_version in [f"{name} {PUBLICATIONS - 1}" for name in ("one", "two")]
    assert {path.suffix for path in (Path(store) / "raw/current").iterdir()} == {".json"}


def test_threads_that_publish_different_classes_lose_no_pointer(store: str) -> None:
    root = open_root(store)
    labels = [f"class {number}" for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda label: publish(root, "raw", [long_pointer(label, label)]), labels))
    pointers = current_by_class(root, "raw")
    assert sorted(pointers) == sorted(labels)
    assert all(map(whole, pointers.values()))


def test_pointers_are_readable_json(store: str) -> None:
    publish(
        open_root(store),
        "raw",
        [Version(label="Crème brûlée", directory="raw/version=1/x/y", data_version="v")],
    )
    [path] = (Path(store) / "raw/current").iterdir()
    assert "Crème brûlée" in path.read_text(encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8"))["label"] == "Crème brûlée"


def raw_pointer(**changes: Any) -> bytes:
    fields = {"label": "Kiwi", "directory": "raw/x", "data_version": "v", "parts": [], "inputs": {}}
    return json.dumps(fields | changes).encode()


FILE = {"path": "raw/x/part.csv", "row_groups": [1], "bytes": 2}

UNREADABLE = {
    "empty": b"",
    "half": raw_pointer()[:20],
    "a list": b"[]",
    "null": b"null",
    "nested deeply": b"[" * 100_000,
    "not UTF-8": b"\xff\xfe",
    "another class": raw_pointer(label="Banana"),
    "a path as label": raw_pointer(label="../Kiwi"),
    "no label": raw_pointer(label=None),
    "a directory elsewhere": raw_pointer(directory="mobilenet_features/x"),
    "a directory above": raw_pointer(directory="raw/../../x"),
    "an absolute directory": raw_pointer(directory="/etc"),
    "a file above": raw_pointer(parts=[FILE | {"path": "raw/../../etc/passwd"}]),
    "a URI": raw_pointer(parts=[FILE | {"path": "s3://bucket/raw/part.csv"}]),
    "a size that is a text": raw_pointer(parts=[FILE | {"bytes": "2"}]),
    "a negative size": raw_pointer(parts=[FILE | {"bytes": -1, "row_groups": [5]}]),
    "a negative number of rows": raw_pointer(parts=[FILE | {"row_groups": [-1]}]),
    "an infinite number of rows": raw_pointer(parts=[FILE | {"row_groups": [float("inf")]}]),
    "half a row": raw_pointer(parts=[FILE | {"row_groups": [0.5]}]),
    "half a character in a file": raw_pointer(parts=[FILE]).replace(b"part.csv", rb"\ud800.csv"),
    "half a character in a version": raw_pointer().replace(b'"v"', rb'"\ud800"'),
    "a version that is a number": raw_pointer(data_version=5),
    "no details": raw_pointer(details=None),
    "details in a list": raw_pointer(details=[]),
    "a folder without a name": raw_pointer(directory="raw//x"),
    "a file in the same folder": raw_pointer(parts=[FILE | {"path": "raw/./part.csv"}]),
    "NUL in a name": raw_pointer(directory="raw/\0"),
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_a_pointer_that_cannot_be_read_is_left_out_for_its_class_alone(store: str, content: bytes) -> None:
    root = open_root(store)
    publish(root, "raw", [long_pointer("Kiwi", "1"), long_pointer("Lemon", "1")])
    root.write(pointer_path("raw", "Kiwi"), content)
    assert list(current_by_class(root, "raw")) == ["Lemon"]
    assert list(current_by_class(root, "raw", ["Kiwi"])) == []


@pytest.mark.parametrize("label", ["../Kiwi", "a/b", "..", "", "Ki\0wi"])
def test_a_pointer_whose_label_is_no_name_is_left_out(store: str, label: str) -> None:
    root = open_root(store)
    publish(root, "raw", [long_pointer("Lemon", "1"), long_pointer(label, "1")])
    assert list(current_by_class(root, "raw")) == ["Lemon"]


@pytest.mark.parametrize("name", ["._Kiwi.json", "_Kiwi.json", ".DS_Store"])
def test_files_of_the_system_beside_pointers_are_ignored(store: str, name: str) -> None:
    root = open_root(store)
    publish(root, "raw", [long_pointer("Kiwi", "1")])
    root.write(f"raw/current/{name}", b"\0\5\x16\7")
    assert list(current_by_class(root, "raw")) == ["Kiwi"]


def test_an_output_without_classes_names_its_unreadable_pointer(store: str) -> None:
    root = open_root(store)
    root.write("pca_model/current.json", b"")
    with pytest.raises(
        FruitsError, match=r"pca_model/current\.json: the pointer is damaged.*Materialize pca_model"
    ):
        current_one(root, "pca_model")


def test_a_field_of_a_newer_release_is_ignored(store: str) -> None:
    root = open_root(store)
    content = raw_pointer(colour="red", parts=[FILE | {"codec": "zstd"}])
    root.write(pointer_path("raw", "Kiwi"), content)
    assert current_by_class(root, "raw")["Kiwi"].rows == 1


def test_the_name_of_a_pointer_is_the_key_of_its_class(store: str) -> None:
    assert pointer_path("raw", "Kiwi") == f"raw/current/{class_key('Kiwi')}.json"


def test_only_wanted_pointers_are_read(store: str) -> None:
    root: Root = open_root(store)
    publish(root, "raw", [long_pointer("Kiwi", "1")])
    root.write(pointer_path("raw", "Lemon"), b"")
    assert list(current_by_class(root, "raw", ["Kiwi"])) == ["Kiwi"]


def test_a_flipped_bit_of_a_pointer_is_refused_or_changes_nothing(store: str) -> None:
    root = open_root(store)
    details = {"components": 15, "explained_variance": 0.123456789, "weights": "Pêche"}
    version = Version(label=None, directory="model/version=a/b", data_version="1", details=details)
    publish(root, "model", [version])
    path = pointer_path("model", None)
    content = root.read(path)
    assert parse_pointer(path, content) == version
    refused = 0
    for place in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        try:
            assert parse_pointer(path, bytes(flipped)) == version
        except FruitsError:
            refused += 1
    assert refused > 7 * len(content)
