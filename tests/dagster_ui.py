"""Dagster as a team runs it: web server and daemon as processes, asked by the GraphQL of its UI."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import wait_for

CODE = {"repositoryLocationName": "fruits", "repositoryName": "__repository__"}


@dataclass(frozen=True)
class DagsterUi:
    """The web server of a `fruits ui`, and the log of all of its processes."""

    port: int
    log: Path

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The answer to a GraphQL query."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:  # the status is 500 where the answer is a PythonError
            answer = json.load(error)
        assert "errors" not in answer, answer
        data: dict[str, Any] = answer["data"]
        return data

    def answers(self) -> bool:
        """Whether the web server accepts connections."""
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def launch(self, job: str, config: Mapping[str, Any] | None = None) -> str:
        """Starts a run of a job, as its launchpad does; returns the id of the run."""
        answer = self.ask(
            """mutation ($p: ExecutionParams!) { launchRun(executionParams: $p) {
                 __typename ... on LaunchRunSuccess { run { runId } }
                 ... on RunConfigValidationInvalid { errors { message } }
                 ... on PythonError { errorChain { error { message } } } } }""",
            p={"selector": {**CODE, "jobName": job}, "runConfigData": dict(config or {})},
        )["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    def switch_on(self, sensor: str) -> None:
        answer = self.ask(
            "mutation ($s: SensorSelector!) { startSensor(sensorSelector: $s) { __typename } }",
            s={**CODE, "sensorName": sensor},
        )
        assert answer["startSensor"]["__typename"] == "Sensor", answer

    def switch_off(self, sensor: str) -> None:
        found = self.ask(
            "query ($s: SensorSelector!) { sensorOrError(sensorSelector: $s) { ... on Sensor { id } } }",
            s={**CODE, "sensorName": sensor},
        )
        self.ask(
            "mutation ($id: String!) { stopSensor(id: $id) { __typename } }", id=found["sensorOrError"]["id"]
        )

    def backfill(self, assets: list[str], classes: list[str]) -> str:
        """Starts a backfill of classes, as the dialog "Materialize" does; returns its id."""
        answer = self.ask(
            """mutation ($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) {
                 __typename ... on LaunchBackfillSuccess { backfillId } } }""",
            p={"assetSelection": [{"path": [asset]} for asset in assets], "partitionNames": classes},
        )["launchPartitionBackfill"]
        return str(answer["backfillId"])

    def retry_failed(self, backfill: str) -> str:
        """The button "Re-execute from failure" of a backfill; returns the id of the new backfill."""
        answer = self.ask(
            """mutation ($p: ReexecutionParams!) { reexecutePartitionBackfill(reexecutionParams: $p) {
                 __typename ... on LaunchBackfillSuccess { backfillId } } }""",
            p={"parentRunId": backfill, "strategy": "FROM_FAILURE"},
        )["reexecutePartitionBackfill"]
        return str(answer["backfillId"])

    def cancel(self, backfill: str) -> None:
        self.ask(
            "mutation ($id: String!) { cancelPartitionBackfill(backfillId: $id) { __typename } }", id=backfill
        )

    def backfill_status(self, backfill: str) -> str:
        answer = self.ask(
            """query ($id: String!) { partitionBackfillOrError(backfillId: $id) {
                 ... on PartitionBackfill { status } } }""",
            id=backfill,
        )
        return str(answer["partitionBackfillOrError"]["status"])

    def runs(self, **filters: Any) -> list[dict[str, Any]]:
        """The runs, the newest first, with `runId`, `jobName`, `status` and `tags`."""
        answer = self.ask(
            """query ($f: RunsFilter!) { runsOrError(filter: $f) { ... on Runs { results {
                 runId jobName status tags { key value } } } } }""",
            f=filters,
        )
        found = answer["runsOrError"]["results"]
        return [{**run, "tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in found]

    def wait_for_run(self, run_id: str, seconds: float = 180) -> str:
        """Waits for the end of a run; returns its status."""

        def ended() -> str | None:
            [run] = self.runs(runIds=[run_id])
            return run["status"] if run["status"] in ("SUCCESS", "FAILURE", "CANCELED") else None

        return wait_for(ended, seconds)


@contextmanager
def dagster_ui(
    environment: Mapping[str, str], port: int, folder: Path, *, daemon: bool = True
) -> Iterator[DagsterUi]:
    """Runs `fruits ui` in a folder while the context lasts; its processes end with the context."""
    fruits = str(Path(sys.executable).with_name("fruits"))
    log = folder / "ui.log"
    command = [fruits, "ui", "--port", str(port), "--daemon" if daemon else "--no-daemon"]
    with log.open("a") as output:
        server = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        ui = DagsterUi(port, log)
        wait_for(ui.answers)
        yield ui
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
