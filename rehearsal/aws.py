"""Simulates the services of AWS that the platform calls: S3, EMR, IAM and STS. Its EMR really runs steps."""

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

from rehearsal.calls import FAULTS, PERMISSIONS
from rehearsal.delays import NO_DELAYS, Delays
from rehearsal.faults import Fault
from rehearsal.nodes import node_python
from rehearsal.processes import kill_marked, killed_at_exit, reserved_ports, start_process, tail
from rehearsal.yarn import Yarn
from spark_jobs.errors import FruitsError

REGION = "eu-west-3"

START_SECONDS = 120  # the time limit of the server's start


def client_of(access: Mapping[str, str], service: str, region: str = REGION) -> Any:
    """A boto3 client that uses the environment variables in `access` and ignores those of this process."""
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
    """The running server. `step_folder` has a folder for each step with its stdout and stderr."""

    endpoint: str
    step_folder: Path

    def variables(self) -> dict[str, str]:
        """The environment variables that lead boto3, pyarrow and S3A to the server.

        The server checks no signature, so these are not secret. It judges no call with this access key.
        """
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "rehearsal",
            "AWS_SECRET_ACCESS_KEY": "rehearsed-secret",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            # Without it, a client that finds no credentials waits for the metadata service of EC2.
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, service: str, region: str = REGION) -> Any:
        """A boto3 client for the server; it ignores the AWS variables of this process.

        Clusters and buckets exist in the region of the client that creates them.
        """
        return client_of(self.variables(), service, region)

    def inject(self, fault: Fault) -> None:
        """Applies a fault to future calls, in addition to the faults that are already injected."""
        self._control("POST", FAULTS, fault.to_json())

    def clear_faults(self) -> None:
        """Removes all faults."""
        self._control("DELETE", FAULTS)

    def calls(self) -> dict[str, int]:
        """The number of calls, also failed calls, by operation: `elasticmapreduce DescribeStep`, `s3 PUT`."""
        calls: dict[str, int] = self._control("GET", FAULTS)
        return calls

    def judge_calls(self) -> None:
        """From now on, the server permits calls by the policies of their callers."""
        self._control("POST", PERMISSIONS)

    def decisions(self) -> list[dict[str, Any]]:
        """Every decision about a call, as `Judge.decisions` describes it."""
        decisions: list[dict[str, Any]] = self._control("GET", PERMISSIONS)
        return decisions

    def _control(self, method: str, path: str, body: bytes | None = None) -> Any:
        request = urllib.request.Request(f"{self.endpoint}{path}", data=body, method=method)
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)


@contextmanager
def start_aws(
    folder: Path, yarn: Yarn | None, python: Path | None = None, delays: Delays = NO_DELAYS
) -> Iterator[Aws]:
    """Runs the server while the context lasts. The steps of its EMR clusters run on `yarn`.

    Without `yarn`, steps run commands that do not use Spark. `folder` receives the files of this server
    alone. `python` is the Python of the nodes (`PYSPARK_PYTHON`); by default an environment with only the
    packages of the executors.

    Raises `FruitsError` with the end of the server's log if the server does not start.
    """
    folder = folder.absolute()
    with reserved_ports(1) as [port], killed_at_exit(str(folder)):
        aws = Aws(f"http://127.0.0.1:{port}", folder / "steps")
        aws.step_folder.mkdir(parents=True)
        options = {
            "port": port,
            "folder": str(aws.step_folder),
            "python": str(python or node_python()),
            "aws": aws.variables(),
            "yarn": [str(yarn.folder), yarn.url] if yarn else None,
            "delays": delays._asdict(),
        }
        (folder / "server.json").write_text(json.dumps(options))
        command = [sys.executable, "-m", "rehearsal.server", str(folder / "server.json")]
        settings = {
            **os.environ,
            # The server runs in a folder of its own, and the package `rehearsal` is not installed.
            "PYTHONPATH": str(Path(__file__).parents[1]),
            # The service role of clusters has a managed policy of AWS, which moto loads only on request.
            "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",
        }
        server = start_process(f"{folder}/server", command, folder / "server.log", settings)
        deadline = time.monotonic() + START_SECONDS
        while not _answers(aws):
            if server.poll() is not None or time.monotonic() > deadline:
                raise FruitsError(
                    f"moto's server did not start (exit status {server.returncode}). Its log ends with\n"
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
