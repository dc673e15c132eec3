"""The owner of a Dagster run, and whether a run or all runs of an owner are over.

An owner is what shares one EMR cluster: a backfill, a `fruits run`, or a run with its retries.
"""

import os
import socket

import dagster as dg

# A `fruits run` gives its id to its Dagster runs by this tag, and a cluster has the id of its owner.
OWNER_TAG = "fruits/owner"
BACKFILL_TAG = "dagster/backfill"

_HOST, _PROCESS = "fruits/host", "fruits/process"

# Statuses of a backfill that can still start runs, or whose runs still end.
_ACTIVE_BACKFILL = ("REQUESTED", "CANCELING", "FAILING")


def process_tags() -> dict[str, str]:
    """Tags that name this process, for a run inside it."""
    return {_HOST: socket.gethostname(), _PROCESS: str(os.getpid())}


def owner_of(run: dg.DagsterRun) -> str:
    """The owner of a run: its backfill, its `fruits run`, else the first of its retries."""
    return run.tags.get(BACKFILL_TAG) or run.tags.get(OWNER_TAG) or run.root_run_id or run.run_id


def ends_with(run: dg.DagsterRun) -> bool:
    """Whether the cluster of a run ends with the run, because its owner starts no other run."""
    return BACKFILL_TAG not in run.tags and (OWNER_TAG not in run.tags or run.parent_run_id is not None)


def is_over(run: dg.DagsterRun) -> bool:
    """Whether a run has ended; for a run inside a `fruits run`, whether that process has ended.

    A process on another machine counts as alive, because its state is unknown here. A retry by Dagster has
    the tags of the first run but runs in another process, so its own status counts.
    """
    if _PROCESS not in run.tags or run.parent_run_id is not None:
        return run.is_finished
    if run.tags[_HOST] != socket.gethostname():
        return False
    try:
        os.kill(int(run.tags[_PROCESS]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # a process of another user, which is alive
        pass
    return False


def owner_is_over(instance: dg.DagsterInstance, owner: str) -> bool:
    """Whether all runs of an owner are over; False for an owner that this Dagster instance does not know."""
    backfill = instance.get_backfill(owner)
    if backfill is not None:
        runs = instance.get_runs(dg.RunsFilter(tags={BACKFILL_TAG: owner}))
        return backfill.status.value not in _ACTIVE_BACKFILL and all(run.is_finished for run in runs)
    first = instance.get_run_by_id(owner)
    runs = [
        *([first] if first else []),
        *instance.get_runs(dg.RunsFilter(tags={"dagster/root_run_id": owner})),
        *instance.get_runs(dg.RunsFilter(tags={OWNER_TAG: owner})),
    ]
    return bool(runs) and all(is_over(run) for run in runs)


def fail_killed_runs(instance: dg.DagsterInstance) -> set[str]:
    """Marks as failed the runs of each `fruits run` that was killed on this machine; returns their owners.

    A killed process cannot report its end: without this function, Dagster shows its run as started for ever.
    """
    started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED], tags={_HOST: socket.gethostname()})
    killed = [run for run in instance.get_runs(started) if is_over(run)]
    for run in killed:
        instance.report_run_failed(run, "The process of this run was killed.")
    return {owner_of(run) for run in killed}
