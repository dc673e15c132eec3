"""The rounds of full and refusing disks disturb what they say, when they say it."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.faults.mounts import (
    fill,
    in_memory,
    make_read_only,
    make_room,
    mount_again,
    new_image,
    of_image,
    take_inodes,
    unmount_at_once,
)
from benchmarks.faults.stages import CSV, EXTRACT, EXTRACTOR, FIT, INGEST, begins
from spark_jobs.store.leases import held_lease
from spark_jobs.store.root import open_root


def test_each_job_of_a_run_begins_with_its_lease(store: str) -> None:
    stages = (INGEST, EXTRACT, FIT, CSV)
    begun = {stage: begins(stage, Path(store), []) for stage in stages}
    for number in range(len(stages)):
        assert [begun[stage]() for stage in stages] == [index < number for index in range(4)]
        with held_lease(open_root(store), "run"):
            assert [begun[stage]() for stage in stages] == [index <= number for index in range(4)]
            assert [begun[stage]() for stage in stages] == [index <= number for index in range(4)]


def test_the_stage_of_the_extractor_begins_with_its_message(store: str) -> None:
    lines: list[str] = []
    begun = begins(EXTRACTOR, Path(store), lines)
    assert not begun()
    lines.append("12:00:00 feature_extractor: Converting MobileNetV2 with the weights 'embedded'\n")
    assert begun()


@pytest.fixture(scope="module")
def can_mount(tmp_path_factory: pytest.TempPathFactory) -> None:
    image, folder = (tmp_path_factory.mktemp("probe") / name for name in ("image", "folder"))
    try:
        new_image(image, 8_000_000)
        with of_image(image, folder):
            pass
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted")


@pytest.mark.usefixtures("can_mount")
@pytest.mark.parametrize("take", [fill, take_inodes])
def test_a_full_disk_takes_no_photo_until_room_is_made(tmp_path: Path, take: Callable[[Path], None]) -> None:
    disk = tmp_path / "disk"
    with in_memory(disk):
        take(disk)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            (disk / "photo").write_bytes(bytes(100_000))
        make_room(disk)
        (disk / "photo").write_bytes(bytes(100_000))
    assert not disk.is_mount()


@pytest.fixture
def disk(can_mount: None, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """An image and the folder on which its file system is mounted, with a file that is on the disk."""
    image, folder = tmp_path / "image", tmp_path / "disk"
    new_image(image, 8_000_000)
    with of_image(image, folder):
        (folder / "kept").write_text("kept")
        os.sync()
        yield image, folder


def test_a_disk_becomes_read_only_although_files_are_open_and_is_mounted_again(
    disk: tuple[Path, Path],
) -> None:
    image, folder = disk
    with (folder / "open").open("w"):
        make_read_only(folder)
        with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
            (folder / "new").touch()
    mount_again(image, folder)
    assert (folder / "kept").read_text() == "kept"
    (folder / "new").touch()


def test_a_disk_that_is_unmounted_leaves_an_empty_folder_until_it_is_mounted_again(
    disk: tuple[Path, Path],
) -> None:
    image, folder = disk
    with (folder / "open").open("w"):
        unmount_at_once(folder)
        assert list(folder.iterdir()) == []
        (folder / "leases").mkdir()
    mount_again(image, folder)
    assert (folder / "kept").read_text() == "kept"
    assert not (folder / "leases").exists()
