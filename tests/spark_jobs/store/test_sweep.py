"""The removal of old versions of outputs with pointers, and of old files of tables."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from spark_jobs.store.leases import held_lease
from spark_jobs.store.pointers import new_directory, pointer_path, publish
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.sweep import sweep_table, sweep_versions
from spark_jobs.store.tables import CHECKPOINT_INTERVAL, LOG, log_entry
from spark_jobs.store.versions import Part, Version, class_key
from tests.spark_jobs.store.test_pointers import UNREADABLE
from tests.spark_jobs.store.written import TABLE, commit_class, rows_of, write_part

DAY = timedelta(hours=24)


def sweep(root: Root, output: str, keep: timedelta) -> int:
    with held_lease(root, "sweeping") as lease:
        return sweep_versions(root, output, keep, lease)


def put_version(store: str, label: str) -> Version:
    """Writes a version of a class without publishing it: one file."""
    root = open_root(store)
    directory = f"{new_directory('raw', 'run')}/{class_key(label)}"
    root.write(f"{directory}/part.csv", b"1")
    return Version(
        label=label, directory=directory, data_version="v", parts=[Part(f"{directory}/part.csv", [1], 1)]
    )


def age(store: str, *paths: str, hours: float) -> None:
    """Makes files, and all files below folders, `hours` older."""
    then = time.time() - hours * 3600
    for path in paths:
        top = Path(store) / path
        for file in [top, *top.rglob("*")]:
            os.utime(file, (then, then))


def published(store: str, label: str = "Kiwi") -> Version:
    pointer = put_version(store, label)
    publish(open_root(store), "raw", [pointer])
    return pointer


def exists(store: str, pointer: Version) -> bool:
    return (Path(store) / pointer.directory).exists()


def test_a_replaced_version_is_removed_and_counted(store: str) -> None:
    old, other, new = published(store), published(store, "Banana"), published(store)
    age(store, "raw", hours=25)
    assert sweep(open_root(store), "raw", DAY) == 1
    assert [exists(store, pointer) for pointer in (old, other, new)] == [False, True, True]
    assert sweep(open_root(store), "raw", DAY) == 0


def test_the_files_of_a_killed_run_are_removed(store: str) -> None:
    kept, orphan = published(store), put_version(store, "Banana")
    age(store, "raw", hours=25)
    assert sweep(open_root(store), "raw", DAY) == 1
    assert [exists(store, pointer) for pointer in (kept, orphan)] == [True, False]


def test_the_files_of_a_run_that_still_writes_are_kept(store: str) -> None:
    published(store)
    age(store, "raw", hours=25)
    writing = put_version(store, "Kiwi")
    assert sweep(open_root(store), "raw", DAY) == 0
    assert exists(store, writing)


def test_the_age_of_a_directory_is_the_age_of_its_newest_file(store: str) -> None:
    published(store)
    writing = put_version(store, "Kiwi")
    open_root(store).write(f"{writing.directory}/part-2.csv", b"")
    age(store, "raw", hours=25)
    age(store, f"{writing.directory}/part-2.csv", hours=1)
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
            Version(label=None, directory=f"{new_directory('model', 'run')}/model", data_version="v")
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
    put_version(store, "Banana")
    age(store, "raw", hours=25)
    sweep(open_root(store), "raw", DAY)
    assert not [path for path in Path(store).glob("raw/**/") if not any(path.iterdir())]


def test_concurrent_sweeps_do_not_fail(store: str) -> None:
    root, kept = open_root(store), published(store)
    root.write_many((f"raw/version=1/{number}/key/part.csv", b"") for number in range(400))
    together = threading.Barrier(3)

    def sweep_all() -> None:
        together.wait()
        sweep(root, "raw", timedelta(0))

    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(sweep_all) for _ in range(3)]:
            future.result()
    [left] = Path(store).rglob("part.csv")
    assert str(left.relative_to(store)) == kept.parts[0].path


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_nothing_is_removed_while_a_pointer_cannot_be_read(store: str, content: bytes) -> None:
    root = open_root(store)
    old, _ = published(store, "Lemon"), published(store, "Lemon")
    root.write(pointer_path("raw", "Kiwi"), content)
    age(store, "raw", hours=25)
    assert sweep(root, "raw", DAY) == 0
    assert exists(store, old)


@pytest.mark.parametrize("name", ["._Kiwi.json", ".DS_Store"])
def test_a_file_of_the_system_beside_pointers_stops_no_sweep(store: str, name: str) -> None:
    root = open_root(store)
    old, _ = published(store), published(store)
    root.write(f"raw/current/{name}", b"\0\5\x16\7")
    age(store, "raw", hours=25)
    assert sweep(root, "raw", DAY) == 1
    assert not exists(store, old)


def test_files_of_a_table_that_no_version_names_are_removed(store: str) -> None:
    root = open_root(store)
    commit_class(root, "Kiwi", ["a"])
    lost = write_part(root, "Kiwi", ["b"], "killed")
    with held_lease(root, "sweeping") as lease:
        assert sweep_table(root, TABLE, DAY, lease) == 1
    assert not root.has(lost.path)
    assert not (Path(store) / TABLE / "killed").exists()
    assert rows_of(root) == {"Kiwi": 1}


def test_a_table_that_does_not_exist_has_nothing_to_remove(store: str) -> None:
    with held_lease(open_root(store), "sweeping") as lease:
        assert sweep_table(open_root(store), TABLE, DAY, lease) == 0


def test_tables_of_release_0_1_are_not_touched_before_their_conversion(store: str) -> None:
    root = open_root(store)
    for path in ("current/Kiwi.json", "version=run/1/Kiwi/part.parquet"):
        root.write(f"{TABLE}/{path}", b"")
    with held_lease(root, "sweeping") as lease:
        assert sweep_table(root, TABLE, timedelta(0), lease) == 0
    assert root.has(f"{TABLE}/version=run/1/Kiwi/part.parquet")


def test_a_log_entry_that_another_sweep_removes_meanwhile_is_no_error(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = open_root(store)
    for number in range(CHECKPOINT_INTERVAL):
        commit_class(root, "Kiwi", [str(number)])
    log, listed = f"{TABLE}/{LOG}", Root.list
    before = root.list(log)
    root.remove_file(log_entry(TABLE, 2))
    monkeypatch.setattr(Root, "list", lambda self, prefix: before if prefix == log else listed(self, prefix))
    with held_lease(root, "sweeping") as lease:
        assert sweep_table(root, TABLE, DAY, lease) == 1  # the file that only this entry names
    assert rows_of(root) == {"Kiwi": 1}
