"""Dagster's records in PostgreSQL, as a team of several machines keeps them, on a real server."""

import shutil
import sys
from pathlib import Path

import pytest

from benchmarks.photo_sets import variant
from fruits_assets.jobs import BRING_UP_TO_DATE
from rehearsal.processes import reserved_ports
from tests.dagster_ui import DagsterUi
from tests.shell import IMAGES, PATIENCE, Shell
from tests.support import REPOSITORY, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.postgres]


def test_web_server_daemon_and_two_runs_at_once_share_one_database(
    first_run: tuple[Path, str], tmp_path: Path, database: str
) -> None:
    shell = Shell(shutil.copytree(first_run[0], tmp_path / "user"))
    shutil.rmtree(shell.home / "history")
    shutil.rmtree(shell.home / "schedules")
    shell.environment["DAGSTER_POSTGRES_URL"] = database
    programs = Path(sys.executable).parent
    workspace = ["-w", str(REPOSITORY / "workspace.yaml")]
    with reserved_ports(1) as [port]:
        address = ["-h", "127.0.0.1", "-p", str(port)]
        services = [
            shell.start(str(programs / "dagster-webserver"), *workspace, *address),
            shell.start(str(programs / "dagster-daemon"), "run", *workspace),
        ]
        try:
            ui = DagsterUi(port, tmp_path / "log")
            wait_for(ui.answers)
            # The database is new: the first command tells Dagster what the store has.
            shell.run("fruits", "run")
            labels = sorted(path.name for path in shell.photos.iterdir())[:2]
            for label in labels:
                photo = min((shell.photos / label).iterdir())
                (shell.photos / label / "new.jpg").write_bytes(variant(photo, 1))
            runs = [shell.start("fruits", "run", "--class", label) for label in labels]
            outputs = [run.communicate(timeout=PATIENCE)[0] for run in runs]
            assert [run.returncode for run in runs] == [0, 0], outputs
            assert [len(shell.csv(label)) for label in labels] == [IMAGES + 1, IMAGES + 1]
            queued = ui.launch(BRING_UP_TO_DATE)
            assert ui.wait_for_run(queued) == "SUCCESS"
            assert {run["status"] for run in ui.runs()} == {"SUCCESS"}
            assert len(ui.runs(pipelineName=BRING_UP_TO_DATE)) == 4
        finally:
            for service in services:
                service.kill()
                service.communicate()
    assert not (shell.home / "history").exists()
