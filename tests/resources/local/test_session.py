"""The start of a Spark session on this machine, each in a process of its own."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from resources.local.session import QUICK_JVM, session_config
from resources.settings import Settings
from tests.support import REPOSITORY

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
