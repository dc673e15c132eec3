"""Every Spark session on this machine starts here: its environment, its configuration and its JVM."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

from py4j.java_gateway import JavaGateway
from pyspark import SparkConf, SparkContext, java_gateway
from pyspark.accumulators import AccumulatorServer
from pyspark.errors import PySparkRuntimeError
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession

from resources.local.jars import S3A, jars
from resources.local.java import java_home, trust_options
from resources.scratch import scratch_folder, use_scratch_folder
from resources.settings import Settings
from resources.spark_events import (
    EVENT_LOGS,
    KEEP_FILE,
    event_log_config,
    make_event_log_folder,
    remove_old_event_logs,
)
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import Root, named_region, open_root, s3_endpoint

# The jobs do their work in Python. A JVM that compiles little starts and ends sooner.
QUICK_JVM = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")

# The setting that names the class which reads `s3://`.
S3_CLIENT = "spark.hadoop.fs.s3.impl"

_MOMENT_SECONDS = 1.0

# No write of a file takes so long.
_DAY = timedelta(days=1)

_JAVA_OPTIONS = "spark.driver.extraJavaOptions"
# What Java writes where a program fails.
_FAILED = b'Exception in thread "main"'

_LOG4J = Path(__file__).with_name("log4j2.properties")


def start_session(
    settings: Settings,
    extra: Mapping[str, str] | None = None,
    *,
    event_log: bool = False,
    java_options: Sequence[str] = QUICK_JVM,
) -> SparkSession:
    """The Spark session of this process, which starts on the first call.

    `extra` adds Spark settings to `session_config`. Raises `FruitsError` where Spark's JVM does not start.
    """
    config = session_config(settings, event_log=event_log, java_options=java_options) | dict(extra or {})
    prepare_spark(config, settings.store)
    return SparkSession.builder.config(map={**config}).getOrCreate()


def session_config(
    settings: Settings, *, event_log: bool = False, java_options: Sequence[str] = QUICK_JVM
) -> dict[str, str]:
    """Spark's configuration on this machine; with `event_log`, Spark writes its event log into the store."""
    config = {
        # Spark runs a failed task once more, so that a brief failure of S3 does not end the run. With *, the
        # JVM counts the cores that CPU affinity and the limits of a container allow.
        "spark.master": f"local[{settings.spark_cores or '*'},2]",
        "spark.app.name": "fruits",
        "spark.driver.memory": settings.spark_memory,
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        # Spark splits the value as a shell does, so a quoted option may contain spaces.
        _JAVA_OPTIONS: shlex.join(
            [f"-Dlog4j2.configurationFile={_LOG4J.as_uri()}", *java_options, *trust_options()]
        ),
        # Each task of the PCA returns 13 MB of partial sums.
        "spark.driver.maxResultSize": "0",
        "spark.rpc.message.maxSize": "512",
        "spark.python.worker.reuse": "true",
    }
    if settings.images.startswith("s3://") or settings.store.startswith("s3://"):
        config |= s3_config()
    if event_log:
        config |= event_log_config(settings.store)
    return config


def s3_config() -> dict[str, str]:
    """Spark's settings that read `s3://` URIs through S3A, as EMR reads them through EMRFS."""
    config = {
        S3_CLIENT: "org.apache.hadoop.fs.s3a.S3AFileSystem",
        "spark.hadoop.fs.s3a.aws.credentials.provider": (
            "com.amazonaws.auth.DefaultAWSCredentialsProviderChain"
        ),
    }
    endpoint = s3_endpoint()
    if endpoint:
        config |= {
            "spark.hadoop.fs.s3a.endpoint": endpoint,
            # S3A would sign for us-east-1, and a server of another region refuses that.
            "spark.hadoop.fs.s3a.endpoint.region": named_region(),
            "spark.hadoop.fs.s3a.path.style.access": "true",
            "spark.hadoop.fs.s3a.connection.ssl.enabled": str(endpoint.startswith("https")).lower(),
        }
    return config


def s3_class_path() -> dict[str, str]:
    """The setting that gives Spark the verified jars of S3A.

    Spark could fetch packages itself. It would ask Ivy at each start, verify no hash and copy 280 MB: two
    seconds. It would also put the jars on the path of Python, where the driver and each worker would search
    the 20,000 names of the AWS SDK at their imports.

    Raises `FruitsError` where a jar can't be downloaded, or is not the one that is expected.
    """
    return {"spark.driver.extraClassPath": os.pathsep.join(map(str, jars(S3A)))}


def prepare_spark(config: Mapping[str, str], store: str) -> None:
    """Does what must precede a session with this configuration: environment, event log folder and JVM.

    Raises `FruitsError` where Spark's JVM does not start, and the errors of `s3_class_path` and
    `scratch_folder`.
    """
    os.environ["JAVA_HOME"] = str(java_home())
    # Without it, Spark looks for another address of this machine and warns about the one that it finds.
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    # Executors must run this interpreter, whichever `python3` is on the PATH.
    os.environ["PYSPARK_PYTHON"] = sys.executable
    if "spark.eventLog.dir" in config:
        _begin_event_logs(open_root(store))
    if SparkContext._gateway is None:
        class_path = s3_class_path() if S3_CLIENT in config else {}
        options = " ".join(filter(None, [config.get(_JAVA_OPTIONS), _in_scratch_folders()]))
        all_config = {**config, **class_path, _JAVA_OPTIONS: options}
        conf = SparkConf(loadDefaults=False).setAll([*all_config.items()])
        home = os.environ.get("DAGSTER_HOME")
        gateway = _logged_jvm(conf, Path(home) / "spark.log") if home else launch_gateway(conf)
        SparkContext._ensure_initialized(gateway=gateway, conf=conf)
        # Where the JVM dies, the connection of its accumulators breaks. Python would print a trace of that
        # beside the sentence of `end_of_jvm_explained`.
        AccumulatorServer.handle_error = lambda *_: None  # type: ignore[method-assign]


@contextmanager
def end_of_jvm_explained() -> Iterator[None]:
    """Turns an error into a sentence if Spark's JVM, the Java process of this process, has ended.

    py4j's own errors tell of a refused connection or, as text, of a recursion.
    """
    try:
        yield
    except Exception:
        status = _status_of_jvm()
        if status is None:
            raise
        ended = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        raise FruitsError(
            f"Spark's Java process {ended}. Linux kills a process with signal 9 where memory runs out: then "
            "set fewer FRUITS_SPARK_CORES, or end other programs. spark.log in DAGSTER_HOME may tell more."
        ) from None


def _status_of_jvm() -> int | None:
    """The exit status of the JVM, or the negative number of a signal; None while it lives."""
    process: subprocess.Popen[bytes] | None = getattr(SparkContext._gateway, "proc", None)
    with suppress(subprocess.TimeoutExpired):
        # The connections of a process close a moment before it has ended.
        return process.wait(_MOMENT_SECONDS) if process else None
    return None


def _begin_event_logs(store: Root) -> None:
    """Makes the folder of event logs, and removes from the store what killed runs have left beside its data.

    Where the store refuses a removal, the next run tries again. A store of EMR has a lifecycle rule for it.
    """
    make_event_log_folder(store)
    with suppress(OSError):
        now = store.fs.get_file_info(f"{EVENT_LOGS}/{KEEP_FILE}").mtime  # by the clock of the store
        remove_old_event_logs(store, now)
        store.remove_unfinished(now - _DAY)


def _in_scratch_folders() -> str:
    """Directs temporary files of Python, its workers and Spark to scratch folders of this process.

    It returns the option that does so for Java, in whose temporary folder Spark puts its blocks by default.
    """
    folder = use_scratch_folder()
    if folders := os.environ.get("SPARK_LOCAL_DIRS"):
        os.environ["SPARK_LOCAL_DIRS"] = ",".join(str(scratch_folder(each)) for each in folders.split(","))
    return shlex.join([f"-Djava.io.tmpdir={folder}"])


def _logged_jvm(conf: SparkConf, log: Path) -> JavaGateway:
    """Starts the JVM of this process's sessions, with its output appended to a file.

    The output contains stack traces of errors that Spark overcomes. In a terminal they would look like
    failures of a run that succeeds.
    """
    with log.open("ab") as output:
        begin = output.tell()
        try:
            with _failed_start_ends(log, begin):
                return launch_gateway(conf, {"stdout": output, "stderr": subprocess.STDOUT})
        except PySparkRuntimeError:
            reason = _reason(log.read_bytes()[begin:])
            raise FruitsError(
                f"Spark did not start: {reason}. The details are at the end of {log}."
            ) from None


@contextmanager
def _failed_start_ends(log: Path, begin: int) -> Iterator[None]:
    """Lets PySpark see that the JVM which it starts has failed. `log` has its output from `begin` on.

    PySpark asks the process for its status until that is not 0 or until the JVM has written a file. A JVM
    whose main thread has failed lives on, for example where the disk has no room for that file.
    """

    class Jvm(subprocess.Popen[bytes]):
        def poll(self) -> int | None:
            status = super().poll()
            with log.open("rb") as output:
                output.seek(begin)
                if status is None and _FAILED in output.read():
                    os.kill(self.pid, signal.SIGKILL)
                    status = self.wait()
            return status

    java_gateway.Popen = Jvm  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        java_gateway.Popen = subprocess.Popen  # type: ignore[misc]


def _reason(output: bytes) -> str:
    """The last line of Java's output above its stack trace."""
    lines = output.decode(errors="replace").splitlines()
    return next((line for line in reversed(lines) if line and line[0] != "\t"), "no reason given")
