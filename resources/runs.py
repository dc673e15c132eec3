"""The owner of a Dagster run, and whether a run or all runs of an owner are over.

An owner is what shares one EMR cluster: a backfill, a `fruits run`, or a run with its retries.
"""

import socket
from collections.abc import Sequence

import dagster as dg

from resources.run_locks import Lock, lock_state, remove_lock

# A `fruits run` gives its id to its Dagster runs by this tag, and a cluster has the id of its owner.
OWNER_TAG = "fruits/owner"
# The classes of a run, and the command that started it, for people.
CLASSES_TAG, COMMAND_TAG = "fruits/classes", "fruits/command"
BACKFILL_TAG = "dagster/backfill"

_HOST = "fruits/host"

_NAMED = 5  # classes in a tag

_UNFINISHED = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]

# Statuses of a backfill that can still start runs, or whose runs still end.
_ACTIVE_BACKFILL = ("REQUESTED", "CANCELING", "FAILING")


def owner_tags(owner: str) -> dict[str, str]:
    """The tags of the runs of a `fruits run` on this host, which holds the lock of the owner."""
    return {OWNER_TAG: owner, _HOST: socket.gethostname()}


def classes_tag(labels: Sequence[str]) -> dict[str, str]:
    """A tag that says of which classes a run is; without labels it is of all."""
    more = f", and {len(labels) - _NAMED:,} more" if len(labels) > _NAMED else ""
    return {CLASSES_TAG: ", ".join(sorted(labels)[:_NAMED]) + more if labels else "all"}


def owner_of(run: dg.DagsterRun) -> str:
    """The owner of a run: its backfill, its `fruits run`, else the first of its retries."""
    return run.tags.get(BACKFILL_TAG) or run.tags.get(OWNER_TAG) or run.root_run_id or run.run_id


def ends_with(run: dg.DagsterRun) -> bool:
    """Whether the cluster of a run ends with the run, because its owner starts no other run."""
    return BACKFILL_TAG not in run.tags and (OWNER_TAG not in run.tags or run.parent_run_id is not None)


def is_over(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether a run has ended or its process has died; for a run inside a `fruits run`, that process.

    A `fruits run` of another host whose lock is not in this Dagster home counts as alive. A retry by Dagster
    has the tags of the first run but runs in another process, so it is a run by itself.
    """
    owner = run.tags.get(OWNER_TAG)
    if owner is None or run.parent_run_id is not None:
        return run.is_finished or lock_state(instance, run.run_id) == Lock.LEFT
    state = lock_state(instance, owner)
    return state == Lock.LEFT or (state == Lock.NONE and run.tags.get(_HOST) == socket.gethostname())


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
    return bool(runs) and all(is_over(instance, run) for run in runs)


def fail_killed_runs(instance: dg.DagsterInstance) -> set[str]:
    """Marks as failed the runs whose process has died; returns their owners.

    A process that was killed cannot report its end: Dagster would show its run as started for ever, and its
    queue would wait for it.
    """
    killed = [
        run
        for run in instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED))
        if lock_state(instance, run.run_id) == Lock.LEFT
    ]
    for run in killed:
        instance.report_run_failed(run, "The process of this run was killed.")
        remove_lock(instance, run.run_id)
    return {owner_of(run) for run in killed}
