"""Spark's event logs, which the store keeps and Spark's History Server shows."""

from datetime import datetime, timedelta
from urllib.parse import quote

import pyarrow.fs as pafs

from spark_jobs.store.root import Root, concurrently, open_root

EVENT_LOGS = "spark-events"
HOST, PORT = "127.0.0.1", 18080

# Spark's History Server skips files whose names begin with a dot.
KEEP_FILE = ".keep"

# The end of the name of an event log that Spark still writes, or that a killed process has left.
UNFINISHED = ".inprogress"

# The days for which an event log is kept. The lifecycle rule of the stack's bucket has the same number.
KEEP_DAYS = 90
# Spark writes to the log of a living run more often: at the end of each stage, and when 8 KB are full.
_UNFINISHED_DAYS = 1

# How often the History Server looks for new events on S3; by default, it lists and reads them every 10 s.
ON_S3 = {"spark.history.fs.update.interval": "60s"}


def event_log_config(store_uri: str) -> dict[str, str]:
    """Spark's settings for a session that writes its event log into the store, locally and on a cluster."""
    store = open_root(store_uri)
    # Spark parses the value as a URI, in which a # in a folder's name would end the path.
    uri = quote(store.uri_of(EVENT_LOGS), safe=":/")
    return {
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": f"file:{uri}" if store.is_local else uri,
        "spark.eventLog.compress": "true",
    }


def make_event_log_folder(store: Root) -> None:
    """Creates the folder of event logs, without which Spark does not start.

    It writes a file into the folder. To create an S3 folder, pyarrow makes calls that the policy of the
    person who runs Dagster does not allow.
    """
    store.write(f"{EVENT_LOGS}/{KEEP_FILE}", b"")


def remove_old_event_logs(store: Root, now: datetime) -> int:
    """Removes event logs after 90 days, and those of killed runs after one day; returns their number."""

    def is_old(log: pafs.FileInfo) -> bool:
        days = _UNFINISHED_DAYS if log.path.endswith(UNFINISHED) else KEEP_DAYS
        return bool(log.base_name != KEEP_FILE and log.mtime < now - timedelta(days=days))

    old = [log.path for log in store.list(EVENT_LOGS) if is_old(log)]
    concurrently(store.remove_file, old)
    return len(old)


def history_url(application_id: str) -> str:
    """The address at which `make history` shows a Spark application."""
    return f"http://{HOST}:{PORT}/history/{application_id}/jobs/"
