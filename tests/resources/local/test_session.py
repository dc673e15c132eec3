"""The start of a Spark session on this machine, each in a process of its own."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from resources.local.session import QUICK_JVM, session_config
from resources.settings import Settings
from resources.spark_events import EVENT_LOGS
from tests.support import REPOSITORY, wait_for

# Prints a Java property with a space, then writes a line to the standard error of Spark's JVM.
PROGRAM = """
import sys
from resources.local.session import start_session
from resources.settings import Settings
settings = Settings(images="/photos", store=sys.argv[1], spark_cores=1, _env_file=None)
spark = start_session(settings, event_log=True, java_options=sys.argv[2:])
java = spark.sparkContext._jvm.System
print(java.getProperty("spaced"))
java.err.println("a line of Spark")
"""


def start(folder: Path, *java_options: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder / "store #1"), *java_options],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def java_options(*options: str) -> list[str]:
    settings = Settings(images="/photos", store="/store", _env_file=None)
    return shlex.split(session_config(settings, java_options=options)["spark.driver.extraJavaOptions"])


def test_java_options_are_those_of_the_caller_whatever_they_contain() -> None:
    spaced = """-Dspaced=/a folder/it's "here" """
    assert spaced in java_options(spaced)
    assert not set(QUICK_JVM) & set(java_options())


@pytest.mark.parametrize("with_home", [True, False])
def test_spark_writes_to_its_log_in_dagster_home_else_to_stderr(tmp_path: Path, with_home: bool) -> None:
    home = {"DAGSTER_HOME": str(tmp_path)} if with_home else {}
    finished = start(tmp_path, "-Dspaced=it's a test", **home)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines()[-1] == "it's a test"
    assert ("a line of Spark" in finished.stderr) != with_home
    if with_home:
        assert (tmp_path / "spark.log").read_text().splitlines() == ["a line of Spark"]
    assert list((tmp_path / "store #1" / "spark-events").glob("local-*"))


def test_a_jvm_whose_main_thread_has_failed_is_ended_with_its_reason(tmp_path: Path) -> None:
    program = tmp_path / "spark" / "bin" / "spark-submit"
    program.parent.mkdir(parents=True)
    # As Spark's PythonGatewayServer writes where its folder has no room: another thread keeps the JVM alive.
    reason = (
        'Exception in thread "main" java.nio.file.FileSystemException: /tmp/x.info: No space left on device'
    )
    program.write_text(f"#!/bin/sh\necho '{reason}'\nprintf '\\tat Files.createFile\\n'\nexec sleep 600\n")
    program.chmod(0o700)
    begun = time.monotonic()
    finished = start(tmp_path, DAGSTER_HOME=str(tmp_path), SPARK_HOME=str(program.parents[1]))
    assert finished.returncode == 1
    assert f"FruitsError: Spark did not start: {reason}. The details are at the end of" in finished.stderr
    assert time.monotonic() - begun < 60


def test_a_jvm_that_does_not_start_is_refused_with_its_reason(tmp_path: Path) -> None:
    finished = start(tmp_path, "-XX:+UseSerialGC", "-XX:+UseG1GC", DAGSTER_HOME=str(tmp_path))
    error = finished.stderr.splitlines()[-1]
    assert "Spark did not start: Multiple garbage collectors selected. The details" in error
    assert error.endswith(f" are at the end of {tmp_path}/spark.log.")


def test_requests_to_a_server_are_signed_for_its_region(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without it, S3A signs for us-east-1, which a server of another region refuses.
    # https://hadoop.apache.org/docs/r3.3.4/hadoop-aws/tools/hadoop-aws/index.html (fs.s3a.endpoint.region)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://s3.example.org")
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    settings = Settings(images="/photos", store="s3://fruits/store", _env_file=None)
    assert session_config(settings)["spark.hadoop.fs.s3a.endpoint.region"] == "eu-north-1"


# Runs a job whose Python worker tells its temporary folder, and a shuffle, and waits.
WORKER = """
import sys
from resources.local.session import start_session
from resources.settings import Settings
settings = Settings(images="/photos", store=sys.argv[1], spark_cores=1, _env_file=None)
spark = start_session(settings, event_log=True)
context = spark.sparkContext
def folder(_):
    import tempfile
    return tempfile.gettempdir()
print(context.parallelize([0], 1).map(folder).collect()[0])
context.parallelize(range(100), 2).map(lambda n: (n % 7, n)).groupByKey().count()
print("ready", flush=True)
sys.stdin.readline()
"""


def start_worker(folder: Path, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder / "store #1")],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "DAGSTER_HOME": str(folder), **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_the_death_of_the_jvm_prints_no_trace_beside_the_sentence_of_the_run(tmp_path: Path) -> None:
    process = start_worker(tmp_path)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)][1] == "ready\n"
    [jvm] = [child for child in psutil.Process(process.pid).children() if child.name() == "java"]
    jvm.kill()
    wait_for(lambda: jvm.status() == psutil.STATUS_ZOMBIE)
    time.sleep(1)  # the threads of PySpark see that their connections are closed
    process.kill()
    assert "Traceback" not in process.communicate()[1]


@pytest.mark.parametrize("names_local_dirs", [False, True])
def test_a_killed_session_leaves_nothing_that_the_next_does_not_remove(
    tmp_path: Path, names_local_dirs: bool
) -> None:
    temporary, blocks = tmp_path / "a #1 folder", tmp_path / "blocks"
    temporary.mkdir()
    environment = {"TMPDIR": str(temporary)} | ({"SPARK_LOCAL_DIRS": str(blocks)} if names_local_dirs else {})
    process = start_worker(tmp_path, **environment)
    assert process.stdout is not None
    lines = [process.stdout.readline().rstrip("\n") for _ in range(2)]
    [scratch] = temporary.iterdir()
    assert lines == [str(scratch), "ready"]
    [of_blocks] = blocks.iterdir() if names_local_dirs else [scratch]
    assert list(scratch.glob("liblz4-java-*.so")) and list(of_blocks.glob("blockmgr-*"))
    os.killpg(process.pid, signal.SIGKILL)  # the JVM too, which else would tidy up
    process.communicate()
    assert scratch.exists() and of_blocks.exists()
    [log] = (tmp_path / "store #1" / EVENT_LOGS).glob("*.inprogress")
    os.utime(log, (time.time() - 2 * 86400,) * 2)
    unfinished = tmp_path / "store #1" / "run_records" / f".{'ab' * 16}"
    unfinished.parent.mkdir()
    unfinished.touch()
    os.utime(unfinished, (time.time() - 2 * 86400,) * 2)
    process = start_worker(tmp_path, **environment)
    process.communicate("")
    assert process.returncode == 0
    wait_for(lambda: not list((tmp_path / "store #1" / EVENT_LOGS).glob("*.inprogress")))  # the JVM ends
    assert list(temporary.iterdir()) == []
    assert not names_local_dirs or list(blocks.iterdir()) == []
    assert not unfinished.exists()
