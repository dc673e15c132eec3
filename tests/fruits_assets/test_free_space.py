"""A run that has too little room says so before it begins, or names the place that became full."""

import errno
import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from fruits_assets import free_space
from fruits_assets.free_space import check_free_space, full_disk_explained
from resources.settings import Settings
from spark_jobs.errors import FruitsError
from spark_jobs.store.photos import Photo
from spark_jobs.store.s3_errors import s3_errors_explained

SIZE = 16 * 1024**2


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of 16 MB. Where no file system can be mounted, the answers of the system are replaced."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        real = free_space._disk

        def stand_in(path: str) -> tuple[int, int]:
            used = sum(file.stat().st_size for file in disk.rglob("*") if file.is_file())
            return (-1, SIZE - used) if Path(path).is_relative_to(disk) else real(path)

        monkeypatch.setattr(free_space, "_disk", stand_in)
        yield disk
    else:
        yield disk
        subprocess.run(["umount", disk], check=True)


def kiwis(photos: int) -> dict[str, list[Photo]]:
    """A class of photos of 100 KB each."""
    return {"Kiwi": [Photo(f"Kiwi/{number}.jpg", 100_000, 0) for number in range(photos)]}


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(tmp_path / "spark"))


def test_a_store_without_room_for_the_photos_is_named(small_disk: Path, elsewhere: None) -> None:
    settings = Settings(images="/photos", store=str(small_disk / "new" / "store"))
    check_free_space(settings, kiwis(10))
    with pytest.raises(FruitsError, match=rf"^FRUITS_STORE={small_disk}/new/store: 1\d MB are free.* 2\d MB"):
        check_free_space(settings, kiwis(100))


@pytest.mark.parametrize("setting", ["DAGSTER_HOME", "SPARK_LOCAL_DIRS"])
def test_other_places_without_room_are_named(
    small_disk: Path, elsewhere: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    settings = Settings(images="/photos", store=str(tmp_path / "store"))
    monkeypatch.setenv(setting, str(small_disk / "folder"))
    check_free_space(settings, kiwis(1))
    (small_disk / "file").write_bytes(bytes(15_500_000))
    with pytest.raises(FruitsError, match=rf"^{setting}={small_disk}/folder: . MB are free"):
        check_free_space(settings, kiwis(1))


def test_places_on_one_disk_are_added_up(
    small_disk: Path, elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(images="/photos", store=str(small_disk / "store"))
    check_free_space(settings, kiwis(1))
    monkeypatch.setenv("DAGSTER_HOME", str(small_disk))
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(small_disk))
    places = r"^DAGSTER_HOME=.* and FRUITS_STORE=.* and SPARK_LOCAL_DIRS=.*Make room"
    with pytest.raises(FruitsError, match=places):
        check_free_space(settings, kiwis(10))


def test_a_store_on_s3_needs_no_room_here(small_disk: Path, elsewhere: None) -> None:
    check_free_space(Settings(images="s3://b/photos", store="s3://b/store"), kiwis(100_000))


def write_by_pyarrow() -> None:
    with pafs.LocalFileSystem().open_output_stream("/dev/full", buffer_size=None) as stream:
        stream.write(b"photo")


def write_to_sqlite() -> None:
    with sqlite3.connect(":memory:") as database:
        database.execute("PRAGMA max_page_count = 2")
        database.execute("CREATE TABLE events (text)")
        database.execute("INSERT INTO events VALUES (zeroblob(100000))")


def write_in_a_task() -> None:
    try:
        write_by_pyarrow()
    except OSError as error:
        raise FruitsError(f"raw_images: a Spark task failed: OSError: {error}") from None


def write_a_journal_to_sqlite() -> None:
    raise sqlite3.OperationalError("disk I/O error")  # as SQLite says where its journal finds no room


WRITES = [write_by_pyarrow, write_to_sqlite, write_in_a_task, write_a_journal_to_sqlite]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("setting", ["DAGSTER_HOME", "SPARK_LOCAL_DIRS", "FRUITS_STORE"])
def test_a_disk_that_becomes_full_is_named_with_the_remedy(
    small_disk: Path,
    elsewhere: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    write: Callable[[], None],
) -> None:
    store = small_disk if setting == "FRUITS_STORE" else tmp_path / "store"
    monkeypatch.setenv(setting, str(small_disk))
    settings = Settings(images="/photos", store=str(store))
    (small_disk / "other").write_bytes(bytes(SIZE - 8192))
    named = pytest.raises(FruitsError, match=rf"^{setting}={small_disk} is full: 0.0 MB are free. Make room")
    with named, full_disk_explained(settings):
        write()


def test_a_full_disk_elsewhere_blames_no_folder_of_this_machine(elsewhere: None, tmp_path: Path) -> None:
    settings = Settings(images="/photos", store=str(tmp_path))
    quota = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(tmp_path / "part.parquet"))
    full = r"^A disk or a quota is full: .*Disk quota exceeded: '.*part.parquet'\. .* have at least"
    with pytest.raises(FruitsError, match=full), full_disk_explained(settings):
        raise quota


def test_a_disk_without_room_for_another_file_is_full(
    small_disk: Path, elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(images="/photos", store=str(small_disk))
    if not os.path.ismount(small_disk):
        pytest.skip("no file system can be mounted")
    subprocess.run(["mount", "-o", "remount,nr_inodes=3", str(small_disk)], check=True)
    for number in range(2):
        (small_disk / str(number)).touch()
    named = pytest.raises(FruitsError, match=rf"^FRUITS_STORE={small_disk} is full")
    with named, full_disk_explained(settings):
        (small_disk / "another").touch()


@pytest.mark.parametrize(
    "error",
    [ValueError("no photo"), sqlite3.OperationalError("disk I/O error"), OSError("a folder is missing")],
)
def test_another_error_passes_unchanged(elsewhere: None, tmp_path: Path, error: Exception) -> None:
    settings = Settings(images="/photos", store=str(tmp_path))
    # Both stand around each asset. An error that is raised from itself would be its own cause without end.
    explained = full_disk_explained(settings), s3_errors_explained()
    with pytest.raises(type(error), match=str(error)), explained[0], explained[1]:
        raise error
