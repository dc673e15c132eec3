"""Lists the folders of labelled photos, and names the files and folders that are skipped or refused."""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resources.erasures import not_erased, read_erasures
from resources.photo_names import companion, invisible, label_of, unfit_for_partition
from resources.s3_client import s3_client
from spark_jobs.errors import FruitsError
from spark_jobs.store.photos import Photo
from spark_jobs.store.root import (
    IO_THREADS,
    Root,
    concurrently,
    open_root,
    split_s3_uri,
)
from spark_jobs.store.versions import combined_version
from spark_jobs.wording import counted

if TYPE_CHECKING:
    from resources.settings import Settings

# The folders of photos on S3 whose keys are listed one after another.
_LEAST_FOLDERS = 10
# A folder on disk that is deeper than this is an accident, for example a backup of itself.
_DEEPEST = 64
# Times, in microseconds since 1970, that pandas can hold. Damaged archives bring others.
_EARLIEST, _LATEST = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000 for year in (1678, 2262))
_HIDDEN = "begins with . or _"


@dataclass
class Listing:
    """Photos by class, sorted by path; the reason by skipped path; the reason by refused class name.

    `companions` are the numbers of files that lie beside photos, by kind. `unreadable` are the paths, of the
    skipped ones, that may hold photos which the system does not show. The photos of the list of erasures of
    the version `erasures`, of which `erased` were found, are left out.
    """

    classes: dict[str, list[Photo]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    companions: dict[str, int] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)
    erasures: str = ""
    erased: int = 0

    def version(self, label: str) -> str:
        """A data version of one class, from the paths and states of its photos."""
        return combined_version(*(f"{photo.path}\0{photo.state}" for photo in self.classes[label]))

    def hidden(self, label: str) -> str | None:
        """An unreadable path that may hold photos of a class, or None."""
        return next(
            (path for path in sorted(self.unreadable) if label_of(label) in label_of(path).split("/")), None
        )

    @property
    def several_folders(self) -> dict[str, int]:
        """The classes that several folders make up, with the number of their folders."""
        folders = {
            label: len({photo.path.rpartition("/")[0] for photo in photos})
            for label, photos in self.classes.items()
        }
        return {label: number for label, number in folders.items() if number > 1}


class PhotoFolders:
    """The root of the photos, which is listed once: in the background, or when its listing is asked for."""

    def __init__(self, settings: "Settings") -> None:
        self._settings = settings
        self._without_erased: Listing | None = None

    @cached_property
    def _listing(self) -> Future[Listing]:
        pool = ThreadPoolExecutor(1, thread_name_prefix="list-photos")
        listing = pool.submit(list_photos, self._settings.images)
        pool.shutdown(wait=False)
        return listing

    def begin(self) -> None:
        """Begins to list the photos in the background."""
        self._listing  # noqa: B018

    @property
    def listing(self) -> Listing:
        """The photos that were not erased. Raises the errors of `list_photos` and of `read_erasures`."""
        if self._without_erased is None:
            self._without_erased = without_erased(self._settings, self._listing.result())
        return self._without_erased

    def read_erasures_again(self) -> None:
        """Lets the next `listing` leave out the photos that were erased since."""
        self._without_erased = None


def without_erased(settings: "Settings", listing: Listing) -> Listing:
    """A listing without the photos that were erased. Raises the errors of `read_erasures`."""
    erasures = read_erasures(open_root(settings.store), settings.erasure_key_file)
    if not erasures.version:
        return listing
    left = {label: not_erased(photos, erasures) for label, photos in listing.classes.items()}
    erased = sum(len(photos) - len(left[label]) for label, photos in listing.classes.items())
    classes = {label: photos for label, photos in left.items() if photos}
    return replace(listing, classes=classes, erasures=erasures.version, erased=erased)


def list_photos(uri: str, *, may_be_empty: bool = False) -> Listing:
    """Lists a root of photos, with one folder for each class, at any depth.

    The label of a photo is the name of its folder; all folders of the same name are one class. A file or
    folder is skipped if its name begins with a dot or an underscore, or has an invisible character, if it is
    in no folder, or if it is a link that leads out of the root. Files that lie beside photos are counted. A
    folder name that cannot be a Dagster partition is refused.

    Raises `FruitsError` if the root does not exist or cannot be listed, or holds no photo in any folder and
    may not be empty. On S3, a prefix without objects does not exist, so a root that may be empty is any
    prefix of a bucket.
    """
    root = open_root(uri)
    listing = Listing()
    found = _walk_local(root, listing) if root.is_local else _list_s3(uri, may_be_empty)
    if found is None:
        fault = "is a file" if root.is_local and os.path.isfile(uri) else "does not exist"
        raise FruitsError(
            f"FRUITS_IMAGES={uri} {fault}. Set it to the folder or s3:// prefix that holds one folder of "
            "photos for each fruit class."
        )
    classes: dict[str, list[Photo]] = defaultdict(list)
    companions: Counter[str] = Counter()
    # A dictionary, so that a listing that returns an object twice counts it once.
    for photo in {photo.path: photo for photo in found}.values():
        folder, _, name = photo.path.rpartition("/")
        hidden = next((part for part in photo.path.split("/") if part.startswith((".", "_"))), None)
        if not {"", ".", ".."}.isdisjoint(photo.path.split("/")):
            listing.skipped[photo.path] = "has a part without a name, or the part . or .., in its path"
        elif hidden is not None:
            listing.skipped[photo.path[: photo.path.index(hidden)] + hidden] = _HIDDEN
        elif kind := companion(name):
            companions[kind] += 1
        elif not folder:
            listing.skipped[name] = "is in no folder, so it has no label"
        elif reason := unfit_for_partition(label := label_of(folder.rpartition("/")[2])):
            listing.refused[label] = reason
        elif reason := invisible(photo.path):
            listing.skipped[photo.path] = reason
        else:
            classes[label].append(photo)
    listing.companions = dict(companions)
    if "" in listing.skipped:
        raise FruitsError(
            f"FRUITS_IMAGES={uri} {listing.skipped['']}. Check its rights and its disk, or set it to the "
            "folder that holds one folder of photos for each fruit class."
        )
    if not classes and not may_be_empty:
        skipped = f"{counted(len(listing.skipped), 'entry was', 'entries were')} skipped, "
        refused = f"{counted(len(listing.refused), 'class name was', 'class names were')} refused"
        raise FruitsError(
            f"FRUITS_IMAGES={uri} holds no photo in a class folder ({skipped if listing.skipped else ''}"
            f"{refused}). Put the photos of each fruit class into a folder that is named after the class."
        )
    listing.classes = {label: sorted(classes[label]) for label in sorted(classes)}
    return listing


def _list_s3(uri: str, may_be_empty: bool) -> list[Photo] | None:
    """The objects below a prefix; None where there are none, or no bucket.

    S3 returns 1,000 keys for each request, so several ranges of keys are listed at once, between folders.
    pyarrow lists no ETags.
    """
    bucket, prefix = split_s3_uri(uri)
    prefix = f"{prefix.rstrip('/')}/" if prefix else ""
    with _faults_of_listing(bucket, prefix):
        client = s3_client(bucket)
        try:
            top = client.get_paginator("list_objects_v2").paginate(
                Bucket=bucket, Prefix=prefix, Delimiter="/"
            )
            folders = [entry["Prefix"] for page in top for entry in page.get("CommonPrefixes", ())]
            # A range begins with a request for 1,000 keys, however many it holds.
            every = max(_LEAST_FOLDERS, -(-len(folders) // IO_THREADS))
            bounds = ["", *folders[::every][1:], ""]
            ranges = concurrently(lambda ends: _list_range(client, bucket, prefix, *ends), pairwise(bounds))
            photos = [photo for found in ranges for photo in found]
        except client.exceptions.NoSuchBucket:
            return None
    return photos if photos or may_be_empty else None


def _list_range(client: Any, bucket: str, prefix: str, start: str, end: str) -> list[Photo]:
    """The objects below a prefix whose keys come after `start` and before `end`; "" is no limit."""
    photos: list[Photo] = []
    after = {"StartAfter": start} if start else {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, **after):
        for entry in page.get("Contents", ()):
            key = entry["Key"]
            if end and key >= end:
                return photos
            if key != prefix and not (key.endswith("/") and not entry["Size"]):  # an object that is a folder
                time = datetime.fromisoformat(entry["LastModified"])
                modified = int(time.timestamp()) * 1_000_000
                etag = entry.get("ETag", "").strip('"')
                photos.append(Photo(key.removeprefix(prefix), entry["Size"], modified, etag))
    return photos


@contextmanager
def _faults_of_listing(bucket: str, prefix: str) -> Iterator[None]:
    """Turns an error of botocore into an `OSError` with the text that pyarrow gives to it."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    asked = f"When listing objects under key '{prefix}' in bucket '{bucket}': AWS Error"
    try:
        yield
    except ClientError as error:
        code, message = (error.response["Error"].get(name, "") for name in ("Code", "Message"))
        region = error.response["ResponseMetadata"].get("HTTPHeaders", {}).get("x-amz-bucket-region")
        located = f" The bucket is located in '{region}'." if region else ""
        raise OSError(f"{asked} {code} during ListObjectsV2 operation: {message}{located}") from error
    except NoCredentialsError as error:
        raise FruitsError("There are no AWS credentials: set AWS_PROFILE or AWS_ACCESS_KEY_ID.") from error
    except BotoCoreError as error:
        raise OSError(f"{asked} NETWORK_CONNECTION during ListObjectsV2 operation: {error}") from error


def _walk_local(root: Root, listing: Listing) -> Iterator[Photo] | None:
    """The files below a folder, or None where there is no folder. Notes what cannot be read in `listing`."""
    top = os.path.realpath(root.uri)
    return _walk(Path(top), listing) if os.path.isdir(top) else None


class _Folder(NamedTuple):
    """A folder to list: its path relative to the root, and whether a link led into it."""

    path: str
    linked: bool


def _walk(top: Path, listing: Listing) -> Iterator[Photo]:
    folders = [_Folder("", False)]
    while folders:
        folder = folders.pop()
        try:
            entries = sorted(os.scandir(top / folder.path), key=lambda entry: entry.name)
        except OSError as error:
            listing.skipped[folder.path] = f"cannot be listed: {error.strerror}"
            listing.unreadable.add(folder.path)
            continue
        for entry in entries:
            path = f"{folder.path}/{entry.name}" if folder.path else entry.name
            try:
                found = _entry(top, folder, entry, path)
            except OSError as error:
                found = f"cannot be read: {error.strerror}"
                listing.unreadable.add(path)
            if isinstance(found, _Folder):
                folders.append(found)
            elif isinstance(found, Photo):
                yield found
            else:
                listing.skipped[os.fsencode(path).decode(errors="backslashreplace")] = found


def _entry(top: Path, folder: _Folder, entry: "os.DirEntry[str]", path: str) -> "_Folder | Photo | str":
    """The folder or file that an entry of a folder is, or the reason why it is skipped."""
    if any(unicodedata.category(character) == "Cs" for character in entry.name):
        # Python reads a byte that is not UTF-8 as a lone surrogate; no other program can open the path.
        return "has a name that is not UTF-8"
    if entry.name.startswith((".", "_")):
        return _HIDDEN
    linked = folder.linked
    if entry.is_symlink():
        target = os.path.realpath(entry.path)
        if os.path.commonpath([target, top]) != str(top):
            return "is a link that leads out of FRUITS_IMAGES"
        if entry.is_dir():
            if linked:
                return "is a link in a folder that is itself reached by a link"
            if os.path.commonpath([target, top / folder.path]) == target:
                return "is a link to a folder that contains it"
            linked = True
    if entry.is_dir():
        deep = path.count("/") + 1 >= _DEEPEST
        return f"is more than {_DEEPEST} folders deep" if deep else _Folder(path, linked)
    if not entry.is_file():
        return "is neither a file nor a folder, or a broken link"
    status = entry.stat()
    return Photo(path, status.st_size, min(max(status.st_mtime_ns // 1000, _EARLIEST), _LATEST))
