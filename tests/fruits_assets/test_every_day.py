"""A team's day with Dagster's own processes: new photos, backfills, jobs, alerts, on one `fruits ui`."""

import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dagster as dg
import psutil
import pytest

from benchmarks.photo_sets import variant
from fruits_assets.jobs import BRING_UP_TO_DATE, EVERYTHING_AGAIN, OBSERVE_PHOTOS, REFIT_MODEL
from fruits_assets.partitions import known_classes
from rehearsal.processes import reserved_ports
from spark_jobs.store.schemas import PCA_FEATURES_CSV, RAW_IMAGES
from tests.dagster_ui import CODE, DagsterUi, dagster_ui
from tests.shell import BY_CLASS, IMAGES, Shell
from tests.support import wait_for

PATIENCE = 300


@dataclass(frozen=True)
class Team:
    """A platform after its first run, its Dagster processes, and the messages that Slack has received."""

    shell: Shell
    ui: DagsterUi
    slack: list[str]

    @property
    def labels(self) -> list[str]:
        """The classes in the order of their partitions."""
        with self.instance() as instance:
            return known_classes(instance)

    def instance(self) -> dg.DagsterInstance:
        os.environ["DAGSTER_HOME"] = str(self.shell.home)
        return dg.DagsterInstance.get()

    def photo(self, label: str) -> Path:
        """The first photo of a class."""
        return min((self.shell.photos / label).iterdir())

    def add_photo(self, label: str, number: int) -> None:
        (self.shell.photos / label / f"new_{number}.jpg").write_bytes(variant(self.photo(label), number))

    def materialized_by(self, run_ids: list[str], asset: str) -> list[str]:
        """The classes that these runs have materialized, sorted; a class comes once for each event."""
        with self.instance() as instance:
            records = instance.fetch_materializations(dg.AssetKey(asset), limit=1000).records
        return sorted(str(record.partition_key) for record in records if record.run_id in run_ids)


@pytest.fixture(scope="module")
def slack() -> Iterator[tuple[str, list[str]]]:
    """The address of a server that takes the messages of an incoming webhook, and these messages."""
    messages: list[str] = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            messages.append(json.loads(body)["text"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Webhook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/services/T0/B0/secret", messages
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def team(
    first_run: tuple[Path, str],
    slack: tuple[str, list[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("team")
    shell = Shell(shutil.copytree(first_run[0], folder / "user"))
    with reserved_ports(1) as [port], pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(shell.home))
        environment = shell.environment | {
            "FRUITS_OBSERVE_SECONDS": "10",
            "FRUITS_UI_URL": f"http://127.0.0.1:{port}",
            "FRUITS_ALERT_SLACK": slack[0],
        }
        with dagster_ui(environment, port, folder) as ui:
            yield Team(shell, ui, slack[1])


def test_photos_of_scattered_classes_are_picked_up_by_one_run(team: Team) -> None:
    first, last = team.labels[0], team.labels[-1]
    before = team.shell.pointers()
    team.ui.switch_on("keep_up_to_date")
    by_sensor = [{"key": "dagster/sensor_name", "value": "keep_up_to_date"}]
    [everything] = wait_for(lambda: team.ui.runs(tags=by_sensor, statuses=["SUCCESS"]))
    assert everything["tags"]["fruits/classes"] == "all"
    team.add_photo(first, 1)
    team.add_photo(last, 2)
    wait_for(lambda: len(team.shell.csv(last)) == IMAGES + 1, PATIENCE)
    [run, *_] = team.ui.runs(tags=by_sensor)
    assert team.ui.wait_for_run(run["runId"]) == "SUCCESS"
    assert run["tags"]["fruits/classes"] == f"{first}, {last}"
    assert len(team.shell.csv(first)) == IMAGES + 1
    for asset in BY_CLASS:
        assert team.materialized_by([run["runId"]], asset) == sorted([first, last])
        unchanged = before[asset].keys() - {first, last}
        assert all(team.shell.pointers()[asset][label] == before[asset][label] for label in unchanged)
    team.ui.switch_off("keep_up_to_date")
    # A look at photos that have not changed starts no run.
    observations = len(team.ui.runs(pipelineName=OBSERVE_PHOTOS))
    ticks = team.ui.log.read_text().count("No photo is new, changed or gone.")
    wait_for(lambda: team.ui.log.read_text().count("No photo is new, changed or gone.") > ticks)
    assert len(team.ui.runs(pipelineName=OBSERVE_PHOTOS)) == observations


@pytest.mark.slow
def test_each_class_of_a_backfill_is_materialized_once_and_a_bad_class_fails_alone(team: Team) -> None:
    labels = team.labels
    chosen, bad = [labels[0], labels[1], labels[3], labels[5]], labels[3]
    photo = team.photo(bad)
    good = photo.read_bytes()
    photo.write_bytes(b"no picture")
    backfill = team.ui.backfill([RAW_IMAGES], chosen)
    status = wait_for(lambda: s if (s := team.ui.backfill_status(backfill)).startswith("COMPLETED") else None)
    runs = team.ui.runs(tags=[{"key": "dagster/backfill", "value": backfill}])
    assert (status, len(runs)) == ("COMPLETED_FAILED", 3)  # one for each stretch of neighbours
    once = {label: 1 for label in chosen if label != bad}
    materialized = team.materialized_by([run["runId"] for run in runs], RAW_IMAGES)
    assert {label: materialized.count(label) > 0 for label in chosen} == {
        label: label in once for label in chosen
    }
    photo.write_bytes(good)
    again = team.ui.retry_failed(backfill)
    wait_for(lambda: team.ui.backfill_status(again) == "COMPLETED_SUCCESS", PATIENCE)
    retried = team.ui.runs(tags=[{"key": "dagster/backfill", "value": again}])
    assert set(team.materialized_by([run["runId"] for run in retried], RAW_IMAGES)) == {bad}


def test_a_failed_run_and_a_failed_check_are_told_with_classes_cause_and_link(team: Team) -> None:
    label = team.labels[2]
    photo = team.photo(label)
    good = photo.read_bytes()
    photo.write_bytes(b"no picture")
    # A run of the command line, which has no part in the daemon.
    team.shell.run("fruits", "run", exits=1)
    told = wait_for(lambda: [text for text in team.slack if label in text and "/runs/" in text], PATIENCE)
    assert f"http://127.0.0.1:{team.ui.port}/runs/" in told[-1]
    assert f"The run {BRING_UP_TO_DATE} failed" in told[-1]
    assert "1 of 4 photos are bad" in told[-1]
    photo.write_bytes(good)
    team.add_photo(label, 3)
    # The timeline of the UI asks for the runs of its code location.
    of_command = {"key": "fruits/command", "value": "fruits run"}
    in_timeline = {"key": ".dagster/repository", "value": "__repository__@fruits"}
    assert len(team.ui.runs(tags=[of_command, in_timeline], statuses=["FAILURE"])) == 1
    # This run succeeds, and leaves the model behind.
    team.shell.run("fruits", "run")
    wait_for(lambda: [text for text in team.slack if "fitted_on_current_features warns" in text], PATIENCE)
    number = len(team.slack)
    team.add_photo(label, 4)
    team.shell.run("fruits", "run")  # the same warning is told once
    assert len([text for text in team.slack[number:] if "fitted_on_current_features" in text]) == 0


def test_the_ui_repeats_a_run_of_the_command_without_a_warning(team: Team) -> None:
    team.add_photo(team.labels[1], 5)
    team.shell.run("fruits", "run")
    # The UI warns unless the run has the origin and the snapshot of a job that is loaded.
    [run] = [run for run in team.ui.runs(pipelineName=BRING_UP_TO_DATE) if "fruits/command" in run["tags"]][
        :1
    ]
    answer = team.ui.ask(
        """query ($run: ID!, $job: PipelineSelector!) {
             pipelineRunOrError(runId: $run) { ... on Run {
               pipelineSnapshotId repositoryOrigin { repositoryName repositoryLocationName } } }
             pipelineOrError(params: $job) { ... on Pipeline { pipelineSnapshotId } } }""",
        run=run["runId"],
        job={**CODE, "pipelineName": BRING_UP_TO_DATE},
    )
    assert answer["pipelineRunOrError"] == {**answer["pipelineOrError"], "repositoryOrigin": CODE}
    # The daemon leaves a failed run of the command to the person who has started it.
    assert run["tags"]["dagster/max_retries"] == "0"


def test_a_job_fits_a_new_model_and_projects_every_class_in_one_run(team: Team) -> None:
    with pytest.raises(AssertionError, match="less than or equal to 1280"):
        team.ui.launch(REFIT_MODEL, {"components": 2000})
    run = team.ui.launch(REFIT_MODEL, {"components": 7})
    assert team.ui.wait_for_run(run) == "SUCCESS"
    assert team.materialized_by([run], PCA_FEATURES_CSV) == sorted(team.labels)
    assert "pc7" in team.shell.csv(team.labels[0])[0]
    assert "pc8" not in team.shell.csv(team.labels[0])[0]


@pytest.mark.slow
def test_a_run_whose_process_is_killed_is_marked_as_failed_and_repeated_once(team: Team) -> None:
    killed = team.ui.launch(EVERYTHING_AGAIN)
    lock = team.shell.home / "running" / killed
    wait_for(lock.exists, PATIENCE)
    [process] = [
        process
        for process in psutil.process_iter()
        if "python" in process.name() and any(file.path == str(lock) for file in process.open_files())
    ]
    process.kill()
    assert team.ui.wait_for_run(killed, PATIENCE) == "FAILURE"
    of_killed = [{"key": "dagster/parent_run_id", "value": killed}]
    [again] = wait_for(lambda: team.ui.runs(tags=of_killed), PATIENCE)
    assert team.ui.wait_for_run(again["runId"], PATIENCE) == "SUCCESS"
    assert team.materialized_by([again["runId"]], PCA_FEATURES_CSV) == sorted(team.labels)


@pytest.mark.slow
def test_a_cancelled_backfill_ends_its_runs(team: Team) -> None:
    for label in team.labels:
        for number in range(100, 160):
            team.add_photo(label, number)
    before = team.shell.pointers()[RAW_IMAGES]
    backfill = team.ui.backfill([RAW_IMAGES], team.labels[::2])
    tag = [{"key": "dagster/backfill", "value": backfill}]
    wait_for(lambda: any(run["status"] == "STARTED" for run in team.ui.runs(tags=tag)), PATIENCE)
    team.ui.cancel(backfill)
    wait_for(lambda: team.ui.backfill_status(backfill) == "CANCELED", PATIENCE)
    assert {run["status"] for run in team.ui.runs(tags=tag)} <= {"CANCELED", "SUCCESS"}
    after = team.shell.pointers()[RAW_IMAGES]
    assert any(after[label] == before[label] for label in team.labels[::2])
