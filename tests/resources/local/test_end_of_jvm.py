"""An error is explained where Spark's Java process has ended, and passes unchanged where it lives."""

import signal
import subprocess
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from pyspark import SparkContext

from resources.local.session import end_of_jvm_explained
from spark_jobs.errors import FruitsError


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that Spark takes for its JVM."""
    with subprocess.Popen(["sleep", "60"]) as sleep:
        monkeypatch.setattr(SparkContext, "_gateway", SimpleNamespace(proc=sleep))
        yield sleep
        sleep.kill()


def test_a_killed_jvm_is_named_instead_of_the_refused_connection(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGKILL)
    named = pytest.raises(FruitsError, match=r"^Spark's Java process was killed by signal 9\. .*SPARK_CORES")
    with named, end_of_jvm_explained():
        raise ConnectionRefusedError(111, "Connection refused")


def test_an_error_beside_a_living_jvm_passes_unchanged(process: "subprocess.Popen[bytes]") -> None:
    with pytest.raises(ValueError, match="no photo"), end_of_jvm_explained():
        raise ValueError("no photo")
