"""The lock of a run tells whether its process lives."""

import socket
from collections.abc import Iterator

import dagster as dg
import pytest

from resources.run_locks import Lock, held_lock, lock_state, remove_lock
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


def test_only_runs_of_killed_processes_are_marked_as_failed(instance: dg.DagsterInstance) -> None:
    killed, alive, elsewhere = (add_run(instance).run_id for _ in range(3))
    leave_lock(instance, killed)
    with held_lock(instance, alive):
        assert fail_killed_runs(instance) == {killed}
        assert fail_killed_runs(instance) == set()
    states = {run.run_id: run.status for run in instance.get_runs()}
    assert states == {killed: dg.DagsterRunStatus.FAILURE, alive: STARTED, elsewhere: STARTED}


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
