"""Brings classes back as the Delta tables had them at an earlier time, or after the commits of a run.

The logs keep their entries, and the store the replaced files, for FRUITS_KEEP_HOURS.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

import pyarrow.fs as pafs

from spark_jobs.errors import FruitsError
from spark_jobs.store.classes import TABLES
from spark_jobs.store.erasures import erasures_version
from spark_jobs.store.leases import held_lease
from spark_jobs.store.root import Root, delta_options
from spark_jobs.store.schemas import RAW_IMAGES
from spark_jobs.store.tables import (
    ENDED,
    Change,
    TableFile,
    class_version,
    commit,
    open_table,
    part_of,
    table_files,
)
from spark_jobs.store.versions import Part, Version

# A message names this many runs or classes.
_NAMED = 10


class _Commit(NamedTuple):
    """A commit to a table: the version it made, its time by the clock of the writer, and its run."""

    version: int
    time: datetime
    run: str


# The files of each class, by label.
_Files = Mapping[str, Sequence[TableFile]]


def restore_classes(
    store: Root, labels: Collection[str], run: str, moment: datetime | str
) -> dict[str, dict[str, Version]]:
    """Replaces classes by what they were at a time, or after the commits of a run (the start of its id).

    `run` names this restoration in the logs. Each table gets one commit: the quarantine, then the images,
    then the features. A class without features at that moment has none afterwards. Returns the restored
    versions by table and label.

    Raises `FruitsError`, and changes nothing, where the moment is unknown or the logs do not reach back to
    it, a class was not in `raw_images`, or a file has been removed.
    """
    erasures = erasures_version(store)
    commits = {table: _commits(store, table) for table in TABLES}
    wanted = _versions_at(commits, moment) if isinstance(moment, datetime) else _versions_of(commits, moment)
    files = {table: _files_at(store, table, version, labels) for table, version in wanted.items()}
    absent = [label for label in labels if label not in files[RAW_IMAGES]]
    if absent:
        raise FruitsError(
            f"The table {RAW_IMAGES} had no class {absent[0]!r} {_said(moment)}. {_last_runs(commits)}"
        )
    restored = {table: _whole(store, table, files[table], moment) for table in TABLES}
    with held_lease(store, run, erasures) as lease:
        for table in TABLES:
            versions = restored[table]
            parts = {label: versions[label].parts if label in versions else [] for label in labels}
            commit(store, table, lease, partial(_change, table, parts))
    for table in TABLES:
        # Another run may have removed a file while the commit that brings it back was made.
        _refuse_missing(store, restored[table], moment)
    return restored


def _commits(store: Root, table: str) -> list[_Commit]:
    """The commits to a table that its log still has, the newest first."""
    opened = open_table(store, table)
    found = []
    for entry in opened.history() if opened else []:
        time = datetime.fromtimestamp(entry["timestamp"] / 1000, UTC)
        found.append(_Commit(entry["version"], time, entry.get("run", "")))
        if entry.get("operation") == ENDED:
            break  # a checkpoint holds this version, and nothing the versions before it
    return sorted(found, reverse=True)


def _versions_at(commits: Mapping[str, Sequence[_Commit]], time: datetime) -> dict[str, int | None]:
    """The version that each table had at a time, or None where the table did not exist.

    Raises `FruitsError` where a log does not reach back to that time.
    """
    versions: dict[str, int | None] = {}
    for table, made in commits.items():
        versions[table] = next((entry.version for entry in made if entry.time <= time), None)
        if versions[table] is None and made and made[-1].version > 0:
            first = max(entries[-1].time for entries in commits.values() if entries and entries[-1].version)
            raise FruitsError(
                f"The log of the table {table} does not reach back to {_shown(time)}: a run removes entries "
                "after FRUITS_KEEP_HOURS, and `fruits erase` at once. The earliest time that can be restored "
                f"is {_shown(first)}."
            )
    return versions


def _versions_of(commits: Mapping[str, Sequence[_Commit]], run: str) -> dict[str, int | None]:
    """The version of each table after the last commit of a run to it.

    A table without a commit of the run has the version of the time when the run made its last commit.
    Raises `FruitsError` for a run that the logs do not name.
    """
    ids = {entry.run for made in commits.values() for entry in made if run and entry.run.startswith(run)}
    if len(ids) != 1:
        fault = "Several runs begin with" if ids else "The logs of the tables name no run"
        raise FruitsError(f"{fault} {run!r}. {_last_runs(commits)}")
    own = {table: entry for table, made in commits.items() for entry in reversed(made) if entry.run in ids}
    others = {table: made for table, made in commits.items() if table not in own}
    last = max(entry.time for entry in own.values())
    return {**_versions_at(others, last), **{table: entry.version for table, entry in own.items()}}


def _last_runs(commits: Mapping[str, Sequence[_Commit]]) -> str:
    """A sentence with the last runs that committed, the newest first."""
    times: dict[str, datetime] = {}
    for entry in sorted((entry for made in commits.values() for entry in made), key=lambda entry: entry.time):
        if entry.run:
            times.pop(entry.run, None)
            times[entry.run] = entry.time
    newest = [f"{run} at {_shown(time)}" for run, time in reversed(times.items())]
    return f"The last runs: {'; '.join(newest[:_NAMED])}" if newest else "The tables have no commits yet."


def _files_at(store: Root, table: str, version: int | None, labels: Collection[str]) -> _Files:
    """The files of classes in a version of a table."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    files: dict[str, list[TableFile]] = defaultdict(list)
    if version is None:
        return files
    try:
        opened = DeltaTable(store.uri_of(table), version=version, storage_options=delta_options(store.uri))
    except DeltaError as error:
        raise FruitsError(
            f"Version {version} of the table {store.uri_of(table)} cannot be read: {error}. Give a later "
            "time or run."
        ) from error
    for file in table_files(opened):
        if file.label in labels:
            files[file.label].append(file)
    return files


def _whole(store: Root, table: str, files: _Files, moment: datetime | str) -> dict[str, Version]:
    """The versions that files make up. Raises `FruitsError` where a file is missing or damaged."""
    versions = {}
    for label, listed in files.items():
        try:
            parts = [part_of(store, table, file) for file in listed]
        except FruitsError as error:
            raise FruitsError(_refusal(label, moment, str(error))) from error
        versions[label] = class_version(table, label, parts)
    # A process reads a footer once, so it may know a file that has been removed since.
    _refuse_missing(store, versions, moment)
    return versions


def _refuse_missing(store: Root, versions: Mapping[str, Version], moment: datetime | str) -> None:
    for label, version in versions.items():
        for info in store.fs.get_file_info([part.path for part in version.parts]):
            if info.type != pafs.FileType.File:
                raise FruitsError(_refusal(label, moment, f"{store.uri_of(info.path)} is gone"))


def _refusal(label: str, moment: datetime | str, reason: str) -> str:
    return (
        f"The class {label!r} cannot be restored as it was {_said(moment)}: {reason}. Runs remove files "
        "FRUITS_KEEP_HOURS after they were replaced. Give a later time or run"
    )


def _change(table: str, parts: Mapping[str, Sequence[Part]], present: Sequence[TableFile]) -> Change:
    """The change from the present files to the parts of each class. Files that stay are left alone."""
    wanted = {part.path for files in parts.values() for part in files}
    there = {f"{table}/{file.path}" for file in present}
    return Change(
        {label: [part for part in files if part.path not in there] for label, files in parts.items()},
        [file for file in present if file.label in parts and f"{table}/{file.path}" not in wanted],
    )


def _said(moment: datetime | str) -> str:
    return f"at {_shown(moment)}" if isinstance(moment, datetime) else f"after the run {moment}"


def _shown(time: datetime) -> str:
    """A time in the zone of this machine, as `fruits restore --to` reads it."""
    return time.astimezone().isoformat(timespec="milliseconds")
