"""An error that a disk has caused names the folder with its setting, the cause and the remedy."""

import errno
import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.fs as pafs
import pytest
from click.testing import CliRunner

from fruits_assets.disk_errors import disk_errors_explained
from fruits_assets.terminal import Command
from resources.settings import Settings
from spark_jobs.errors import FruitsError
from spark_jobs.store.s3_errors import s3_errors_explained
from tests.fruits_assets.conftest import SMALL_DISK_BYTES, name_folder

SETTINGS = ["DAGSTER_HOME", "SPARK_LOCAL_DIRS", "TMPDIR", "FRUITS_STORE"]


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
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_disk_that_becomes_full_is_named_with_the_remedy(
    small_disk: Path,
    elsewhere: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    write: Callable[[], None],
) -> None:
    store = small_disk if setting == "FRUITS_STORE" else tmp_path / "store"
    name_folder(monkeypatch, setting, small_disk)
    settings = Settings(images="/photos", store=str(store))
    (small_disk / "other").write_bytes(bytes(SMALL_DISK_BYTES - 8192))
    named = pytest.raises(FruitsError, match=rf"^{setting}={small_disk} is full: 0.0 MB are free. Make room")
    with named, disk_errors_explained(settings):
        write()


@pytest.mark.parametrize("setting", ["SPARK_LOCAL_DIRS", "TMPDIR"])
def test_the_folder_that_the_user_named_is_named_also_while_spark_runs(
    small_disk: Path, elsewhere: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    scratch = small_disk / f"fruits-{os.getuid()}-abcd1234"  # as Spark's session sets it
    scratch.mkdir()
    name_folder(monkeypatch, setting, scratch)
    assert tempfile.gettempdir()
    (small_disk / "other").write_bytes(bytes(SMALL_DISK_BYTES - 8192))
    with (
        pytest.raises(FruitsError, match=rf"^{setting}={small_disk} is full"),
        disk_errors_explained(Settings(images="/photos", store=str(tmp_path / "store"))),
    ):
        write_by_pyarrow()


def test_a_full_disk_elsewhere_blames_no_folder_of_this_machine(elsewhere: None, tmp_path: Path) -> None:
    settings = Settings(images="/photos", store=str(tmp_path))
    quota = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(tmp_path / "part.parquet"))
    full = r"^A disk or a quota is full: .*Disk quota exceeded: '.*part.parquet'\. .* have at least"
    with pytest.raises(FruitsError, match=full), disk_errors_explained(settings):
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
    with named, disk_errors_explained(settings):
        (small_disk / "another").touch()


def test_a_disk_is_full_also_after_a_failed_step_has_removed_its_last_files(
    small_disk: Path, elsewhere: None
) -> None:
    settings = Settings(images="/photos", store=str(small_disk))
    if not os.path.ismount(small_disk):
        pytest.skip("no file system can be mounted")
    subprocess.run(["mount", "-o", "remount,nr_inodes=12", str(small_disk)], check=True)
    named = pytest.raises(FruitsError, match=rf"^FRUITS_STORE={small_disk} is full")
    with named, disk_errors_explained(settings):
        raise told_by_openvino(errno.ENOSPC)


def system_error(number: int) -> OSError:
    return OSError(number, os.strerror(number), "part.parquet")


REFUSALS = {errno.EROFS: "is read-only", errno.EACCES: "system denies the user", errno.EIO: "disk fails"}


@pytest.fixture(params=REFUSALS)
def refusal(request: pytest.FixtureRequest) -> int:
    """The number of the error that the system gives."""
    return int(request.param)


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch, refusal: int) -> Callable[[Path], None]:
    """Lets the system refuse new files in a folder, as on a disk that was mounted read-only."""
    make = tempfile.NamedTemporaryFile

    def refuse(folder: Path) -> None:
        def made(*, dir: Path, **options: Any) -> Any:
            if dir.is_relative_to(folder):
                raise system_error(refusal)
            return make(dir=dir, **options)

        monkeypatch.setattr("tempfile.NamedTemporaryFile", made)

    return refuse


def told_by_the_system(refusal: int) -> Exception:
    return system_error(refusal)


def told_by_sqlite(refusal: int) -> Exception:
    return sqlite3.OperationalError("attempt to write a readonly database")


def told_by_a_task(refusal: int) -> Exception:
    return FruitsError(f"raw_images: a Spark task failed: OSError: {system_error(refusal)}")


def told_by_spark(refusal: int) -> Exception:
    return FruitsError(
        "Spark did not start: java.lang.ExceptionInInitializerError. The details are elsewhere."
    )


def told_by_the_end_of_the_jvm(refusal: int) -> Exception:
    return FruitsError("Spark's Java process ended with status 53. spark.log in DAGSTER_HOME may tell more.")


def told_by_openvino(refusal: int) -> Exception:
    return FruitsError("The conversion of the feature extractor failed: Can't open xml file: model.xml")


TELLERS = [
    told_by_the_system,
    told_by_sqlite,
    told_by_a_task,
    told_by_spark,
    told_by_the_end_of_the_jvm,
    told_by_openvino,
]


@pytest.mark.parametrize("told", TELLERS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_folder_that_refuses_new_files_is_named_with_the_remedy(
    elsewhere: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refusal: int,
    refuse: Callable[[Path], None],
    setting: str,
    told: Callable[[int], Exception],
) -> None:
    folder = tmp_path / "refusing"
    folder.mkdir()
    name_folder(monkeypatch, setting, folder)
    store = folder if setting == "FRUITS_STORE" else tmp_path / "store"
    refuse(folder)
    sentence = (
        rf"^{setting}={folder}\b.* {REFUSALS[refusal]}.*, or name a folder on another disk, and run again"
    )
    with (
        pytest.raises(FruitsError, match=sentence),
        disk_errors_explained(Settings(images="/photos", store=str(store))),
    ):
        raise told(refusal)


def test_a_disk_that_is_mounted_read_only_is_named(small_disk: Path, elsewhere: None) -> None:
    if not os.path.ismount(small_disk):
        pytest.skip("no file system can be mounted")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    settings = Settings(images="/photos", store=str(small_disk))
    named = pytest.raises(FruitsError, match=rf"^FRUITS_STORE={small_disk} is read-only.* for writing")
    with named, disk_errors_explained(settings):
        (small_disk / "file").touch()


def test_a_file_that_is_denied_below_an_open_folder_is_named(elsewhere: None, tmp_path: Path) -> None:
    file = tmp_path / "raw_images" / "part.parquet"
    denied = PermissionError(errno.EACCES, "Permission denied", str(file))
    sentence = rf"^FRUITS_STORE={tmp_path}: the system denies the user {os.geteuid()} .*'{file}'"
    with (
        pytest.raises(FruitsError, match=sentence),
        disk_errors_explained(Settings(images="/photos", store=str(tmp_path))),
    ):
        raise denied


def unmount(folder: Path) -> None:
    """Leaves an empty folder, as below a disk that was unmounted."""
    folder.rename(folder.with_name("disk"))
    folder.mkdir()


@pytest.mark.parametrize("lose", [unmount, shutil.rmtree])
@pytest.mark.parametrize("error", [None, FruitsError("raw_images failed"), FileNotFoundError("part.parquet")])
@pytest.mark.parametrize("setting", ["FRUITS_IMAGES", "DAGSTER_HOME", "FRUITS_STORE"])
def test_a_folder_that_goes_in_the_middle_is_named_also_where_nothing_has_failed(
    elsewhere: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    error: Exception | None,
    lose: Callable[[Path], None],
) -> None:
    folder = tmp_path / "folder"
    (folder / "content").mkdir(parents=True)
    monkeypatch.setenv(setting, str(folder))
    images, store = (
        folder if setting == name else tmp_path / name for name in ("FRUITS_IMAGES", "FRUITS_STORE")
    )
    settings = Settings(images=str(images), store=str(store))
    named = pytest.raises(
        FruitsError, match=rf"^{setting}={folder} is not the same folder as .* was unmounted, or"
    )
    with named, disk_errors_explained(settings):
        lose(folder)
        if error:
            raise error


def test_a_folder_that_a_run_makes_is_no_other_folder(elsewhere: None, tmp_path: Path) -> None:
    with disk_errors_explained(Settings(images=str(tmp_path / "photos"), store=str(tmp_path / "store"))):
        (tmp_path / "store").mkdir()


def test_a_failure_of_classes_keeps_its_reasons(elsewhere: None, tmp_path: Path) -> None:
    failure = dg.Failure("1 of 5 classes failed: 'Kiwi/1.jpg' cannot be read: Input/output error")
    settings = Settings(images="/photos", store=str(tmp_path))
    with pytest.raises(dg.Failure) as raised, disk_errors_explained(settings):
        raise failure
    assert raised.value is failure


def test_a_sentence_that_names_a_folder_stays(elsewhere: None, tmp_path: Path) -> None:
    settings = Settings(images="/photos", store=str(tmp_path))
    sentence = f"raw_images failed: FRUITS_STORE={tmp_path}: the disk fails (Input/output error)."
    with pytest.raises(FruitsError) as raised, disk_errors_explained(settings):
        raise FruitsError(sentence)
    assert str(raised.value) == sentence


def test_an_error_that_is_its_own_cause_passes_unchanged(elsewhere: None, tmp_path: Path) -> None:
    error = ValueError("no photo")
    with (
        pytest.raises(ValueError, match="no photo"),
        disk_errors_explained(Settings(images="/p", store="/s")),
    ):
        raise error from error


def ending(error: Exception) -> Command:
    """A command that ends with an error."""

    def end() -> None:
        raise error

    return Command("end", callback=end)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_any_command_tells_an_error_of_a_disk_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.delenv("FRUITS_IMAGES", raising=False)
    result = CliRunner().invoke(ending(OSError(number, os.strerror(number), "/elsewhere/1.jpg")))
    assert result.exit_code == 1
    assert f"/elsewhere/1.jpg: {os.strerror(number)}. " in result.output
    assert "or name another place." in result.output


def test_any_command_names_the_setting_of_a_folder(
    elsewhere: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRUITS_IMAGES", "/photos")
    monkeypatch.setenv("FRUITS_STORE", str(tmp_path / "store"))
    file = tmp_path / "store" / "current.json"
    result = CliRunner().invoke(ending(PermissionError(errno.EPERM, "Operation not permitted", str(file))))
    assert result.exit_code == 1
    assert f"FRUITS_STORE={tmp_path / 'store'}: the system denies the user" in result.output


def test_a_command_hides_no_other_error() -> None:
    result = CliRunner().invoke(ending(ValueError("no photo")))
    assert isinstance(result.exception, ValueError)


@pytest.mark.parametrize(
    "error",
    [ValueError("no photo"), sqlite3.OperationalError("disk I/O error"), OSError("a folder is missing")],
)
def test_another_error_passes_unchanged(elsewhere: None, tmp_path: Path, error: Exception) -> None:
    settings = Settings(images="/photos", store=str(tmp_path))
    # Both stand around each asset. An error that is raised from itself would be its own cause without end.
    explained = disk_errors_explained(settings), s3_errors_explained()
    with pytest.raises(type(error), match=str(error)), explained[0], explained[1]:
        raise error
