"""The list of erasures: files in a folder of the store, which jobs compare and cannot read.

An erasure adds one file before it changes anything, and another file when nothing is left of the photos. A
job may have read a photo before. So it commits only if no file has been added since it started, and looks
again after its commit: `fruits erase` looks again after its last file.
"""

from typing import NamedTuple

from spark_jobs.errors import FruitsError
from spark_jobs.store.root import Root
from spark_jobs.store.versions import combined_version

ERASURES = "erasures"

# The beginning of an error by which whoever started a job knows it, also through the messages of a cluster.
ERASED_MEANWHILE = "Photos were erased while this job worked"


class ErasedPhotos(NamedTuple):
    """Photos to erase: paths relative to FRUITS_IMAGES, the SHA-256 of their contents, and their classes."""

    paths: frozenset[str]
    hashes: frozenset[str]
    labels: frozenset[str]


def erasures_version(store: Root) -> str:
    """The version of the list of erasures; empty where nothing was ever erased."""
    names = sorted(info.path for info in store.list(ERASURES))
    return combined_version(*names) if names else ""


def check_erasures(store: Root, version: str) -> None:
    """Raises `FruitsError` where the list of erasures has another version by now."""
    if erasures_version(store) != version:
        raise FruitsError(
            f"{ERASED_MEANWHILE}, and it may have read them before. Run it again.", retry_helps=True
        )
