"""The lock of a run tells whether its process lives."""

import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from resources.run_locks import Lock, held_lock, lock_state, remove_lock, remove_old_locks
from resources.runs import OWNER_TAG, fail_killed_runs, is_over, owner_tags
from tests.support import leave_lock

STARTED = dg.DagsterRunStatus.STARTED


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def add_run(
    instance: dg.DagsterInstance,
    status: dg.DagsterRunStatus = STARTED,
    tags: dict[str, str] | None = None,
) -> dg.DagsterRun:
    return instance.add_run(dg.DagsterRun("job", status=status, tags=tags))


def test_a_lock_is_held_while_its_process_holds_it_and_then_gone(instance: dg.DagsterInstance) -> None:
    assert lock_state(instance, "run") == Lock.NONE
    with held_lock(instance, "run"):
        assert lock_state(instance, "run") == Lock.HELD
    assert lock_state(instance, "run") == Lock.NONE


def test_a_killed_process_leaves_its_lock(instance: dg.DagsterInstance) -> None:
    leave_lock(instance, "run")
    assert lock_state(instance, "run") == Lock.LEFT
    remove_lock(instance, "run")
    assert lock_state(instance, "run") == Lock.NONE


def test_old_locks_of_dead_processes_go_and_locks_of_living_processes_stay(
    instance: dg.DagsterInstance,
) -> None:
    day = timedelta(days=1)
    for name in ("old", "new", ".unnamed.17"):
        leave_lock(instance, name)
    with held_lock(instance, "alive"):
        locks = Path(instance.root_directory) / "running"
        for name in ("old", "alive", ".unnamed.17"):
            os.utime(locks / name, (time.time() - 2 * 86400,) * 2)
        assert remove_old_locks(instance, datetime.now(UTC) - day) == 2
        assert {path.name for path in locks.iterdir()} == {"new", "alive"}
        assert lock_state(instance, "alive") == Lock.HELD


def test_a_home_without_locks_has_none_to_remove(instance: dg.DagsterInstance) -> None:
    assert remove_old_locks(instance, datetime.now(UTC)) == 0


def test_only_runs_of_killed_processes_are_marked_as_failed(instance: dg.DagsterInstance) -> None:
    killed, alive, elsewhere = (add_run(instance).run_id for _ in range(3))
    leave_lock(instance, killed)
    with held_lock(instance, alive):
        assert fail_killed_runs(instance) == {killed}
        assert fail_killed_runs(instance) == set()
    states = {run.run_id: run.status for run in instance.get_runs()}
    assert states == {killed: dg.DagsterRunStatus.FAILURE, alive: STARTED, elsewhere: STARTED}


@pytest.mark.parametrize(("minutes", "has_begun"), [(60, False), (60, True), (1, False)])
def test_a_run_that_began_no_step_for_long_is_marked_as_failed(
    instance: dg.DagsterInstance, minutes: int, has_begun: bool
) -> None:
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.NOT_STARTED)
    long_ago = time.time() - 60 * minutes
    start = dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, job.name)
    instance.report_dagster_event(start, run.run_id, timestamp=long_ago)
    if has_begun:
        step = dg.DagsterEvent(dg.DagsterEventType.STEP_START.value, job.name, step_key="nothing")
        instance.report_dagster_event(step, run.run_id, timestamp=long_ago)
    dead = minutes == 60 and not has_begun
    assert fail_killed_runs(instance) == ({run.run_id} if dead else set())


@dg.op
def nothing() -> None:
    pass


@dg.job
def job() -> None:
    nothing()


def test_a_run_of_a_command_is_over_when_the_command_has_ended(instance: dg.DagsterInstance) -> None:
    finished = add_run(instance, dg.DagsterRunStatus.SUCCESS, owner_tags("command"))
    with held_lock(instance, "command"):
        assert not is_over(instance, finished)
    assert is_over(instance, finished)
    leave_lock(instance, "command")
    assert is_over(instance, finished)


def test_a_command_of_another_host_without_a_lock_here_counts_as_alive(instance: dg.DagsterInstance) -> None:
    elsewhere = {OWNER_TAG: "command", "fruits/host": f"not-{socket.gethostname()}"}
    run = add_run(instance, tags=elsewhere)
    assert not is_over(instance, run)
    leave_lock(instance, "command")
    assert is_over(instance, run)


def test_any_other_run_is_over_when_it_is_finished_or_its_process_was_killed(
    instance: dg.DagsterInstance,
) -> None:
    started = add_run(instance)
    assert not is_over(instance, started)
    leave_lock(instance, started.run_id)
    assert is_over(instance, started)
    assert is_over(instance, add_run(instance, dg.DagsterRunStatus.CANCELED))


@pytest.mark.parametrize("name", ["../outside", "/etc/shadow", ".", "..", "", "x" * 300, "a/b", "a\0b"])
def test_a_tag_that_names_no_file_stops_no_command_and_reads_nothing_outside(
    instance: dg.DagsterInstance, name: str
) -> None:
    # Anybody can give a tag to a run in Dagster's UI.
    (Path(instance.root_directory) / "running").mkdir(exist_ok=True)
    (Path(instance.root_directory) / "outside").touch()
    run = add_run(instance, tags={OWNER_TAG: name, "fruits/process": "abc", "fruits/host": "elsewhere"})
    assert lock_state(instance, name) == Lock.NONE
    assert not is_over(instance, run)
    assert fail_killed_runs(instance) == set()
    with held_lock(instance, name):
        assert lock_state(instance, name) == Lock.HELD
    assert {path.name for path in Path(instance.root_directory).iterdir()} >= {"outside", "running"}
