"""Lists the folders of labelled photos, and names the files and folders that are skipped or refused."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs

from spark_jobs.errors import FruitsError
from spark_jobs.store.root import IO_THREADS, Root, open_root
from spark_jobs.store.versions import combined_version
from spark_jobs.wording import counted


class Photo(NamedTuple):
    """One file: path relative to the root, size in bytes, modification time (UTC)."""

    path: str
    bytes: int
    modified: datetime


@dataclass
class Listing:
    """Photos by class, sorted by path; the reason by skipped path; the reason by refused class name."""

    classes: dict[str, list[Photo]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def version(self, label: str) -> str:
        """A data version of one class, from the paths, sizes and times of its photos."""
        return combined_version(
            *(f"{path}\0{size}\0{modified.isoformat()}" for path, size, modified in self.classes[label])
        )


def list_photos(uri: str, *, may_be_empty: bool = False) -> Listing:
    """Lists a root of photos, with one folder for each class, at any depth.

    The label of a photo is the name of its folder; all folders of the same name are one class. A file or
    folder is skipped if its name begins with a dot or an underscore, if it is in no folder, or if it is a
    link that leads out of the root. A folder name that cannot be a Dagster partition is refused.

    Raises `FruitsError` if the root does not exist, or holds no photo in any folder and may not be empty. On
    S3, a prefix without objects does not exist, so a root that may be empty is any prefix of a bucket.
    """
    root = open_root(uri)
    if not root.exists() and not (may_be_empty and _is_in_bucket(root)):
        fault = "is a file" if root.is_local and os.path.isfile(uri) else "does not exist"
        raise FruitsError(
            f"FRUITS_IMAGES={uri} {fault}. Set it to the folder or s3:// prefix that holds one folder of "
            "photos for each fruit class."
        )
    listing = Listing()
    classes: dict[str, list[Photo]] = defaultdict(list)
    # A dictionary, so that a listing that returns an object twice counts it once.
    for photo in {photo.path: photo for photo in _walk(root, listing.skipped)}.values():
        folder, _, name = photo.path.rpartition("/")
        hidden = next((part for part in photo.path.split("/") if part.startswith((".", "_"))), None)
        if not {"", ".", ".."}.isdisjoint(photo.path.split("/")):
            listing.skipped[photo.path] = "has a part without a name, or the part . or .., in its path"
        elif hidden is not None:
            listing.skipped[photo.path[: photo.path.index(hidden)] + hidden] = "begins with . or _"
        elif not folder:
            listing.skipped[name] = "is in no folder, so it has no label"
        else:
            label = folder.rpartition("/")[2]
            reason = _unfit_for_partition(label)
            if reason:
                listing.refused[label] = reason
            else:
                classes[label].append(photo)
    if not classes and not may_be_empty:
        skipped = f"{counted(len(listing.skipped), 'entry was', 'entries were')} skipped, "
        refused = f"{counted(len(listing.refused), 'class name was', 'class names were')} refused"
        raise FruitsError(
            f"FRUITS_IMAGES={uri} holds no photo in a class folder ({skipped if listing.skipped else ''}"
            f"{refused}). Put the photos of each fruit class into a folder that is named after the class."
        )
    listing.classes = {label: sorted(classes[label]) for label in sorted(classes)}
    return listing


def _is_in_bucket(root: Root) -> bool:
    """Whether a root without files is on S3, in a bucket that exists.

    It lists the prefix of the root, since a policy may allow no list of the whole bucket.
    """
    try:
        root.fs.get_file_info(pafs.FileSelector(""))
    except FileNotFoundError:
        return not root.is_local
    except OSError as error:
        if "NO_SUCH_BUCKET" not in str(error):
            raise
    return False


def _unfit_for_partition(label: str) -> str | None:
    """The reason why a folder name cannot be a partition key, or None if it can."""
    if "..." in label:
        return "holds '...', which Dagster reads as a range of partitions"
    if any(unicodedata.category(character) == "Cc" for character in label):
        return "holds a control character"
    return None


def _walk(root: Root, skipped: dict[str, str]) -> Iterator[Photo]:
    """Yields every file below a root, and adds the reason for each unreadable path to `skipped`."""
    if root.is_local:
        top = os.path.realpath(root.uri)
        yield from _walk_folder(Path(top), "", [top], skipped)
        return
    for info in _list_by_folder(root):
        yield Photo(info.path, info.size, info.mtime)


def _list_by_folder(root: Root) -> list[pafs.FileInfo]:
    """Every file of a root on S3. It lists the folders concurrently: S3 returns 1,000 keys per request."""
    try:
        top = root.fs.get_file_info(pafs.FileSelector("", allow_not_found=True))
    except pa.ArrowException:  # raised for a folder without a name, as in s3://bucket/photos//x.jpg
        return root.list("")
    folders = [info.path for info in top if info.type == pafs.FileType.Directory]
    with ThreadPoolExecutor(IO_THREADS) as pool:
        below = chain.from_iterable(pool.map(root.list, folders))
        return [*(info for info in top if info.type == pafs.FileType.File), *below]


def _walk_folder(top: Path, folder: str, above: list[str], skipped: dict[str, str]) -> Iterator[Photo]:
    """Yields the files below one folder. `above` holds the real paths of the folder and its parents."""
    try:
        entries = sorted(os.scandir(top / folder), key=lambda entry: entry.name)
    except OSError as error:
        skipped[folder] = f"cannot be listed: {error.strerror}"
        return
    for entry in entries:
        path = f"{folder}/{entry.name}" if folder else entry.name
        if any(unicodedata.category(character) == "Cs" for character in entry.name):
            # Python reads a byte that is not UTF-8 as a lone surrogate; no other program can open the path.
            skipped[os.fsencode(path).decode(errors="backslashreplace")] = "has a name that is not UTF-8"
            continue
        if entry.name.startswith((".", "_")):
            skipped[path] = "begins with . or _"
            continue
        if entry.is_symlink():
            target = os.path.realpath(entry.path)
            if os.path.commonpath([target, top]) != str(top):
                skipped[path] = "is a link that leads out of FRUITS_IMAGES"
                continue
            if target in above:
                skipped[path] = "is a link to a folder that contains it"
                continue
        try:
            if entry.is_dir():
                yield from _walk_folder(top, path, [*above, os.path.realpath(entry.path)], skipped)
            elif entry.is_file():
                status = entry.stat()
                modified = datetime.fromtimestamp(status.st_mtime, UTC)
                yield Photo(path, status.st_size, modified)
            else:
                skipped[path] = "is neither a file nor a folder, or a broken link"
        except OSError as error:
            skipped[path] = f"cannot be read: {error.strerror}"
