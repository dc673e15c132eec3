"""The folders of labelled photos as they are: what is there, and what is passed over."""

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
from spark_jobs.store.tables import combined_version


class Photo(NamedTuple):
    """One file: path relative to the root, size in bytes, modification time (UTC)."""

    path: str
    bytes: int
    modified: datetime


@dataclass
class Listing:
    """Photos by class, sorted by path; and by name, what was skipped or refused, with the reason."""

    classes: dict[str, list[Photo]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def version(self, label: str) -> str:
        """A data version of one class: its names, sizes and times."""
        return combined_version(
            *(f"{path}\0{size}\0{modified.isoformat()}" for path, size, modified in self.classes[label])
        )


def list_photos(uri: str) -> Listing:
    """Lists a root of photos, one folder a class, at any depth.

    The label of a photo is the name of the folder that it is in; folders of one name are one class.
    Files and folders that begin with a dot or an underscore are skipped, and so are files outside
    any folder and links that lead out of the root. A name that cannot be a Dagster partition is
    refused.

    Raises `FruitsError` where there is no such root, or it holds no photo in any folder.
    """
    root = open_root(uri)
    if not root.exists():
        what = "is a file" if root.is_local and os.path.isfile(uri) else "does not exist"
        raise FruitsError(
            f"FRUITS_IMAGES={uri} {what}. Set it to the folder or s3:// prefix that holds one folder of "
            "photos for each fruit class."
        )
    listing = Listing()
    classes: dict[str, list[Photo]] = defaultdict(list)
    for photo in _walk(root, listing.skipped):
        folder, _, name = photo.path.rpartition("/")
        hidden = next((part for part in photo.path.split("/") if part.startswith((".", "_"))), None)
        if hidden is not None:
            listing.skipped[photo.path[: photo.path.index(hidden)] + hidden] = "begins with . or _"
        elif not folder:
            listing.skipped[name] = "is in no folder, so it has no label"
        else:
            label = folder.rpartition("/")[2]
            reason = _unfit(label)
            if reason:
                listing.refused[label] = reason
            else:
                classes[label].append(photo)
    if not classes:
        raise FruitsError(
            f"FRUITS_IMAGES={uri} holds no photo in a class folder"
            + (f" ({len(listing.skipped)} entries were skipped, " if listing.skipped else " (")
            + f"{len(listing.refused)} class names were refused). Put the photos of each fruit class "
            "into a folder that is named after it."
        )
    listing.classes = {label: sorted(classes[label]) for label in sorted(classes)}
    return listing


def _unfit(label: str) -> str | None:
    """Why a folder name cannot be a partition key, or None."""
    if "..." in label:
        return "holds '...', which Dagster reads as a range of partitions"
    if any(unicodedata.category(character) == "Cc" for character in label):
        return "holds a control character"
    return None


def _walk(root: Root, skipped: dict[str, str]) -> Iterator[Photo]:
    if root.is_local:
        top = os.path.realpath(root.uri)
        yield from _walk_folder(Path(top), "", [top], skipped)
        return
    for info in _list_by_folder(root):
        yield Photo(info.path, info.size, info.mtime)


def _list_by_folder(root: Root) -> list[pafs.FileInfo]:
    """Every file of a root on S3. Its folders at once: a listing is one page of 1,000 keys after another."""
    try:
        top = root.fs.get_file_info(pafs.FileSelector(""))
    except pa.ArrowException:  # pyarrow's word for a folder without a name, as in s3://bucket/photos//x.jpg
        return root.list("")
    folders = [info.path for info in top if info.type == pafs.FileType.Directory]
    with ThreadPoolExecutor(IO_THREADS) as pool:
        below = chain.from_iterable(pool.map(root.list, folders))
        return [*(info for info in top if info.type == pafs.FileType.File), *below]


def _walk_folder(top: Path, folder: str, above: list[str], skipped: dict[str, str]) -> Iterator[Photo]:
    """Files below one folder. `above` are the real paths of the folders that lead to it."""
    try:
        entries = sorted(os.scandir(top / folder), key=lambda entry: entry.name)
    except OSError as error:
        skipped[folder] = f"cannot be listed: {error.strerror}"
        return
    for entry in entries:
        path = f"{folder}/{entry.name}" if folder else entry.name
        if any(unicodedata.category(character) == "Cs" for character in entry.name):
            # Python gives a byte that is not UTF-8 as a lone surrogate, which only Python can open.
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
                skipped[path] = "is a link to a folder that it is in"
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
