"""The owner of a Dagster run, and whether a run or all runs of an owner are over.

An owner is what shares one EMR cluster: a backfill, a `fruits run`, or a run with its retries.
"""

import socket
import time
from collections.abc import Sequence

import dagster as dg

from resources.run_locks import Lock, lock_state, remove_lock
from spark_jobs.wording import named

# A `fruits run` gives its id to its Dagster runs by this tag, and a cluster has the id of its owner.
OWNER_TAG = "fruits/owner"
# The classes of a run, and the command that started it, for people.
CLASSES_TAG, COMMAND_TAG = "fruits/classes", "fruits/command"
BACKFILL_TAG = "dagster/backfill"

_HOST = "fruits/host"

_NAMED = 5  # classes in a tag

# A run begins its first step within seconds after its start, and after minutes on the busiest machine.
_BEGIN_SECONDS = 900

UNFINISHED = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]

# Statuses of a backfill that can still start runs, or whose runs still end.
_ACTIVE_BACKFILL = ("REQUESTED", "CANCELING", "FAILING")


def owner_tags(owner: str) -> dict[str, str]:
    """The tags of the runs of a `fruits run` on this host, which holds the lock of the owner."""
    return {OWNER_TAG: owner, _HOST: socket.gethostname()}


def classes_tag(labels: Sequence[str]) -> dict[str, str]:
    """A tag that says of which classes a run is; without labels it is of all."""
    return {CLASSES_TAG: named(sorted(labels), _NAMED) or "all"}


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
    records = instance.get_run_records(dg.RunsFilter(statuses=UNFINISHED))
    killed = [
        record.dagster_run
        for record in records
        if lock_state(instance, record.dagster_run.run_id) == Lock.LEFT or _never_began(instance, record)
    ]
    for run in killed:
        instance.report_run_failed(run, "The process of this run was killed.")
        remove_lock(instance, run.run_id)
    return {owner_of(run) for run in killed}


def _never_began(instance: dg.DagsterInstance, record: dg.RunRecord) -> bool:
    """Whether a run has started long ago, and no step of it: its process died before it took its lock.

    A run of another host, whose locks are not here, has started a step by then.
    """
    run_id, started = record.dagster_run.run_id, record.start_time
    if started is None or time.time() - started < _BEGIN_SECONDS:
        return False
    if lock_state(instance, run_id) != Lock.NONE:
        return False
    return not instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_START)
