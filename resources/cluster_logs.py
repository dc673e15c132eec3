"""The logs that EMR's clusters have uploaded to the stack's bucket, and that name erased photos."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pyarrow.fs as pafs

from resources.emr.aws import aws_errors_named
from resources.emr.stack import describe_stack, outputs_of
from resources.erased_texts import Texts
from resources.s3_versions import count_old_versions, remove_objects, remove_old_versions
from resources.settings import Settings
from resources.store_records import found_decompressed
from spark_jobs.store.root import Root, concurrently, open_root

# EMR uploads the logs of a cluster about every five minutes, and the last ones after its end.
_UPLOADS = timedelta(hours=1)
_LOGS = 8  # logs that are in memory at once


class ClusterLogs(NamedTuple):
    """Logs that are or were to erase.

    `files` is the number of files that name a photo, and `old_versions` that of the old versions of all logs.
    `recent` are the clusters that have uploaded one of these files within an hour, and may upload it again.
    """

    files: int
    old_versions: int
    recent: list[str]


def find_cluster_logs(settings: Settings, texts: Texts) -> ClusterLogs | None:
    """The logs that `remove_cluster_logs` would remove. It changes nothing."""
    root = _log_root(settings)
    if root is None:
        return None
    return _figures(_naming(root, texts), count_old_versions(root.uri))


def remove_cluster_logs(settings: Settings, texts: Texts) -> ClusterLogs | None:
    """Removes for good the logs that name one of the texts, and the old versions of all logs.

    Returns None where the store is not on S3, or neither FRUITS_EMR_LOGS nor a stack names a place for logs.
    Raises `FruitsError` where AWS refuses or cannot be reached. It can be called again then.
    """
    root = _log_root(settings)
    if root is None:
        return None
    logs = _naming(root, texts)
    remove_objects(root.uri, [info.path for info in logs])
    return _figures(logs, remove_old_versions(root.uri))


def _log_root(settings: Settings) -> Root | None:
    if not settings.store.startswith("s3://"):
        return None
    uri = settings.emr_logs
    if uri is None:
        with aws_errors_named():
            uri = outputs_of(describe_stack(settings) or {}).get("LogUri")
    return None if uri is None else open_root(uri)


def _naming(root: Root, texts: Texts) -> list[pafs.FileInfo]:
    """The logs that have one of the texts, or are damaged."""

    def names(info: pafs.FileInfo) -> bool:
        compression = "gzip" if info.path.endswith(".gz") else None
        contents = root.read_present([info.path]).values()
        return any(found_decompressed(content, compression, texts) for content in contents)

    with aws_errors_named():
        logs = [info for info in root.list("") if info.size]
        return [info for info, named in zip(logs, concurrently(names, logs, _LOGS), strict=True) if named]


def _figures(logs: Collection[pafs.FileInfo], old_versions: int) -> ClusterLogs:
    young = datetime.now(UTC) - _UPLOADS
    recent = {info.path.partition("/")[0] for info in logs if info.mtime > young}
    return ClusterLogs(len(logs), old_versions, sorted(recent))
