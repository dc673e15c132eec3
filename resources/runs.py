"""Whose run a Dagster run is, and whether it is over."""

import os
import socket

import dagster as dg

# Tag of what a cluster was made for: the id of a backfill, of a run, or of a `fruits run`, which gives its
# Dagster runs the same tag.
OWNER_TAG = "fruits/owner"
BACKFILL_TAG = "dagster/backfill"

_HOST, _PROCESS = "fruits/host", "fruits/process"


def process_tags() -> dict[str, str]:
    """Dagster's tags for a run in this process."""
    return {**machine_tags(), _PROCESS: str(os.getpid())}


def machine_tags() -> dict[str, str]:
    """The tags that all runs of `fruits run` on this machine have."""
    return {_HOST: socket.gethostname()}


def is_over(run: dg.DagsterRun) -> bool:
    """Whether a run has ended; one of `fruits run`, whether its process has, as that may begin others.

    Of a process on another machine nothing is known, so it is taken to be alive. A run that Dagster repeats
    has the tags of the first, and is in another process.
    """
    if _PROCESS not in run.tags or run.parent_run_id is not None:
        return run.is_finished
    if run.tags[_HOST] != socket.gethostname():
        return False
    try:
        os.kill(int(run.tags[_PROCESS]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's, and alive
        pass
    return False


def owner_of(run: dg.DagsterRun) -> str:
    """What a run shares its cluster with: its backfill, the `fruits run` that it is of, else its retries."""
    return run.tags.get(BACKFILL_TAG) or run.tags.get(OWNER_TAG) or run.root_run_id or run.run_id


def ends_with(run: dg.DagsterRun) -> bool:
    """Whether a run's cluster is to end with it: nothing else uses it, or will."""
    return BACKFILL_TAG not in run.tags and (OWNER_TAG not in run.tags or run.parent_run_id is not None)
