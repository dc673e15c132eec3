"""Spark's event logs, under the store."""

from urllib.parse import quote

from spark_jobs.store.root import Root, open_root

EVENT_LOGS = "spark-events"
HOST, PORT = "127.0.0.1", 18080

# Spark's History Server passes over what begins with a dot.
KEEP_FILE = ".keep"


def event_log_config(store_uri: str) -> dict[str, str]:
    """Spark's settings by which a session writes its event log, on this machine and on a cluster."""
    store = open_root(store_uri)
    # Spark reads it as a URI, to which what follows a # is no part of the path.
    uri = quote(store.uri_of(EVENT_LOGS), safe=":/")
    return {
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": f"file:{uri}" if store.is_local else uri,
        "spark.eventLog.compress": "true",
    }


def make_event_log_folder(store: Root) -> None:
    """Makes the folder of event logs, without which Spark does not start.

    By a file in it: to make a folder, pyarrow asks S3 for more than whoever runs Dagster may do.
    """
    store.write(f"{EVENT_LOGS}/{KEEP_FILE}", b"")


def history_url(application_id: str) -> str:
    """Where `make history` shows an application."""
    return f"http://{HOST}:{PORT}/history/{application_id}/jobs/"
