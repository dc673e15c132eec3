"""Spark's own History Server, which shows the event logs of the store."""

import os
import shlex
import socket
from typing import NoReturn

from resources.local.java import java_home, trust_options
from resources.local.session import s3_class_path, s3_config
from resources.scratch import hand_over_locks, use_scratch_folder
from resources.spark_events import EVENT_LOGS, HOST, KEEP_DAYS, KEEP_FILE, ON_S3
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import open_root


def serve(store_uri: str, port: int) -> NoReturn:
    """Replaces this process by Spark's History Server of a store, on 127.0.0.1 until Ctrl-C.

    The server removes event logs older than 90 days, as the lifecycle rules of the stack's bucket do.

    Raises `FruitsError` where the store has no event log or cannot be read, where the port is in use, and
    the errors of `s3_class_path` and `scratch_folder`.
    """
    from pyspark.find_spark_home import _find_spark_home

    store = open_root(store_uri)
    try:
        logs = [log for log in store.list(EVENT_LOGS) if log.base_name != KEEP_FILE]
    except OSError as error:
        raise FruitsError(
            f"The event logs in FRUITS_STORE={store_uri} can't be read: {error}. Name another store, or "
            "check its credentials."
        ) from None
    if not logs:
        raise FruitsError(
            f"There are no event logs in {store.uri_of(EVENT_LOGS)}. Run the pipeline first, or "
            "name another FRUITS_STORE."
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise FruitsError(
                f"The port {port} can't be used: {error.strerror}. Name another: fruits history --port ..."
            ) from None
    config = {
        "spark.history.fs.logDirectory": store.uri_of(EVENT_LOGS),
        "spark.history.ui.port": str(port),
        "spark.history.fs.cleaner.enabled": "true",
        "spark.history.fs.cleaner.maxAge": f"{KEEP_DAYS}d",
        # The server runs no Python and needs little memory.
        "spark.driver.memory": "512m",
        "spark.driver.extraJavaOptions": shlex.join(
            [*trust_options(), f"-Djava.io.tmpdir={use_scratch_folder()}"]
        ),
        **({} if store.is_local else {**s3_config(), **s3_class_path(), **ON_S3}),
    }
    home = _find_spark_home()
    noun = "event log" if len(logs) == 1 else "event logs"
    print(f"{len(logs):,} {noun} of {store.uri_of(EVENT_LOGS)} on http://{HOST}:{port}", flush=True)
    program = f"{home}/bin/spark-submit"
    arguments = [f"--conf={name}={value}" for name, value in config.items() if value]
    server = ["--class", "org.apache.spark.deploy.history.HistoryServer", "spark-internal"]
    # The server listens on SPARK_LOCAL_IP. Without it, it would listen on every address of this machine.
    environment = {**os.environ, "JAVA_HOME": str(java_home()), "SPARK_LOCAL_IP": HOST, "SPARK_HOME": home}
    hand_over_locks()
    os.execve(program, [program, *arguments, *server], environment)
