"""The files of the store that are no data and may name photos: of steps and runs, event logs, reports.

Parameters of a step name the photos of a class, and its report shows some. Their folder goes as a whole. An
event log of Spark that names an erased photo goes too. Every other file is written anew with a filler of the
same length in the place of each text, so a JSON file stays valid.

The report shows pictures, in which no text can be found. Each erasure removes it.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs

from resources.emr.code import CODE, STEPS
from resources.erased_texts import Texts, blanked, found_in
from resources.spark_events import EVENT_LOGS, UNFINISHED
from spark_jobs.store.erasures import ERASURES
from spark_jobs.store.leases import LIFETIME
from spark_jobs.store.pointers import folder_of
from spark_jobs.store.root import Root, concurrently
from spark_jobs.store.schemas import (
    FEATURE_EXTRACTOR,
    MOBILENET_FEATURES,
    PCA_FEATURES_CSV,
    PCA_MODEL,
    QUARANTINED_IMAGES,
    RAW_IMAGES,
    REPORT,
)

# Tables, CSVs, the model and the weights, and what names no photo.
_NO_RECORDS = frozenset(
    {
        *(RAW_IMAGES, QUARANTINED_IMAGES, MOBILENET_FEATURES, PCA_FEATURES_CSV, folder_of(PCA_FEATURES_CSV)),
        *(PCA_MODEL, FEATURE_EXTRACTOR, "leases", ERASURES),
    }
)
# The compression of an event log, by the end of its name; `resources/spark_events.py` sets Spark's default.
_COMPRESSIONS = {"": None, "zstd": "zstd"}
_CHUNK = 16 << 20
_LOGS = 4  # event logs that are in memory at once; a log of a long run has 100 MB
# Longer than each text: a path on S3 has up to 1,024 bytes.
_OVERLAP = 64 << 10


class Records(NamedTuple):
    """The number of files that are or were to erase, by their folder, and the files that were left.

    `left` are files that a living run still uses, relative to the store. They go with the end of the run.
    """

    files: dict[str, int]
    left: list[str]


class _Found(NamedTuple):
    """The paths of files to remove, to write anew, and to leave."""

    remove: list[str]
    blank: list[str]
    left: list[str]

    def records(self) -> Records:
        files = Counter(path.partition("/")[0] for path in (*self.remove, *self.blank))
        return Records(dict(sorted(files.items())), sorted(self.left))


def find_records(store: Root, texts: Texts, alive: Collection[str]) -> Records:
    """The files that `erase_records` would erase. It changes nothing."""
    return _find(store, texts, alive).records()


def erase_records(store: Root, texts: Texts, alive: Collection[str]) -> Records:
    """Erases texts from the records of the store, and the folders of all steps whose runs have ended.

    `texts` are those of `texts_of`. `alive` are the ids of the other runs that have a lease or that Dagster
    has not finished. In a bucket with versions, old versions stay: `remove_old_versions` removes them.

    Raises `OSError` where the store fails. It can be called again then.
    """
    found = _find(store, texts, alive)

    def blank(item: tuple[str, bytes]) -> None:
        path, content = item
        store.write(path, blanked(content, texts))

    store.remove_files(found.remove)
    concurrently(blank, store.read_present(found.blank).items())
    return found.records()


def written_by(alive: Collection[str]) -> Callable[[str], bool]:
    """Whether one of the living runs may write a file of the store, by its path; for `abort_uploads`.

    Files of a run lie in a folder with its id. An event log names an application of Spark and no run, so any
    living run may write it.
    """

    def writes(path: str) -> bool:
        runs = {part.removeprefix("version=") for part in path.split("/")}
        return not runs.isdisjoint(alive) or (bool(alive) and path.startswith(f"{EVENT_LOGS}/"))

    return writes


def _find(store: Root, texts: Texts, alive: Collection[str]) -> _Found:
    found = _Found([], [], [])
    young = datetime.now(UTC) - LIFETIME
    steps, logs, records = list[pafs.FileInfo](), list[pafs.FileInfo](), list[str]()
    for info in _files(store):
        folder = info.path.partition("/")[0]
        if folder == STEPS:
            steps.append(info)
        elif folder == REPORT:
            found.remove.append(info.path)
        elif folder != EVENT_LOGS:
            records.append(info.path)
        elif info.path.endswith(UNFINISHED) and info.mtime > young:
            found.left.append(info.path)
        elif info.size:
            logs.append(info)
    # A step that waits for its turn on the cluster has no lease yet.
    used = {*alive, *(_run(info.path) for info in steps if info.mtime > young)}
    for info in steps:
        (found.left if _run(info.path) in used else found.remove).append(info.path)
    named = concurrently(lambda info: _log_names(store, info.path, texts), logs, _LOGS)
    found.remove.extend(info.path for info, names in zip(logs, named, strict=True) if names)
    named = concurrently(lambda path: _record_names(store, path, texts), records)
    found.blank.extend(path for path, names in zip(records, named, strict=True) if names)
    return found


def _run(path: str) -> str:
    """The run of a file of a step."""
    return path.split("/")[1]


def _files(store: Root) -> Iterator[pafs.FileInfo]:
    """Every file of the store that may be a record."""
    for top in store.fs.get_file_info(pafs.FileSelector("", allow_not_found=True)):
        if top.type == pafs.FileType.File:
            yield top
        elif top.path not in _NO_RECORDS:
            yield from (info for info in store.list(top.path) if not info.path.startswith(f"{CODE}/"))


def _record_names(store: Root, path: str, texts: Texts) -> bool:
    return any(found_in(content, texts) for content in store.read_present([path]).values())


def _log_names(store: Root, path: str, texts: Texts) -> bool:
    """Whether an event log has one of the texts, or cannot be read.

    The name of a compressed log ends with the compression, and no other part of it has a dot:
    https://github.com/apache/spark/blob/v3.5.7/core/src/main/scala/org/apache/spark/deploy/history/EventLogFileWriters.scala
    """
    ending = path.rpartition("/")[2].removesuffix(UNFINISHED).partition(".")[2]
    if ending not in _COMPRESSIONS:
        return True
    contents = store.read_present([path]).values()
    return any(found_decompressed(content, _COMPRESSIONS[ending], texts) for content in contents)


def found_decompressed(content: bytes, compression: str | None, texts: Texts) -> bool:
    """Whether one of the texts is in compressed bytes, or these cannot be read to their end.

    Nobody can tell what a damaged file names, so it counts as one that names a photo.
    """
    stream = pa.input_stream(pa.BufferReader(content), compression=compression)
    tail = b""
    try:
        while chunk := stream.read(_CHUNK):
            tail += chunk
            if found_in(tail, texts):
                return True
            tail = tail[-_OVERLAP:]
    except OSError:
        return True
    return False
