"""AWS on this machine, as far as the platform calls it: S3, EMR, IAM and STS, with steps that really run."""

import json
import os
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rehearsal.faults import CONTROL, Fault
from rehearsal.nodes import node_python
from rehearsal.processes import free_ports, kill_marked, nothing_left, start_process, tail
from rehearsal.yarn import Yarn
from spark_jobs.errors import FruitsError

REGION = "eu-west-3"

START_SECONDS = 120


def client_of(access: Mapping[str, str], service: str, region: str = REGION) -> Any:
    """A boto3 client that reaches AWS by these variables, and no others."""
    import boto3

    return boto3.client(
        service,
        endpoint_url=access["AWS_ENDPOINT_URL"],
        region_name=region,
        aws_access_key_id=access["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=access["AWS_SECRET_ACCESS_KEY"],
        aws_session_token=access.get("AWS_SESSION_TOKEN"),
    )


@dataclass(frozen=True)
class Aws:
    """The running stand-in. `step_folder` has a folder for each step: its stdout and stderr as they grow."""

    endpoint: str
    step_folder: Path

    def environment(self) -> dict[str, str]:
        """The variables by which boto3, pyarrow and S3A reach it. The credentials are no secret: any do."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "rehearsal",
            "AWS_SECRET_ACCESS_KEY": "rehearsed-secret",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            # Else what finds no credentials waits for an instance's metadata service.
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, service: str, region: str = REGION) -> Any:
        """A boto3 client for it, whatever this process's own environment says.

        Regions are apart: a cluster or bucket made by a client of another region is in that one.
        """
        return client_of(self.environment(), service, region)

    def order(self, fault: Fault) -> None:
        """Makes coming calls suffer a fault, beside those already ordered."""
        self._control("POST", fault.to_json())

    def clear_faults(self) -> None:
        """Ends all faults."""
        self._control("DELETE")

    def calls(self) -> dict[str, int]:
        """How often each operation was called, failed ones too: `elasticmapreduce DescribeStep`, `s3 PUT`."""
        return self._control("GET")

    def _control(self, method: str, body: bytes | None = None) -> dict[str, int]:
        request = urllib.request.Request(f"{self.endpoint}{CONTROL}", data=body, method=method)
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)


@contextmanager
def start_aws(
    folder: Path, yarn: Yarn, python: Path | None = None, log_seconds: float = 0.0
) -> Iterator[Aws]:
    """Runs the stand-in while the context lasts. Steps of its EMR clusters run on `yarn`.

    `folder` must be its own. `python` is the nodes' (`PYSPARK_PYTHON`), by default one with the executors'
    packages only. A step's logs are in S3 `log_seconds` after its end; EMR takes up to five minutes.

    Raises `FruitsError` when the server doesn't come up, with the end of its log.
    """
    folder = folder.absolute()
    [port] = free_ports(1)
    aws = Aws(f"http://127.0.0.1:{port}", folder / "steps")
    aws.step_folder.mkdir(parents=True)
    options = {
        "port": port,
        "folder": str(aws.step_folder),
        "hadoop_conf": str(yarn.conf_dir),
        "python": str(python or node_python()),
        "aws": aws.environment(),
        "yarn": yarn.url,
        "log_seconds": log_seconds,
    }
    (folder / "server.json").write_text(json.dumps(options))
    with nothing_left(str(folder)):
        command = [sys.executable, "-m", "rehearsal.server", str(folder / "server.json")]
        # EMR's managed policy, which the role of clusters has, is AWS's own.
        settings = {**os.environ, "MOTO_IAM_LOAD_MANAGED_POLICIES": "true"}
        server = start_process(f"{folder}/server", command, folder / "server.log", settings)
        deadline = time.monotonic() + START_SECONDS
        while not _answers(aws):
            if server.poll() is not None or time.monotonic() > deadline:
                raise FruitsError(
                    f"moto's server is not up (exit status {server.returncode}); its log ends in\n"
                    f"{tail(folder / 'server.log')}"
                )
            time.sleep(0.1)
        yield aws
        kill_marked(str(folder))
        server.wait()


def _answers(aws: Aws) -> bool:
    try:
        aws.calls()
    except OSError:
        return False
    return True
