"""`Root` on disk: each write is whole or has no effect."""

import errno
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from spark_jobs.store.pointers import pointer_path
from spark_jobs.store.root import open_root

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
def test_the_file_is_whole_after_a_writing_process_is_killed(store: str, writes: int) -> None:
    path = pointer_path("raw", "Kiwi")
    process = subprocess.Popen([sys.executable, "-c", WRITER, store, path], stdout=subprocess.PIPE)
    assert process.stdout is not None
    for _ in range(writes):
        process.stdout.readline()
    time.sleep(writes / 1000)  # the next write has begun
    process.send_signal(signal.SIGKILL)
    process.communicate()
    content = (Path(store) / path).read_bytes()
    assert len(content) == 1_000_000
    assert len(set(content)) == 1


def test_a_failed_write_leaves_no_temporary_file(store: str) -> None:
    (Path(store) / "a folder").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        open_root(store).write("a folder", b"content")
    assert [path.name for path in Path(store).iterdir()] == ["a folder"]


@pytest.mark.parametrize("name", ["write", "fsync"])
def test_a_failed_write_or_fsync_names_the_file(
    store: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    root = open_root(store)
    root.write("kept", b"content")

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")  # without a name, as the system calls raise it

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match=rf"Input/output error: '{store}/kept'"):
        root.write("kept", b"content") if name == "write" else root.sync("kept")


def test_what_killed_writes_have_left_is_removed_and_the_file_of_a_living_writer_is_not(store: str) -> None:
    root, folder = open_root(store), Path(store) / "raw" / "current"
    folder.mkdir(parents=True)
    writer = [sys.executable, "-c", WRITER, store, "raw/current/Kiwi.json"]
    while not (left := list(folder.glob(".*"))):
        process = subprocess.Popen(writer, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.002)  # the next write has begun, and mostly not ended
        process.send_signal(signal.SIGKILL)
        process.communicate()
    hours = {left[0]: 25, folder / f".{'0' * 32}": 1, folder / "Kiwi.json": 25, folder / ".DS_Store": 25}
    for file, age in hours.items():
        file.touch()
        os.utime(file, (time.time() - 3600 * age,) * 2)
    assert root.remove_unfinished(datetime.now(UTC) - timedelta(days=1)) == 1
    assert set(folder.iterdir()) == hours.keys() - {left[0]}


def test_many_files_are_read_in_the_given_order_without_files_that_are_gone(store: str) -> None:
    root = open_root(store)
    contents = {f"{number}": f"{number}".encode() for number in range(100)}
    root.write_many(contents.items())
    read = root.read_present([*reversed(contents), "gone"])
    assert list(read.items()) == list(reversed(contents.items()))
