"""Store and Dagster home are their user's own, whatever the umask, or a group's where that is set."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from resources.rights import open_to_all, set_umask_like
from resources.settings import Settings, load_settings
from spark_jobs.errors import FruitsError
from tests.support import DAGSTER_YAML, REPOSITORY

# A job on Spark: its log, its event log, files of pyarrow, of deltalake and of a Python worker of Spark.
WRITES = """
import os, sys
from pathlib import Path
import dagster as dg
import pyarrow as pa
from deltalake import write_deltalake
from resources.local.session import start_session
from resources.settings import Settings, load_settings
from spark_jobs.store.root import open_root

settings = load_settings(Settings)
spark = start_session(settings, event_log=True)
root = open_root(settings.store)
root.write("a/file", b"1")
root.create("b/stream").close()
write_deltalake(f"{settings.store}/table", pa.table({"x": [1]}))

def write(number):
    Path(settings.store, f"worker-{number}").write_text("1")
    return number

spark.sparkContext.parallelize([1], 1).map(write).collect()
spark.stop()
with dg.DagsterInstance.get() as instance:
    instance.add_dynamic_partitions("classes", ["Kiwi"])
"""


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def share(folder: Path) -> Path:
    folder.mkdir(parents=True)
    folder.chmod(0o2770)
    return folder


def written(folder: Path, **variables: str) -> dict[str, int]:
    """The rights of all that `WRITES` writes with the umask 022 into a new store and Dagster home."""
    home = folder / "home"
    if "FRUITS_SHARED" in variables:
        share(folder / "store")
        share(home)
    else:
        home.mkdir(mode=0o755)
    shutil.copy(DAGSTER_YAML, home)
    names = {"FRUITS_IMAGES": "/photos", "FRUITS_STORE": str(folder / "store"), "DAGSTER_HOME": str(home)}
    subprocess.run(
        [sys.executable, "-c", WRITES],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "FRUITS_SPARK_CORES": "1", **names, **variables},
        cwd=folder,
        umask=0o022,
        check=True,
    )
    made_before = (home, home / "dagster.yaml")
    paths = [path for path in folder.rglob("*") if path not in made_before]
    return {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in paths}


def is_event_log(path: str) -> bool:
    # org.apache.spark.deploy.history.EventLogFileWriter.LOG_FILE_PERMISSIONS is 660.
    return path.startswith("store/spark-events/local-")


def test_whatever_a_run_writes_is_its_users_own(tmp_path: Path) -> None:
    rights = written(tmp_path)
    assert {"store/a/file", "store/b/stream", "store/worker-1", "home/spark.log"} <= rights.keys()
    assert any(path.startswith("store/table/_delta_log/") for path in rights)
    assert any(is_event_log(path) for path in rights)
    assert any(path.startswith("home/history/") and path.endswith(".db") for path in rights)
    assert {path: oct(mode) for path, mode in rights.items() if mode & 0o077 and not is_event_log(path)} == {}


def test_whatever_a_run_writes_is_its_groups_too_where_that_is_set(tmp_path: Path) -> None:
    rights = written(tmp_path, FRUITS_SHARED="true")
    folders = {path: mode for path, mode in rights.items() if (tmp_path / path).is_dir()}
    assert {oct(mode) for mode in folders.values()} == {"0o2770"}
    files = {path: oct(mode) for path, mode in rights.items() if path not in folders}
    assert set(files.values()) == {"0o660"}, files
    assert {"home/.storage.lock", "store/a/file"} <= files.keys()


def test_dagsters_daemon_follows_the_rights_of_its_home(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for folder, mode in ((own, 0o077), (share(tmp_path / "shared"), 0o007)):
        os.umask(0o022)
        set_umask_like(folder)
        assert os.umask(0o022) == mode


def test_dagsters_storage_makes_a_home_that_is_its_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "500")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    shutil.copy(DAGSTER_YAML, home)
    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions("classes", ["Kiwi"])
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.iterdir()}
    del modes["dagster.yaml"]
    assert "history" in modes
    assert not [name for name, mode in modes.items() if mode & 0o077]


@pytest.mark.parametrize("variable", ["FRUITS_STORE", "DAGSTER_HOME"])
def test_a_folder_without_a_group_is_refused_where_it_is_to_be_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    roots = {name: share(tmp_path / name) for name in ("FRUITS_STORE", "DAGSTER_HOME")}
    for name, value in {"FRUITS_IMAGES": "/photos", "FRUITS_SHARED": "true", **roots}.items():
        monkeypatch.setenv(name, str(value))
    load_settings(Settings)
    roots[variable].chmod(0o755)
    with pytest.raises(
        FruitsError, match=rf"^FRUITS_SHARED=true, but {variable}={roots[variable]} is .*chgrp -R"
    ):
        load_settings(Settings)
    roots[variable].rmdir()  # a folder that will be made
    with pytest.raises(FruitsError, match=f"new files in {tmp_path} would not get its group"):
        load_settings(Settings)
    tmp_path.chmod(0o2770)
    load_settings(Settings)


def test_a_folder_is_open_to_all_if_each_folder_above_it_is(tmp_path: Path) -> None:
    store = tmp_path / "above" / "store"
    store.mkdir(parents=True)
    closed = [parent for parent in store.parents if not parent.stat().st_mode & stat.S_IXOTH]
    assert open_to_all(store) == (not closed)
    store.parent.chmod(0o700)
    assert not open_to_all(store)
    assert open_to_all(Path("/"))
    assert not open_to_all(tmp_path / "none")
