"""A user's shell: commands, each in a process of its own, and the store that they write."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

from spark_jobs.store.pointers import current_one
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_FEATURES_CSV, PCA_MODEL, RAW_IMAGES
from spark_jobs.store.versions import Version
from tests.support import DAGSTER_YAML, REPOSITORY, WEIGHTS, current_versions

BY_CLASS = [RAW_IMAGES, MOBILENET_FEATURES, PCA_FEATURES_CSV]
IMAGES = 4  # of each class of a first run
PATIENCE = 300  # seconds for a command, on the busiest machine


class Shell:
    """A shell with its environment; photos, store and Dagster home are in one folder."""

    def __init__(self, folder: Path) -> None:
        # A path may contain the characters that start a fragment or an escape in a URI.
        self.photos, self.store, self.home = folder / "photos", folder / "a #1 100% store", folder / "dagster"
        self.home.mkdir(exist_ok=True)
        shutil.copy(DAGSTER_YAML, self.home)
        programs = Path(sys.executable).parent
        # Without the variables that the suite sets for Spark: the commands find Java themselves.
        own = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
        self.environment = own | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "VIRTUAL_ENV": str(programs.parent),
            "PYTHONPATH": str(REPOSITORY),  # the code beside the tests, whichever checkout is installed
            "DAGSTER_HOME": str(self.home),
            "FRUITS_IMAGES": str(self.photos),
            "FRUITS_STORE": str(self.store),
            "FRUITS_WEIGHTS": WEIGHTS,
            "FRUITS_SPARK_CORES": "2",
            "FRUITS_MAX_BAD_SHARE": "0.1",
        }

    def start(self, *command: str, cwd: Path = REPOSITORY, **changed: str) -> subprocess.Popen[str]:
        """Starts a command in a session of its own. `changed` adds variables; an empty value removes one."""
        environment = {name: value for name, value in {**self.environment, **changed}.items() if value}
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str, exits: int = 0) -> str:
        """The output of a command, from stdout and stderr, once it ends with the expected status."""
        process = self.start(*command)
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == exits, output
        return output

    def pointers(self) -> dict[str, dict[str, Version]]:
        """The current pointers: table, class, pointer."""
        return {table: current_versions(open_root(str(self.store)), table) for table in BY_CLASS}

    def model(self) -> Version | None:
        return current_one(open_root(str(self.store)), PCA_MODEL)

    def csv(self, label: str) -> list[dict[str, str]]:
        with (self.store / PCA_FEATURES_CSV / f"{label}.csv").open(newline="") as file:
            return list(csv.DictReader(file))
