"""Spark's event logs, which the store keeps and Spark's History Server shows."""

from urllib.parse import quote

from spark_jobs.store.root import Root, open_root

EVENT_LOGS = "spark-events"
HOST, PORT = "127.0.0.1", 18080

# Spark's History Server skips files whose names begin with a dot.
KEEP_FILE = ".keep"

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


def history_url(application_id: str) -> str:
    """The address at which `make history` shows a Spark application."""
    return f"http://{HOST}:{PORT}/history/{application_id}/jobs/"
