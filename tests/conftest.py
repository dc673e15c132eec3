"""Fixtures of the whole suite: one Spark session, one conversion of the model, one set of sample photos."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import chdir
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from rehearsal.processes import reserved_ports
from resources.local.session import start_session
from resources.settings import Settings
from tests.support import WEIGHTS, numbered_samples, wait_for

CLASSES = ["Apple Red 1", "Banana", "Kiwi"]
IMAGES_PER_CLASS = 8


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="A test that is skipped has failed.")
    parser.addoption(
        "--random-changes", type=int, default=8, help="Changes of photos in test_random_changes."
    )
    parser.addoption("--random-seed", type=int, default=22, help="Seed of these changes.")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and item.config.getoption("--no-skips"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and --no-skips is given: {report.longrepr}"
    return report


def pytest_configure() -> None:
    # Where SIGINT is ignored, as in a script's background jobs, what the tests start would ignore it too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def port() -> Iterator[int]:
    """A port of 127.0.0.1 for a server that the test starts."""
    with reserved_ports(1) as [number]:
        yield number


@pytest.fixture
def database(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[str]:
    """The address of an empty database of PostgreSQL, from the package of Debian."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
    # The server refuses to run as root. The folder is outside of that of pytest, which is root's alone.
    user = "postgres" if os.getuid() == 0 else None
    folder = Path(f"/tmp/fruits-postgres-{port}")
    folder.mkdir()
    if user:
        shutil.chown(folder, user)
    initdb = [
        str(programs / "initdb"),
        "-D",
        str(folder / "data"),
        "-U",
        "fruits",
        "--auth=trust",
        "-E",
        "UTF8",
    ]
    subprocess.run(initdb, check=True, user=user, cwd="/", stdout=subprocess.DEVNULL)
    command = [str(programs / "postgres"), "-D", str(folder / "data"), "-p", str(port)]
    command += ["-h", "127.0.0.1", "-k", str(folder)]
    with (tmp_path_factory.mktemp("postgres") / "log").open("w") as log:
        server = subprocess.Popen(command, user=user, cwd="/", stdout=log, stderr=subprocess.STDOUT)
    try:
        ready = [str(programs / "pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-q"]
        wait_for(lambda: subprocess.run(ready, check=False).returncode == 0)
        yield f"postgresql://fruits@127.0.0.1:{port}/postgres"
    finally:
        # After SIGTERM, it would wait for clients that a failed test has left.
        server.send_signal(signal.SIGINT)
        server.wait()
        shutil.rmtree(folder)


@pytest.fixture(scope="session", autouse=True)
def clean_environment() -> Iterator[None]:
    """Removes the developer's own settings for the whole test session."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("FRUITS_", "AWS_", "DAGSTER_", "SPARK_")):
                patch.delenv(name)
        yield


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path) -> Iterator[None]:
    """Runs every test in a directory of its own, without `.env`, and restores the environment after it.

    `load_settings` adds the lines of a `.env` to the environment. Only a variable that differs is written:
    C's getenv, which threads of pyarrow and deltalake call, is not safe beside setenv. It does not need
    `monkeypatch`, so that it ends after it: `monkeypatch` puts back what it has found, which may be the
    address of a server of the test.
    """
    environment = dict(os.environ)
    with chdir(tmp_path):
        yield
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """The Spark session of all tests, on two cores. A Dagster run in this process uses it too."""
    folder = str(tmp_path_factory.mktemp("spark"))
    settings = Settings(images="/images", store="/store", spark_cores=2, _env_file=None)
    session = start_session(settings, {"spark.sql.warehouse.dir": folder, "spark.local.dir": folder})
    yield session
    session.stop()


@pytest.fixture(scope="session")
def sample_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root of photos that no test may change: the classes `CLASSES`, `IMAGES_PER_CLASS` each."""
    root = tmp_path_factory.mktemp("samples")
    for label in numbered_samples(root, IMAGES_PER_CLASS):
        if label not in CLASSES:
            shutil.rmtree(root / label)
    return root


@pytest.fixture
def photos(sample_photos: Path, tmp_path: Path) -> Path:
    """A copy of `sample_photos` of the test's own, to change at will."""
    return shutil.copytree(sample_photos, tmp_path / "photos")


@pytest.fixture
def store(tmp_path: Path) -> str:
    """The root of a store that does not exist yet."""
    return str(tmp_path / "store")


@pytest.fixture(scope="session")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `model.xml`, `model.bin` and `conversion.json`, converted once (by `WEIGHTS`)."""
    out = tmp_path_factory.mktemp("extractor")
    program = [sys.executable, "-m", "fruits_assets.model.convert"]
    subprocess.run([*program, "--weights", WEIGHTS, "--out", str(out)], check=True, capture_output=True)
    return out
