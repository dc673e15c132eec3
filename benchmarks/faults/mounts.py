"""File systems of a round: small ones in memory, and ones on loop devices. Mounting needs root."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# The bytes of a file system that a round fills, which must be more than a run wants to find free.
SMALL_BYTES = 200_000_000
_SMALL_FILES = 5000
# A JVM outlives the process that started it by a second or two.
_LEAVING_SECONDS = 30.0


@contextmanager
def in_memory(folder: Path) -> Iterator[None]:
    """A file system of `SMALL_BYTES` for `_SMALL_FILES` files and folders."""
    options = f"size={SMALL_BYTES},nr_inodes={_SMALL_FILES}"
    folder.mkdir(exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder))
    try:
        yield
    finally:
        _unmount(folder)


@contextmanager
def of_image(image: Path, folder: Path) -> Iterator[None]:
    """The file system of an image. Mounting replays its journal. After an error, it is read-only."""
    folder.mkdir(exist_ok=True)
    _mount_image(image, folder)
    try:
        yield
    finally:
        _unmount(folder)


def _mount_image(image: Path, folder: Path) -> None:
    _run("mount", "-o", "loop,errors=remount-ro", str(image), str(folder))


def new_image(image: Path, size: int) -> None:
    """A new file system of `size` bytes, with the defaults of ext4."""
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(size)
    _run("mkfs.ext4", "-q", str(image))


def mount_again(image: Path, folder: Path) -> None:
    """Mounts the file system of an image that was unmounted or has become read-only, after its repair."""
    if folder.is_mount():
        _unmount(folder)
    # A process that has files open of a file system that was unmounted lazily still writes to the image.
    _until(lambda: not subprocess.check_output(["losetup", "-j", image]))
    for left in folder.iterdir():
        shutil.rmtree(left)
    subprocess.run(["e2fsck", "-p", image], stdout=subprocess.DEVNULL, check=False)
    _mount_image(image, folder)


def fill(folder: Path) -> None:
    """Takes all room of a file system but for a few KB."""
    with suppress(OSError), (folder / "filling").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def take_inodes(folder: Path) -> None:
    """Leaves no file to a file system."""
    with suppress(OSError):
        for number in range(_SMALL_FILES):
            (folder / f"filling-{number}").touch()


def make_room(folder: Path) -> None:
    """Undoes `fill` and `take_inodes`."""
    for file in folder.glob("filling*"):
        file.unlink()


def make_read_only(folder: Path) -> None:
    """Makes the file system of a loop device read-only at once, as an error of a disk does."""
    device = subprocess.check_output(["findmnt", "-no", "SOURCE", folder], text=True).strip()
    Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error").write_text("1")


def unmount_at_once(folder: Path) -> None:
    """Takes a file system away although files are open: those that have them keep them."""
    _run("umount", "--lazy", str(folder))


def _unmount(folder: Path) -> None:
    """Unmounts a file system as soon as the processes of a run that has ended have left it."""
    _until(lambda: not folder.is_mount() or not _run("umount", str(folder), check=False))


def _until(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + _LEAVING_SECONDS
    while not ready():
        if time.monotonic() > end:
            raise RuntimeError(f"a process still uses the disk after {_LEAVING_SECONDS} s")
        time.sleep(0.1)


def _run(*command: str, check: bool = True) -> int:
    return subprocess.run(command, check=check, capture_output=not check).returncode
