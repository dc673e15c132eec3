"""Lists the folders of labelled photos, and names the files and folders that are skipped or refused."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from spark_jobs.errors import FruitsError
from spark_jobs.store.photos import Photo
from spark_jobs.store.root import (
    IO_THREADS,
    S3_ATTEMPTS,
    Root,
    concurrently,
    open_root,
    s3_endpoint,
    s3_region,
    split_s3_uri,
)
from spark_jobs.store.versions import combined_version
from spark_jobs.wording import counted

# The folders of photos on S3 whose keys are listed one after another.
_LEAST_FOLDERS = 10


@dataclass
class Listing:
    """Photos by class, sorted by path; the reason by skipped path; the reason by refused class name.

    `unreadable` are the paths, of the skipped ones, that may hold photos which the system does not show.
    """

    classes: dict[str, list[Photo]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)

    def version(self, label: str) -> str:
        """A data version of one class, from the paths and states of its photos."""
        return combined_version(*(f"{photo.path}\0{photo.state}" for photo in self.classes[label]))

    def hidden(self, label: str) -> str | None:
        """An unreadable path that may hold photos of a class, or None."""
        return next((path for path in sorted(self.unreadable) if label in path.split("/")), None)


class PhotoFolders:
    """The root of the photos, which is listed once: in the background, or when its listing is asked for."""

    def __init__(self, images: str) -> None:
        self.images = images

    @cached_property
    def _listing(self) -> Future[Listing]:
        pool = ThreadPoolExecutor(1, thread_name_prefix="list-photos")
        listing = pool.submit(list_photos, self.images)
        pool.shutdown(wait=False)
        return listing

    def begin(self) -> None:
        """Begins to list the photos in the background."""
        self._listing  # noqa: B018

    @property
    def listing(self) -> Listing:
        """Raises the errors of `list_photos`."""
        return self._listing.result()


def list_photos(uri: str, *, may_be_empty: bool = False) -> Listing:
    """Lists a root of photos, with one folder for each class, at any depth.

    The label of a photo is the name of its folder; all folders of the same name are one class. A file or
    folder is skipped if its name begins with a dot or an underscore, if it is in no folder, or if it is a
    link that leads out of the root. A folder name that cannot be a Dagster partition is refused.

    Raises `FruitsError` if the root does not exist, or holds no photo in any folder and may not be empty. On
    S3, a prefix without objects does not exist, so a root that may be empty is any prefix of a bucket.
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
    # A dictionary, so that a listing that returns an object twice counts it once.
    for photo in {photo.path: photo for photo in found}.values():
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


def _unfit_for_partition(label: str) -> str | None:
    """The reason why a folder name cannot be a partition key, or None if it can."""
    if "..." in label:
        return "holds '...', which Dagster reads as a range of partitions"
    if any(unicodedata.category(character) == "Cc" for character in label):
        return "holds a control character"
    return None


def _list_s3(uri: str, may_be_empty: bool) -> list[Photo] | None:
    """The objects below a prefix; None where there are none, or no bucket.

    S3 returns 1,000 keys for each request, so several ranges of keys are listed at once, between folders.
    pyarrow lists no ETags.
    """
    bucket, prefix = split_s3_uri(uri)
    prefix = f"{prefix.rstrip('/')}/" if prefix else ""
    with _faults_of_listing(bucket, prefix):
        client = _s3_client(bucket)
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


def _s3_client(bucket: str) -> Any:
    """boto3's client of S3. It leaves times as text: else they take four fifths of the time of a listing."""
    import botocore.session
    from botocore.config import Config

    session = botocore.session.Session()
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
    return session.create_client(
        "s3",
        region_name=s3_region(bucket),
        endpoint_url=s3_endpoint(),
        config=Config(
            max_pool_connections=IO_THREADS, retries={"mode": "standard", "max_attempts": S3_ATTEMPTS}
        ),
    )


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
    return _walk_folder(Path(top), "", [top], listing) if os.path.isdir(top) else None


def _walk_folder(top: Path, folder: str, above: list[str], listing: Listing) -> Iterator[Photo]:
    """Yields the files below one folder. `above` holds the real paths of the folder and its parents."""
    skipped = listing.skipped
    try:
        entries = sorted(os.scandir(top / folder), key=lambda entry: entry.name)
    except OSError as error:
        skipped[folder] = f"cannot be listed: {error.strerror}"
        listing.unreadable.add(folder)
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
                yield from _walk_folder(top, path, [*above, os.path.realpath(entry.path)], listing)
            elif entry.is_file():
                status = entry.stat()
                yield Photo(path, status.st_size, status.st_mtime_ns // 1000)
            else:
                skipped[path] = "is neither a file nor a folder, or a broken link"
        except OSError as error:
            skipped[path] = f"cannot be read: {error.strerror}"
            listing.unreadable.add(path)
