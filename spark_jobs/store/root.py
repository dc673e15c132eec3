"""One interface to a root of files on local disk or on S3."""

import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from spark_jobs.errors import FruitsError

# Concurrent requests. Latency, not bandwidth, limits the reading of small objects. At a latency of 15 ms,
# 32 threads read 4 times as fast as 8 threads; more threads gain little.
IO_THREADS = 32

# pyarrow makes a request to S3 this many times, for about a minute in all.
S3_ATTEMPTS = 8

DEFAULT_REGION = "eu-west-3"
Item = TypeVar("Item")
Result = TypeVar("Result")

# The name of a file on disk that `Root.write` has still to rename.
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}")

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")


def concurrently(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int = IO_THREADS
) -> list[Result]:
    """The results of a function for items, in their order, from up to `threads` threads at once.

    Raises the error of the first item whose call fails.
    """
    wanted = list(items)
    threads = min(threads, len(wanted))
    if threads < 2:
        return list(map(function, wanted))
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, wanted))


@dataclass(frozen=True)
class Root:
    """A folder or an S3 prefix. All paths that its methods accept are relative to this root.

    Paths are plain text and never percent-encoded, so they may contain any class name.
    """

    uri: str
    fs: pafs.FileSystem
    is_local: bool

    @property
    def write_threads(self) -> int:
        """The files of a task to write at once: on S3 a task waits for requests, on disk its core is busy."""
        return 1 if self.is_local else 8

    def inside(self, path: str) -> str:
        """The path itself. Raises `FruitsError` if it leads out of this root."""
        if "\0" in path or not {"", ".", ".."}.isdisjoint(path.split("/")):
            raise FruitsError(f"{path!r} is not the path of a file inside {self.uri}")
        return path

    def uri_of(self, path: str) -> str:
        """The full name of a file under this root, for Spark and pandas."""
        return f"{self.uri}/{path}"

    def exists(self) -> bool:
        return bool(self.fs.get_file_info("").type != pafs.FileType.NotFound)

    def has(self, path: str) -> bool:
        """Whether a file of this name exists."""
        return bool(self.fs.get_file_info(self.inside(path)).type == pafs.FileType.File)

    def read(self, path: str, most: int | None = None) -> bytes:
        """The content of one file, or its first `most` bytes.

        Raises `FileNotFoundError`, `PermissionError` or `OSError`.
        """
        # A stream of unknown length would be read from S3 in requests of 256 KB.
        with self.fs.open_input_file(self.inside(path)) as file:
            try:
                size = file.size()
                return bytes(file.read(size if most is None else min(most, size)))
            except OSError as error:  # pyarrow's text does not name the object
                told = self._told_again(path) or error if str(error).endswith("operation: ") else error
                raise OSError(f"When reading {self.uri_of(path)}: {told}") from error

    def _told_again(self, path: str) -> OSError | None:
        """The error of a read into empty memory.

        pyarrow gives S3's answer and the old bytes behind it in memory to the parser, which then finds no
        reason in them.
        """
        try:
            with self.fs.open_input_file(path) as file:
                file.readinto(bytearray(min(file.size(), 65536)))
        except OSError as error:
            return error
        return None

    def ends_with(self, path: str, end: bytes) -> bool:
        """Whether a file ends with some bytes. It reads no more of it."""
        with self.fs.open_input_file(self.inside(path)) as file:
            file.seek(max(0, file.size() - len(end)))
            return bytes(file.read()) == end

    def read_present(self, paths: Iterable[str]) -> dict[str, bytes]:
        """The contents of those of several files that exist, by path, in the order of `paths`.

        Another run may have removed a file since it was listed. The files are read concurrently.
        """

        def content(path: str) -> bytes | None:
            with suppress(FileNotFoundError):
                return self.read(path)
            return None

        wanted = list(paths)
        read = zip(wanted, concurrently(content, wanted), strict=True)
        return {path: found for path, found in read if found is not None}

    def write(self, path: str, content: bytes) -> None:
        """Writes one file as a whole or not at all. Readers see the old or the new content, never a part.

        On S3 this is one PUT. On disk the file is synced, renamed over the old file, and its folder synced.
        """
        self._write(path, content)
        self.sync_folders([path])

    def _write(self, path: str, content: bytes) -> None:
        if not self.is_local:
            with self.fs.open_output_stream(self.inside(path)) as stream:
                stream.write(content)
            return
        target = Path(self.uri) / self.inside(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f".{uuid.uuid4().hex}"
        try:
            with _named(target), temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def remove_unfinished(self, before: datetime) -> int:
        """Removes what writes have left that were killed before a moment; returns the number of files.

        On S3, a write that does not end leaves nothing.
        """
        removed = 0
        for folder, _, names in os.walk(self.uri) if self.is_local else ():
            for path in (Path(folder) / name for name in names if is_unfinished(name)):
                with suppress(FileNotFoundError):  # another run removes it too
                    if path.stat().st_mtime < before.timestamp():
                        path.unlink()
                        removed += 1
        return removed

    def write_many(self, contents: Iterable[tuple[str, bytes]]) -> None:
        """`write` for several files, concurrently."""
        written = dict(contents)
        concurrently(lambda item: self._write(*item), written.items())
        self.sync_folders(written)

    def create(self, path: str) -> pa.NativeFile:
        """A stream to a new file. No reader may open the file before it is closed and published."""
        if self.is_local:
            self.fs.create_dir(self.inside(path).rpartition("/")[0], recursive=True)
        return self.fs.open_output_stream(self.inside(path))

    def sync(self, path: str) -> None:
        """Makes a finished file outlast a power failure: on disk an fsync. S3 has stored it already."""
        if self.is_local:
            _sync(Path(self.uri) / path)

    def sync_folders(self, paths: Iterable[str]) -> None:
        """Makes the names of new files outlast a power failure: on disk an fsync of their folders."""
        if self.is_local:
            for folder in {parent for path in paths for parent in (Path(self.uri) / path).parents}:
                if folder.is_relative_to(self.uri):
                    _sync(folder)

    def copy(self, source: str, target: str) -> None:
        """Copies a file in one step over any file of the new name.

        On S3 this is a copy on the server, of at most 5 GB.
        """
        self._copy(source, target)
        self.sync_folders([target])

    def _copy(self, source: str, target: str) -> None:
        if self.is_local:
            self._write(target, self.read(source))
        else:
            self.fs.copy_file(self.inside(source), self.inside(target))

    def copy_many(self, copies: Iterable[tuple[str, str]]) -> None:
        """`copy` for several (source, target), concurrently."""
        wanted = list(copies)
        concurrently(lambda pair: self._copy(*pair), wanted)
        self.sync_folders(target for _, target in wanted)

    def remove_file(self, path: str) -> None:
        """Removes a file. A missing file is no error: another run may remove it at the same time."""
        with suppress(FileNotFoundError):
            self.fs.delete_file(self.inside(path))

    def remove_files(self, paths: Iterable[str]) -> None:
        """`remove_file` for several files, concurrently, and removes folders on disk that become empty."""
        removed = list(paths)
        concurrently(self.remove_file, removed)
        if self.is_local:
            for folder in sorted({Path(path).parent for path in removed}):
                self._remove_empty(folder)

    def _remove_empty(self, folder: Path) -> None:
        """Removes a folder, relative to this root, and its parents, as far as they are empty."""
        with suppress(OSError):  # raised by the first folder that is not empty
            for path in [folder, *folder.parents][:-1]:
                (Path(self.uri) / path).rmdir()

    def remove(self, path: str) -> None:
        """Removes a directory and, on disk, its parents that become empty.

        A missing directory is no error: another run may remove it at the same time.
        """
        with suppress(FileNotFoundError):
            self.fs.delete_dir(self.inside(path))
        if self.is_local:
            self._remove_empty(Path(path).parent)

    def list(self, prefix: str) -> list[pafs.FileInfo]:
        """Every file below a prefix, at any depth. The list is empty if the prefix does not exist."""
        selector = pafs.FileSelector(prefix, recursive=True, allow_not_found=True)
        try:
            found = self.fs.get_file_info(selector)
        except FileNotFoundError:  # raised despite allow_not_found while another process creates the prefix
            return []
        return [info for info in found if info.type == pafs.FileType.File]


def _sync(path: Path) -> None:
    """An fsync of a file or a folder."""
    with _named(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Names a file in the error of a write or an fsync, as in that of `open`."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def is_unfinished(path: str) -> bool:
    """Whether a path is that of a file on disk that `Root.write` has still to rename, or has left."""
    return bool(_TEMPORARY.fullmatch(path.rpartition("/")[2]))


def plain_s3_uri(uri: str) -> str:
    """`s3a://`, the name that Hadoop's connector gives to S3, as `s3://`."""
    return uri.replace("s3a://", "s3://", 1) if uri.startswith("s3a://") else uri


def split_s3_uri(uri: str) -> tuple[str, str]:
    """The bucket and the key (or prefix) of `s3://bucket/key`."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def is_loopback(endpoint: str | None) -> bool:
    """Whether a server is on this machine."""
    return endpoint is not None and urlsplit(endpoint).hostname in _LOOPBACK


def s3_endpoint() -> str | None:
    """The address of an S3 server other than AWS, from the environment variables of AWS's own tools.

    Raises `FruitsError` where photos would cross a network unencrypted.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
    if endpoint and not endpoint.startswith("https://") and not is_loopback(endpoint):
        raise FruitsError(
            f"AWS_ENDPOINT_URL={endpoint} is not encrypted. Give an address with https://; http:// is only "
            "for a server on this machine."
        )
    return endpoint


def named_region() -> str:
    """The region that the environment names; if it names none, Paris."""
    return next(filter(None, map(os.environ.get, _REGION_VARIABLES)), DEFAULT_REGION)


@lru_cache(maxsize=16)
def s3_region(bucket: str) -> str:
    """The region of a bucket: that of the environment; if it names none, AWS is asked; else Paris."""
    if s3_endpoint() or any(map(os.environ.get, _REGION_VARIABLES)):
        return named_region()
    try:
        return str(pafs.resolve_s3_region(bucket))
    except OSError:  # the first request to the bucket then tells the reason
        return DEFAULT_REGION


def delta_options(uri: str) -> dict[str, str]:
    """deltalake's options for the tables of a root.

    deltalake finds credentials in AWS's environment variables, and on a machine of AWS. `provide_credentials`
    of `resources` serves credentials from other places.
    """
    if not uri.startswith("s3://"):
        return {}
    options = {"aws_region": s3_region(split_s3_uri(uri)[0])}
    if endpoint := s3_endpoint():
        options |= {"aws_endpoint": endpoint, "allow_http": str(endpoint.startswith("http://")).lower()}
    return options


@lru_cache(maxsize=16)
def open_root(uri: str) -> Root:
    """The root at a local path or an `s3://bucket/prefix`, opened once per process.

    Credentials and the endpoint come from AWS's own environment variables and files.
    """
    uri = plain_s3_uri(uri).rstrip("/") or "/"
    if not uri.startswith("s3://"):
        uri = os.path.abspath(uri)
        return Root(uri, pafs.SubTreeFileSystem(uri, pafs.LocalFileSystem()), is_local=True)
    # pyarrow lists in its own threads, 8 by default.
    pa.set_io_thread_count(IO_THREADS)
    s3 = pafs.S3FileSystem(
        region=s3_region(split_s3_uri(uri)[0]),
        # pyarrow reads the environment variables only in `FileSystem.from_uri`.
        endpoint_override=s3_endpoint(),
        # With this, a small file is one PUT, which is atomic and cheaper than a multipart upload.
        allow_delayed_open=True,
        connect_timeout=10,
        request_timeout=30,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS),
    )
    return Root(uri, pafs.SubTreeFileSystem(uri.removeprefix("s3://"), s3), is_local=False)
