"""The Delta tables of the store, with one partition for each class.

Executors write Parquet files, and the driver of a job commits them: all classes of a run in one commit.
A commit replaces exactly the files of its classes. Readers see all of it or nothing of it.

deltalake (delta-rs) keeps the log. Its own writers are not used: they have no small row groups and no page
checksums, and write `label=...` folders, which pandas and Polars read as a column.

deltalake takes 0.2 s to import, so the functions import it. Spark's Python workers never need it.
"""

import json
import os
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

import pyarrow as pa

from spark_jobs.errors import FruitsError
from spark_jobs.store.leases import Lease
from spark_jobs.store.parquet import read_part
from spark_jobs.store.root import Result, Root, concurrently, delta_options
from spark_jobs.store.s3_errors import NETWORK, fault_of
from spark_jobs.store.schemas import COLUMNS_VERSION, MOBILENET_FEATURES, RAW_IMAGES, SCHEMAS
from spark_jobs.store.versions import Part, Version, combined_version, is_name, photos_version

if TYPE_CHECKING:
    from deltalake import DeltaTable

LOG = "_delta_log"

# The property of a table that holds the version of its columns.
_COLUMNS = "fruits.columns"
# A checkpoint holds the state of a table, so that a reader opens few entries of the log.
CHECKPOINT_INTERVAL = 10
# A job compares a class again where another run has changed it meanwhile, up to this number of times.
_MOST_ATTEMPTS = 20
_CHANGED_MEANWHILE = "other runs change the class all the time; run it again when they have ended"
# Each attempt fails only where another commit succeeded, so that many are never needed.
_COMMIT_ATTEMPTS = 200

# A commit whose connection to S3 breaks is made this many times in all, with pauses of 7.5 seconds in all.
_CONNECTION_ATTEMPTS = 5

# The table from whose photos another table is made.
_SOURCES = {MOBILENET_FEATURES: RAW_IMAGES}

DAMAGED = "Materialize {table} for it again"

# The operation that an entry of the log names whose content `end_time_travel` has removed.
ENDED = "END TIME TRAVEL"


class TableFile(NamedTuple):
    """A file of a table as its log names it: path relative to the table, class, rows and size in bytes.

    The log of another writer may give a file no class, or no number of rows: they are "" and 0.
    """

    path: str
    label: str
    rows: int
    bytes: int


def current(store: Root, table: str, labels: Iterable[str] | None = None) -> dict[str, Version]:
    """The current version of every class of a table, or of each given class that has a version, by label.

    The result is sorted by label, the files of a class by their first photo. It reads the log and the
    footers of the files. A class of which a file is missing or damaged has its `damage` set.

    Raises `FruitsError` if a newer release wrote the table, or if its log cannot be read.
    """
    files = files_by_class(store, table, labels)
    every = (file for label in sorted(files) for file in files[label])
    said = iter(concurrently(lambda file: _said(store, table, file), every))
    return {label: version_of(table, label, list(islice(said, len(files[label])))) for label in sorted(files)}


def files_by_class(
    store: Root, table: str, labels: Iterable[str] | None = None
) -> dict[str, list[TableFile]]:
    """The current files of each class, or of each given class that has any, by label. It reads the log."""
    wanted = None if labels is None else set(labels)
    files: dict[str, list[TableFile]] = defaultdict(list)
    for file in current_files(store, table) or ():
        if wanted is None or file.label in wanted:
            files[file.label].append(file)
    return dict(files)


def current_files(store: Root, table: str) -> list[TableFile] | None:
    """The files of a table at its last commit; None before its first commit. It reads the log alone."""
    with _latest(store, table) as opened:
        return table_files(opened) if opened else None


def rows_by_class(store: Root, table: str) -> dict[str, int]:
    """The number of rows of each class of a table, by label, sorted. It reads the log alone."""
    files = files_by_class(store, table)
    return {label: sum(file.rows for file in files[label]) for label in sorted(files)}


def _said(store: Root, table: str, file: TableFile) -> tuple[TableFile, Part | None, str]:
    """A file with what it says of itself, or with its damage."""
    try:
        return file, part_of(store, table, file), ""
    except FruitsError as error:
        return file, None, str(error)


def version_of(table: str, label: str, files: Sequence[tuple[TableFile, Part | None, str]]) -> Version:
    """The version of a class from its files, each with what it says of itself, or with its damage."""
    parts = [part for _, part, _ in files if part is not None]
    if len(parts) == len(files) and is_name(label):
        return class_version(table, label, parts)
    damage = f"the log of {table} names the class {label!r}, which is no name"
    if is_name(label):
        damage = next(damage for _, part, damage in files if part is None)
    known = [Part(f"{table}/{file.path}", [file.rows], file.bytes) for file, _, _ in files]
    return Version(
        label=label, data_version="", parts=known, damage=f"{damage}. {DAMAGED.format(table=table)}"
    )


def class_version(table: str, label: str, parts: Iterable[Part]) -> Version:
    """The version of a class that its files in a table make up, in the order of their first photos."""
    parts = sorted(parts, key=lambda part: part.first)
    photos = photos_version(parts)
    made_with: dict[str, list[str]] = {}
    for part in parts:
        for name, version in part.made_with.items():
            versions = made_with.setdefault(name, [])
            versions += [] if version in versions else [version]
    made = [version for versions in made_with.values() for version in versions]
    counts: dict[str, int] = defaultdict(int)
    for part in parts:
        for name, count in part.counts.items():
            counts[name] += count
    source = {_SOURCES[table]: photos} if table in _SOURCES else {}
    return Version(
        label=label,
        data_version=combined_version(photos, *made) if made else photos,
        parts=parts,
        inputs={**source, **{name: " and ".join(versions) for name, versions in made_with.items()}},
        details=dict(counts),
    )


def part_of(store: Root, table: str, file: TableFile) -> Part:
    """What a file of a table says of itself. Raises `FruitsError` where it is missing, damaged or outside."""
    check_inside(store, table, f"{table}/{file.path}")
    return read_part(store.uri, f"{table}/{file.path}", file.bytes)


def check_inside(store: Root, table: str, path: str) -> None:
    """Raises `FruitsError` where the log names a file, by its path in the store, outside of the table."""
    if not all(map(is_name, path.split("/"))):
        inside = path.removeprefix(f"{table}/")
        raise FruitsError(f"the log of {store.uri_of(table)} names {inside!r}, which is not in it")


def open_table(store: Root, table: str) -> "DeltaTable | None":
    """The Delta table at its last commit, or None before its first commit.

    Raises `FruitsError` if a newer release wrote the table, or if its log cannot be read.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError

    _set_torn_entry_aside(store, table)
    try:
        opened = DeltaTable(store.uri_of(table), storage_options=delta_options(store.uri))
    except TableNotFoundError:
        return None
    except DeltaError as error:
        reason = str(error).partition("\n")[0]  # without deltalake's stack trace
        raise FruitsError(
            f"The log of the table {store.uri_of(table)} cannot be read: {reason}. Restore {LOG} from a "
            "copy, or move the folder of the table away and run everything again."
        ) from error
    _check_columns(store, table, opened)
    return opened


def _check_columns(store: Root, table: str, opened: "DeltaTable") -> None:
    columns = _columns_version(opened)
    if not 0 < columns <= COLUMNS_VERSION:
        raise FruitsError(
            f"The table {store.uri_of(table)} has columns of version {columns or 'unknown'}. This release "
            f"knows versions up to {COLUMNS_VERSION}: a newer release wrote it. Install that release."
        )


class _Known(NamedTuple):
    """A table that this process has opened, and the entry of the log that was then the last."""

    opened: "DeltaTable"
    entry: str
    written: tuple[datetime, int]  # its time and its size


_known: dict[tuple[str, ...], _Known] = {}


@cache
def _lock(*_: str) -> threading.Lock:
    return threading.Lock()


@contextmanager
def _latest(store: Root, table: str) -> Iterator["DeltaTable | None"]:
    """A table as `open_table` returns it. No other thread has it meanwhile.

    A process opens a table once, and then reads new commits alone: opening it takes 15 requests one after
    another, from a checkpoint on S3. A table that was removed and created anew is opened again. So is a table
    whose earlier versions were ended, and a table that a backup has brought back to an earlier version.
    """
    from deltalake.exceptions import DeltaError

    key = (store.uri, table, *delta_options(store.uri).values())
    with _lock(*key):
        known = _known.pop(key, None)
        if known and _written(store, known.entry) == known.written:
            _set_torn_entry_aside(store, table)
            with suppress(DeltaError):
                known.opened.update_incremental()
                _check_columns(store, table, known.opened)
                entry = log_entry(table, known.opened.version())
                _known[key] = known if entry == known.entry else _known_now(store, known.opened, entry)
        if key not in _known and (opened := open_table(store, table)):
            _known[key] = _known_now(store, opened, log_entry(table, opened.version()))
        yield _known[key].opened if key in _known else None


def _known_now(store: Root, opened: "DeltaTable", entry: str) -> _Known:
    return _Known(opened, entry, _written(store, entry))


def _written(store: Root, path: str) -> tuple[datetime, int]:
    info = store.fs.get_file_info(path)
    return info.mtime, info.size


def upgrade_table(store: Root, table: str) -> None:
    """Gives a table of an earlier release the columns of this release. Rows have no values in them."""
    from deltalake import Schema
    from deltalake.exceptions import DeltaError

    while True:
        with _latest(store, table) as opened:
            if opened is None or _columns_version(opened) == COLUMNS_VERSION:
                return
            known = {field.name for field in opened.schema().fields}
            new = [field for field in Schema.from_arrow(SCHEMAS[table]).fields if field.name not in known]
            try:
                if new:
                    _repeated(lambda: opened.alter.add_columns(new))  # noqa: B023
                    _sync_entry(store, table, opened.version())
                _set_property(opened, _COLUMNS, str(COLUMNS_VERSION))
                _sync_entry(store, table, opened.version())
            except DeltaError:
                again = open_table(store, table)
                if again is None or again.version() == opened.version():
                    raise  # no other run has changed the table meanwhile


def table_property(store: Root, table: str, name: str) -> str:
    """The value of a property of a table; empty where it has none, and before its first commit."""
    with _latest(store, table) as opened:
        return str(opened.metadata().configuration.get(name, "")) if opened else ""


def set_table_property(store: Root, table: str, name: str, value: str) -> None:
    """Sets a property of a table.

    A table without a commit stays as it is, and so does a table that another run changes at the same time.
    """
    from deltalake.exceptions import DeltaError

    with _latest(store, table) as opened, suppress(DeltaError):
        if opened:
            _set_property(opened, name, value)
            _sync_entry(store, table, opened.version())


def _set_property(opened: "DeltaTable", name: str, value: str) -> None:
    _repeated(lambda: opened.alter.set_table_properties({name: value}, raise_if_not_exists=False))


def _repeated(commit: Callable[[], Result]) -> Result:
    """Makes a commit again where the connection to S3 breaks. deltalake does so only after an answer of S3.

    S3 may have made the first commit. It makes no second one: a commit creates an entry of the log, whose
    number is taken. So the second attempt meets the first, as it meets a commit of another run.
    """
    for attempt in range(1, _CONNECTION_ATTEMPTS):
        try:
            return commit()
        except OSError as error:
            fault = fault_of(str(error))
            if fault is None or fault.kind != NETWORK:
                raise
        time.sleep(2 ** (attempt - 2))
    return commit()


def _columns_version(opened: "DeltaTable") -> int:
    """The version of the columns of a table; 0 where the table does not say it."""
    said = opened.metadata().configuration.get(_COLUMNS, "")
    return int(said) if said.isdecimal() else 0


def _set_torn_entry_aside(store: Root, table: str) -> None:
    """Renames the last entry of the log to `<entry>.torn` if a power failure cut it.

    Only a run that had not finished can leave it, since each run syncs its entry; no entry follows it. Files
    on S3 are whole. The last checkpoint may be cut too; without `_last_checkpoint`, readers use the entries.
    """
    log = Path(store.uri) / table / LOG
    if not store.is_local or not log.is_dir():
        return
    names = [name for name in os.listdir(log) if name[:1].isdigit()]
    entry = max((name for name in names if name[20:] == ".json"), default=None)
    checkpoint = max((name for name in names if name[20:] == ".checkpoint.parquet"), default=None)
    with suppress(FileNotFoundError):  # another process renames it at the same time
        if entry and not _is_whole((log / entry).read_bytes()):
            (log / entry).rename(log / f"{entry}.torn")
    with suppress(FileNotFoundError):  # a sweep removes it, or another process renames it
        if checkpoint and not store.ends_with(f"{table}/{LOG}/{checkpoint}", b"PAR1"):
            (log / "_last_checkpoint").unlink(missing_ok=True)
            (log / checkpoint).rename(log / f"{checkpoint}.torn")


def _is_whole(entry: bytes) -> bool:
    """Whether an entry of the log has all its actions. Other writers do not say how many there are."""
    try:
        actions = [json.loads(line) for line in entry.splitlines()]
    except ValueError:
        return False
    said = [action["commitInfo"].get("actions") for action in actions if "commitInfo" in action]
    files = sum("add" in action or "remove" in action for action in actions)
    return bool(actions) and said[:1] in ([], [None], [files])


def table_files(opened: "DeltaTable") -> list[TableFile]:
    """The current files of a table."""
    # `pa.table` would import pandas.
    added = pa.RecordBatchReader.from_stream(opened.get_add_actions(flatten=True)).read_all()
    if not added.num_rows:
        return []
    columns = ("path", "partition.label", "num_records", "size_bytes")
    return [
        # A path is percent-encoded in the log; deltalake encodes what it writes, and decodes nothing here.
        TableFile(unquote(path), label or "", rows or 0, size)
        for path, label, rows, size in zip(*(added.column(name).to_pylist() for name in columns), strict=True)
    ]


class Change(NamedTuple):
    """The files that a commit adds to the classes, by label, and the files that it removes."""

    added: Mapping[str, Sequence[Part]]
    removed: Sequence[TableFile]


class ClassChange(NamedTuple):
    """The files that a commit adds to a class, and the paths, relative to the table, of those it removes."""

    added: Sequence[Part]
    removed: Collection[str]


def change_classes(
    store: Root,
    table: str,
    changes: Mapping[str, ClassChange],
    lease: Lease,
    seen: Mapping[str, Collection[str]],
) -> set[str]:
    """Changes files of classes, in one commit.

    `seen` has the paths, relative to the table, of the files of each class when its change was worked out.
    Returns the classes that have other files now: another run has changed them meanwhile, and their changes
    are not committed. Raises the errors of `commit`.
    """
    met: set[str] = set()

    def plan(files: Sequence[TableFile]) -> Change:
        present: dict[str, dict[str, TableFile]] = defaultdict(dict)
        for file in files:
            present[file.label][file.path] = file
        met.clear()
        added, removed = {}, []
        for label, change in changes.items():
            own = present[label]
            new = {part.path.removeprefix(f"{table}/") for part in change.added}
            if own.keys() == set(seen.get(label, ())):
                added[label] = change.added
                removed += [own[path] for path in change.removed]
            elif not (new and new <= own.keys() and own.keys().isdisjoint(change.removed)):
                met.add(label)
            # Else the class is changed already: the answer of S3 to this very commit was lost.
        return Change(added, removed)

    commit(store, table, lease, plan)
    return met


def compared_again(classes: Iterable[str], attempt: Callable[[list[str]], set[str]]) -> dict[str, str]:
    """Calls `attempt` with the classes, and again with those that it returns: other runs have changed them.

    Returns the reason of each class that other runs have changed in all attempts.
    """
    pending = list(classes)
    for _ in range(_MOST_ATTEMPTS):
        pending = sorted(attempt(pending))
        if not pending:
            break
    return dict.fromkeys(pending, _CHANGED_MEANWHILE)


def replace_classes(store: Root, table: str, parts: Mapping[str, Sequence[Part]], lease: Lease) -> None:
    """Replaces the files of each given class by its parts, in one commit; without parts, the class goes.

    Raises the errors of `commit`.
    """
    commit(
        store,
        table,
        lease,
        lambda files: Change(parts, [file for file in files if file.label in parts]),
    )


def commit(
    store: Root,
    table: str,
    lease: Lease,
    plan: Callable[[Sequence[TableFile]], Change],
    *,
    data_change: bool = True,
) -> None:
    """Commits the change that `plan` returns for the current files of a table, which is created if need be.

    A commit that meets another commit is planned and made again on top of it. `data_change` is false where
    the rows of the table stay the same.

    Raises `FruitsError` where the lease of the run has ended, photos were erased since the run began, or
    commits of other runs never let it through.
    """
    for attempt in range(_COMMIT_ATTEMPTS):
        with _latest(store, table) as latest:
            opened = latest or _create(store, table)
            files = table_files(opened)
            change = plan(files)
            # Where an answer of S3 is lost, the commit is made again, and meets itself.
            added = {part.path.removeprefix(f"{table}/") for parts in change.added.values() for part in parts}
            removed = {file.path for file in change.removed} - added
            is_made = added <= {file.path for file in files} and not removed
            if not is_made:
                lease.check()
                is_made = _commit_once(store, table, opened, change, lease.run, data_change)
            if is_made:
                lease.check_erasures()
                return
        time.sleep(random.uniform(0, min(1, 0.02 * (attempt + 1))))
    raise FruitsError(
        f"The table {store.uri_of(table)} cannot be changed: other runs commit to it all the time.",
        retry_helps=True,
    )


def _commit_once(
    store: Root, table: str, opened: "DeltaTable", change: Change, run: str, data_change: bool
) -> bool:
    """Whether the change is committed: no, if another commit has been made since the table was opened.

    On disk, the new files are synced first, and the entry of the log at last. The entry before it is synced
    too: a run that was killed may have left it unsynced.
    """
    from deltalake import CommitProperties, PostCommitHookProperties
    from deltalake.exceptions import CommitFailedError
    from deltalake.transaction import AddAction, RemoveAction

    now, version = int(time.time() * 1000), opened.version()
    actions: list[AddAction | RemoveAction] = [
        AddAction(
            part.path.removeprefix(f"{table}/"),
            part.bytes,
            {"label": label},
            now,
            data_change,
            json.dumps({"numRecords": part.rows}),
        )
        for label, parts in change.added.items()
        for part in parts
    ]
    actions += [
        RemoveAction(file.path, data_change, now, file.bytes, {"label": file.label})
        for file in change.removed
    ]
    # `actions` shows whether the entry is whole. `run` names the commit for people and for restoring.
    told = CommitProperties({"run": run, "actions": len(actions)}, max_commit_retries=0)
    # `_checkpoint` syncs the checkpoints, and `sweep_table` removes old entries of the log.
    no_hooks = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
    store.sync_folders(part.path for parts in change.added.values() for part in parts)
    store.sync(log_entry(table, version))
    try:
        _repeated(
            lambda: opened.create_write_transaction(
                actions,
                "append",
                opened.schema(),
                partition_by=["label"],
                commit_properties=told,
                post_commithook_properties=no_hooks,
            )
        )
    except CommitFailedError:
        return False
    _sync_entry(store, table, version + 1)
    if (version + 1) % CHECKPOINT_INTERVAL == 0:
        _checkpoint(store, table)
    return True


def log_entry(table: str, version: int) -> str:
    """The path, relative to the store, of the entry of a version in the log of a table."""
    return f"{table}/{LOG}/{version:020}.json"


def _sync_entry(store: Root, table: str, version: int) -> None:
    """Makes a commit outlast a power failure: delta-rs does not sync its log on disk."""
    store.sync(log_entry(table, version))
    store.sync_folders([log_entry(table, version)])


def _create(store: Root, table: str) -> "DeltaTable":
    """The new, empty table; or the table that another run has just created."""
    from deltalake import DeltaTable, Schema

    created = _repeated(
        lambda: DeltaTable.create(
            store.uri_of(table),
            Schema.from_arrow(SCHEMAS[table]),
            mode="ignore",
            partition_by=["label"],
            name=table,
            configuration={_COLUMNS: str(COLUMNS_VERSION)},
            storage_options=delta_options(store.uri),
            raise_if_key_not_exists=False,
        )
    )
    _sync_entry(store, table, 0)
    return created


def _checkpoint(store: Root, table: str) -> int | None:
    """Writes and syncs a checkpoint of the last version, from which readers start; returns that version."""
    opened = open_table(store, table)
    if opened is None:
        return None
    opened.create_checkpoint()
    checkpoint = f"{table}/{LOG}/{opened.version():020}.checkpoint.parquet"
    store.sync(checkpoint)
    store.sync(f"{table}/{LOG}/_last_checkpoint")
    store.sync_folders([checkpoint])
    return opened.version()


def end_time_travel(store: Root, table: str) -> None:
    """Removes the files' names from the log of a table up to its last version, which a checkpoint then holds.

    No earlier version can be read any more. The entries stay, without content: a run that has opened an
    earlier version would otherwise make an entry of the next number, which no reader looks at.
    """
    last = _checkpoint(store, table)
    if last is None:
        return
    log = [info.path.rpartition("/")[2] for info in store.list(f"{table}/{LOG}")]
    ended = json.dumps(
        {"commitInfo": {"timestamp": int(time.time() * 1000), "operation": ENDED, "actions": 0}}
    )
    store.write_many(
        (f"{table}/{LOG}/{name}", ended.encode())
        for name in log
        if name.endswith(".json") and name[:20].isdigit() and int(name[:20]) <= last
    )
    store.remove_files(
        f"{table}/{LOG}/{name}"
        for name in log
        if (".checkpoint" in name and name[:20].isdigit() and int(name[:20]) < last) or name.endswith(".torn")
    )
