"""Removes files that nothing refers to any more.

delta-rs's `vacuum` knows no run that is still writing, so it is not used.
"""

import json
from datetime import datetime, timedelta
from urllib.parse import unquote

from spark_jobs.errors import FruitsError
from spark_jobs.store.leases import LIFETIME, Lease, live_runs
from spark_jobs.store.pointers import class_pointers, folder_of, parse_pointer, pointer_path
from spark_jobs.store.root import Root, concurrently
from spark_jobs.store.tables import LOG, current_files

_VERSION_DIGITS = 20  # in the names of the entries of a log


def sweep_table(store: Root, table: str, keep: timedelta, lease: Lease) -> int:
    """Removes the files of a Delta table that no version of the last `keep` refers to; returns their number.

    Files of runs whose lease is alive are kept. The order of the steps matters: a file that is listed before
    the leases belongs to a run with a lease, or is in the log, which is read last, or is of a run that died.
    """
    names = [info.path.removeprefix(f"{table}/") for info in store.list(table)]
    if any(name.startswith("current/") for name in names):
        return 0  # a store of release 0.1, which `convert_store` has still to convert
    now = lease.now()
    alive = live_runs(store, now)
    files = current_files(store, table)
    if files is None:
        return 0
    # A run needs the entries of the version that it has opened until it has committed.
    _expire_log(store, table, now - max(keep, LIFETIME))
    needed = {file.path for file in files} | _replaced_after(store, table, now - keep)
    unneeded = [
        name for name in names if not name.startswith(LOG) and name not in needed and _run(name) not in alive
    ]
    store.remove_files(f"{table}/{name}" for name in unneeded)
    return len(unneeded)


def _expire_log(store: Root, table: str, cutoff: datetime) -> None:
    """Removes the entries of a log before the newest checkpoint that is older than a moment.

    So every version since that moment can be read. delta-rs removes entries by a duration that stands in the
    table, and by the clock of this machine, not of the store.
    """
    log = [(info.path.rpartition("/")[2], info) for info in store.list(f"{table}/{LOG}")]
    checkpoints = [name for name, info in log if ".checkpoint" in name and info.mtime < cutoff]
    newest = max(checkpoints, default="")[:_VERSION_DIGITS]
    store.remove_files(
        info.path for name, info in log if name[0].isdigit() and name[:_VERSION_DIGITS] < newest
    )


def _run(name: str) -> str:
    """The run that wrote a file: the first folder of its name, which may begin with `version=`."""
    return name.partition("/")[0].removeprefix("version=")


def _replaced_after(store: Root, table: str, cutoff: datetime) -> set[str]:
    """The files of a table that commits after a moment, by the clock of the store, have replaced."""
    entries = [
        info.path
        for info in store.list(f"{table}/{LOG}")
        if info.path.endswith(".json") and info.mtime >= cutoff
    ]
    present = store.read_present(entries)  # the sweep of a run that keeps less may have removed the others
    actions = (json.loads(line) for content in present.values() for line in content.splitlines())
    return {unquote(action["remove"]["path"]) for action in actions if "remove" in action}


def sweep_versions(store: Root, output: str, keep: timedelta, lease: Lease) -> int:
    """Removes the directories of an output with pointers that no pointer names; returns their number.

    A directory is removed once both its newest file and the pointer that replaced it are older than `keep`,
    and its run has no lease. A pointer that cannot be read may name any directory: then nothing is removed.
    """
    folder = folder_of(output)
    newest: dict[str, datetime] = {}
    pointers: dict[str, datetime] = {}
    for info in store.list(folder):
        parts = info.path.split("/")
        if parts[1].startswith("version=") and len(parts) > 4:
            directory = "/".join(parts[:4])
            newest[directory] = max(newest.get(directory, info.mtime), info.mtime)
        elif parts[1] in ("current", "current.json"):
            pointers[info.path] = info.mtime
    now = lease.now()
    alive = live_runs(store, now)

    def replaced(directory: str) -> datetime:
        key = directory.rpartition("/")[2]
        moment = pointers.get(f"{folder}/current/{key}.json") or pointers.get(f"{folder}/current.json")
        return moment or newest[directory]

    old = [
        path
        for path in newest
        if _run(path.partition("/")[2]) not in alive and max(newest[path], replaced(path)) <= now - keep
    ]
    if not old:
        return 0
    try:
        named = {parse_pointer(path, content).directory for path, content in _pointers(store, output).items()}
    except FruitsError:
        return 0
    unreferenced = [path for path in old if path not in named]
    concurrently(store.remove, unreferenced)
    return len(unreferenced)


def _pointers(store: Root, output: str) -> dict[str, bytes]:
    """The content of every pointer of an output, by path."""
    return store.read_present([*class_pointers(store, output), pointer_path(output, None)])
