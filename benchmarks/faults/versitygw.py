"""versitygw, a real S3 server: it verifies signatures, and keeps each object as a file in a folder.

`go/go.mod` beside this file pins its version and those of all its parts, and `go/go.sum` their hashes.
"""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.processes import environment
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import DEFAULT_REGION

BUCKET = "fruits"
ACCESS_KEY, SECRET_KEY = "versity", "versity-secret"

_MODULE = Path(__file__).with_name("go")
_PACKAGE = "github.com/versity/versitygw/cmd/versitygw"
_START_SECONDS = 60.0


class Bucket(NamedTuple):
    """The server's address, and the folder that has the objects of `BUCKET` as files, by key."""

    address: str
    folder: Path

    def variables(self, address: str = "") -> dict[str, str]:
        """The environment variables that lead AWS clients to the server, or to a proxy before it."""
        return {
            "AWS_ENDPOINT_URL": address or self.address,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": DEFAULT_REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def client(self, secret: str = SECRET_KEY) -> Any:
        """boto3's client of the server."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.address,
            region_name=DEFAULT_REGION,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=secret,
        )


def built(folder: Path) -> Path:
    """The program, which is built once in a folder: some minutes, and 1 GB of Go's own caches.

    Raises `FruitsError` where Go is missing, is too old, or cannot build it.
    """
    pinned = (_MODULE / "go.mod").read_text()
    [needed], [version] = (
        re.findall(pattern, pinned, re.MULTILINE) for pattern in (r"^go (\S+)$", r"versity/versitygw (v\S+)")
    )
    program = folder / f"versitygw-{version}"
    if program.exists():
        return program
    install = (
        f"Install Go {needed} or later from https://go.dev/dl and put `go` on the PATH; packages of Linux "
        "distributions may be older."
    )
    if not shutil.which("go"):
        raise FruitsError(
            f"The faults of S3 need an S3 server, and Go, which builds it, is missing. {install}"
        )
    new = folder / f"{program.name}.new"
    process = subprocess.run(
        # Paths of this machine in the program would make it another one on each machine.
        ["go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-o", str(new), _PACKAGE],
        cwd=_MODULE,
        # Go would download another Go where this one is too old.
        env={**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "", "GOWORK": "off"},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        said = process.stderr.strip()[-500:]
        raise FruitsError(f"Go cannot build versitygw. If it is too old: {install} Go says: {said}")
    new.rename(program)
    return program


def _check_attributes(folder: Path) -> None:
    """Raises `FruitsError` where files of a folder can have no extended attributes, which keep the ETags."""
    try:
        os.setxattr(folder, "user.fruits", b"")
    except OSError as error:
        raise FruitsError(
            f"The S3 server keeps ETags as extended attributes of files, and {folder} can have none: "
            f"{error.strerror}. Name a folder on ext4, XFS or Btrfs with --out."
        ) from error


@contextmanager
def running(program: Path, folder: Path) -> Iterator[Bucket]:
    """Runs the server on loopback, with the bucket in a folder.

    Raises `FruitsError` where it does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_attributes(folder)
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    options = ["--quiet", "--port", f"127.0.0.1:{port}", "--region", DEFAULT_REGION]
    log = program.with_suffix(".log")
    with log.open("w") as output:
        server = subprocess.Popen(
            [str(program), *options, "posix", str(folder)],
            env=environment({"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        begun = time.monotonic()
        while not _listens(port):
            if server.poll() is not None or time.monotonic() > begun + _START_SECONDS:
                raise FruitsError(f"versitygw did not start: {log.read_text().strip()[-500:]}")
            time.sleep(0.02)
        bucket = Bucket(f"http://127.0.0.1:{port}", folder / BUCKET)
        if not bucket.folder.exists():
            bucket.client().create_bucket(
                Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": DEFAULT_REGION}
            )
        yield bucket
    finally:
        server.kill()
        server.wait()


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
