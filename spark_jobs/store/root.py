"""A root of files, on local disk or on S3, behind one interface."""

import os
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

# Requests in flight at once. Reading small objects is bound by latency, not bandwidth: 32 threads
# reach 4 times the rate of 8 behind 15 ms, and more gain little.
IO_THREADS = 32

DEFAULT_REGION = "eu-west-3"
_REGION_VARIABLES = ("FRUITS_REGION", "AWS_REGION", "AWS_DEFAULT_REGION")


@dataclass(frozen=True)
class Root:
    """A folder or an S3 prefix; every path given to its methods is relative to it.

    Paths are plain text, never percent-encoded, so that any class name can stand in them.
    """

    uri: str
    fs: pafs.FileSystem
    is_local: bool

    def uri_of(self, path: str) -> str:
        """The full name of a file under this root, as Spark and pandas take it."""
        return f"{self.uri}/{path}"

    def exists(self) -> bool:
        return self.fs.get_file_info("").type != pafs.FileType.NotFound

    def has(self, path: str) -> bool:
        """Whether a file of that name is there."""
        return self.fs.get_file_info(path).type == pafs.FileType.File

    def read(self, path: str) -> bytes:
        """The content of one file. Raises `FileNotFoundError`, `PermissionError` or `OSError`."""
        with self.fs.open_input_stream(path) as stream:
            return stream.read()

    def read_many(self, paths: Iterable[str]) -> list[bytes]:
        """The contents of several files, in their order, read concurrently."""
        with ThreadPoolExecutor(IO_THREADS) as pool:
            return list(pool.map(self.read, paths))

    def write(self, path: str, content: bytes) -> None:
        """Puts one file whole or not at all; readers see the old content or the new, never a part.

        On S3 that is one PUT. On disk it is a rename over the old file, after an fsync.
        """
        if not self.is_local:
            with self.fs.open_output_stream(path) as stream:
                stream.write(content)
            return
        target = Path(self.uri) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f".{uuid.uuid4().hex}"
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def write_many(self, contents: Iterable[tuple[str, bytes]]) -> None:
        """`write` for several files, concurrently."""
        with ThreadPoolExecutor(IO_THREADS) as pool:
            list(pool.map(lambda item: self.write(*item), contents))

    def create(self, path: str) -> pa.NativeFile:
        """A stream to a new file, which nobody may read before it is closed and published."""
        if self.is_local:
            self.fs.create_dir(path.rpartition("/")[0], recursive=True)
        return self.fs.open_output_stream(path)

    def move(self, source: str, target: str) -> None:
        """Puts a finished file under another name in one step, replacing what was there.

        A rename on disk; on S3 a copy on the server, of 5 GB at most, and a delete.
        """
        if self.is_local:
            self.fs.create_dir(target.rpartition("/")[0], recursive=True)
        self.fs.move(source, target)

    def move_many(self, moves: Iterable[tuple[str, str]]) -> None:
        """`move` for several files, concurrently."""
        with ThreadPoolExecutor(IO_THREADS) as pool:
            list(pool.map(lambda pair: self.move(*pair), moves))

    def remove(self, path: str) -> None:
        """Removes a directory, with the empty ones that it leaves above it on disk.

        Another run may be removing the same one: what is gone already is no error.
        """
        with suppress(FileNotFoundError):
            self.fs.delete_dir(path)
        if self.is_local:
            with suppress(OSError):  # the first that is not empty
                for folder in Path(path).parents[:-1]:
                    (Path(self.uri) / folder).rmdir()

    def list(self, prefix: str) -> list[pafs.FileInfo]:
        """Every file below a prefix, at any depth; nothing where the prefix does not exist."""
        selector = pafs.FileSelector(prefix, recursive=True, allow_not_found=True)
        try:
            found = self.fs.get_file_info(selector)
        except FileNotFoundError:  # all the same, where another process is making it just now
            return []
        return [info for info in found if info.type == pafs.FileType.File]


def split_s3_uri(uri: str) -> tuple[str, str]:
    """The bucket and the key (or prefix) of `s3://bucket/key`."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def s3_endpoint() -> str | None:
    """Where S3 is, if not at AWS: as AWS's own tools read it from the environment."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


@lru_cache(maxsize=16)
def open_root(uri: str) -> Root:
    """The root at a local path or an `s3://bucket/prefix`, opened once a process.

    Credentials and the endpoint come from AWS's own environment variables and files; the region
    from `FRUITS_REGION`, `AWS_REGION` or `AWS_DEFAULT_REGION`, else Paris.
    """
    uri = uri.rstrip("/") or "/"
    if not uri.startswith("s3://"):
        uri = os.path.abspath(uri)
        return Root(uri, pafs.SubTreeFileSystem(uri, pafs.LocalFileSystem()), is_local=True)
    # pyarrow lists in threads of its own, 8 if nothing is said.
    pa.set_io_thread_count(IO_THREADS)
    s3 = pafs.S3FileSystem(
        region=next(filter(None, map(os.environ.get, _REGION_VARIABLES)), DEFAULT_REGION),
        # pyarrow itself reads the variables in `FileSystem.from_uri` only.
        endpoint_override=s3_endpoint(),
        # A small file then goes as one PUT, which is atomic, and cheaper than a multipart upload.
        allow_delayed_open=True,
        connect_timeout=10,
        request_timeout=30,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=8),
    )
    return Root(uri, pafs.SubTreeFileSystem(uri.removeprefix("s3://"), s3), is_local=False)
