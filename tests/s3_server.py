"""An S3 server on this machine, for tests that need nothing but a bucket."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest

from rehearsal.processes import reserved_ports
from spark_jobs.store.root import open_root
from tests.support import wait_for


@contextmanager
def s3_bucket(folder: Path, name: str = "fruits") -> Iterator[str]:
    """The URI of an empty bucket. AWS's variables point to its server; `folder` has no AWS configuration.

    The server is a process of its own: deltalake holds Python's lock in some calls while it waits for S3.
    """
    with reserved_ports(1) as [port]:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda: _listens(port))
            with pytest.MonkeyPatch.context() as patch:
                for variable, value in {
                    "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                    "AWS_ACCESS_KEY_ID": "testing",
                    "AWS_SECRET_ACCESS_KEY": "testing",
                    "AWS_REGION": "eu-west-3",
                    "AWS_EC2_METADATA_DISABLED": "true",
                    "AWS_CONFIG_FILE": str(folder / "none"),
                    "AWS_SHARED_CREDENTIALS_FILE": str(folder / "none"),
                }.items():
                    patch.setenv(variable, value)
                open_root.cache_clear()
                client = boto3.client("s3", region_name="eu-west-3")
                client.create_bucket(
                    Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-west-3"}
                )
                yield f"s3://{name}"
                open_root.cache_clear()
        finally:
            server.terminate()
            server.wait()


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
