"""Commands with their settings in `.env` only, with an AWS that refuses each request or is silent."""

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from tests.shell import PATIENCE, Shell
from tests.support import REPOSITORY, wait_for

REGION, KEY = "eu-north-1", "KEYOFTHEENVFILE"

ENV_FILE = """
DAGSTER_HOME={home}
FRUITS_IMAGES=s3://bucket/photos
FRUITS_STORE=s3://bucket/store
FRUITS_REGION={region}
AWS_ACCESS_KEY_ID={key}
AWS_SECRET_ACCESS_KEY=secret
AWS_ENDPOINT_URL={endpoint}
AWS_EC2_METADATA_DISABLED=true
"""

DENIED = b"<Error><Code>AccessDenied</Code><Message>Denied</Message></Error>"


class Refusing(BaseHTTPRequestHandler):
    """Answers each request with status 403, and records the access key and the region of its signature."""

    signed: set[tuple[str, str]]

    def answer(self) -> None:
        # Credential=<access key>/<date>/<region>/<service>/aws4_request
        found = re.search(r"Credential=([^/]*)/\d+/([^/]*)/", self.headers.get("Authorization", ""))
        self.signed.add((found[1], found[2]) if found else ("", ""))
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(DENIED)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(DENIED)

    do_GET = do_HEAD = do_PUT = do_POST = answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def silent_aws() -> Iterator[str]:
    """The address of an AWS that accepts connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def aws() -> Iterator[tuple[str, set[tuple[str, str]]]]:
    """The address of an AWS that refuses each request, and the (access key, region) of each signature."""
    signed: set[tuple[str, str]] = set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Refusing,), {"signed": signed}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", signed
    server.shutdown()


def start_with_env_file(folder: Path, endpoint: str, *command: str) -> subprocess.Popen[str]:
    """Starts a command in a folder whose `.env` alone names photos, store, region and credentials."""
    shell = Shell(folder)
    text = ENV_FILE.format(home=shell.home, region=REGION, key=KEY, endpoint=endpoint)
    (folder / ".env").write_text(text)
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    for name in [name for name in shell.environment if name.startswith(("FRUITS_", "DAGSTER_"))]:
        del shell.environment[name]
    return shell.start(*command, cwd=folder)


DAGSTERS = ["dagster", "asset", "materialize", "-m", "fruits_assets.definitions"]


@pytest.mark.parametrize(
    "command",
    [
        ["fruits", "run"],
        ["fruits", "plan", "--images", "1", "--nodes", "1"],
        ["fruits", "history"],
        ["fruits", "emr", "deploy", "--yes"],
        ["fruits", "emr", "destroy", "--yes"],
        [*DAGSTERS, "--select", "environment_comparison"],
        ["dg", "launch", "--assets", "environment_comparison"],
    ],
    ids=" ".join,
)
def test_a_command_reads_region_store_and_credentials_from_the_env_file(
    tmp_path: Path, aws: tuple[str, set[tuple[str, str]]], command: list[str]
) -> None:
    endpoint, signed = aws
    process = start_with_env_file(tmp_path, endpoint, *command)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0, output
    assert signed == {(KEY, REGION)}, output


@pytest.mark.parametrize(
    "command",
    [
        ["fruits", "plan", "--images", "1", "--nodes", "1"],
        ["fruits", "emr", "deploy", "--yes"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupted_command_ends_within_seconds_though_aws_is_silent(
    tmp_path: Path, silent_aws: str, command: list[str], number: signal.Signals
) -> None:
    process = start_with_env_file(tmp_path, silent_aws, *command)
    port = int(silent_aws.rpartition(":")[2])
    wait_for(lambda: port in connections_of(process.pid))
    started = time.monotonic()
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, output
    assert time.monotonic() - started < 10
    assert "Traceback" not in output


def connections_of(process: int) -> set[int]:
    """The ports to which a process is connected."""
    return {
        connection.raddr.port for connection in psutil.Process(process).net_connections() if connection.raddr
    }
