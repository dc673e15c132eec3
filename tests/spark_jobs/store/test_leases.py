"""Leases: the files of a run that lives are never removed, however long it takes."""

import os
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from spark_jobs.errors import FruitsError
from spark_jobs.store.leases import LIFETIME, held_lease
from spark_jobs.store.pointers import new_directory
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import PCA_FEATURES_CSV
from spark_jobs.store.sweep import sweep_table, sweep_versions
from spark_jobs.store.tables import replace_classes
from tests.spark_jobs.store.written import TABLE, commit_class, rows_of, write_part

AT_ONCE = timedelta(0)


@pytest.fixture
def root(store: str) -> Root:
    return open_root(store)


def age(path: Path, hours: float) -> None:
    """Makes a file or a folder with its files look as old as that."""
    then = time.time() - 3600 * hours
    for file in [path, *path.rglob("*")]:
        os.utime(file, (then, then))


def sweep_as(root: Root, run: str) -> int:
    with held_lease(root, run) as lease:
        return sweep_table(root, TABLE, AT_ONCE, lease)


def test_files_of_a_run_that_lives_are_kept_with_keep_hours_0(root: Root) -> None:
    commit_class(root, "Kiwi", ["old"])
    with held_lease(root, "slow") as lease:
        part = write_part(root, "Kiwi", ["new", "newer"], "slow")
        assert sweep_as(root, "quick") == 0
        replace_classes(root, TABLE, {"Kiwi": [part]}, lease)
    assert rows_of(root) == {"Kiwi": 2}


def test_files_of_a_run_that_lives_are_kept_although_they_are_days_old(root: Root, store: str) -> None:
    commit_class(root, "Kiwi", ["old"])
    with held_lease(root, "slow") as lease:
        part = write_part(root, "Kiwi", ["new", "newer"], "slow")
        age(Path(store) / TABLE / "slow", hours=100)
        assert sweep_as(root, "quick") == 0
        replace_classes(root, TABLE, {"Kiwi": [part]}, lease)
    assert rows_of(root) == {"Kiwi": 2}


def test_directories_of_a_run_that_lives_are_kept_in_outputs_with_pointers(root: Root, store: str) -> None:
    with held_lease(root, "slow"):
        path = f"{new_directory(PCA_FEATURES_CSV, 'slow')}/Kiwi/part.csv"
        root.write(path, b"path,label,pc1\n")
        age(Path(store) / path, hours=100)
        with held_lease(root, "quick") as lease:
            assert sweep_versions(root, PCA_FEATURES_CSV, AT_ONCE, lease) == 0
        assert root.has(path)
    with held_lease(root, "quick") as lease:
        assert sweep_versions(root, PCA_FEATURES_CSV, AT_ONCE, lease) == 1
    assert not root.has(path)


def test_files_of_a_run_that_died_are_removed_once_its_lease_has_ended(root: Root, store: str) -> None:
    commit_class(root, "Kiwi", ["current"])
    lost = write_part(root, "Kiwi", ["lost"], "dead")
    root.write("leases/dead", b"")  # as a run that was killed leaves it
    assert sweep_as(root, "next") == 0
    age(Path(store) / "leases" / "dead", hours=LIFETIME.total_seconds() / 3600 + 0.1)
    assert sweep_as(root, "next") == 1
    assert not root.has(lost.path)
    assert root.list("leases") == []
    assert rows_of(root) == {"Kiwi": 1}


def test_a_run_that_lost_its_lease_commits_nothing(root: Root, store: str) -> None:
    commit_class(root, "Kiwi", ["current"])
    with held_lease(root, "asleep") as lease:
        part = write_part(root, "Kiwi", ["never", "committed"], "asleep")
        age(Path(store) / "leases" / "asleep", hours=2)
        assert sweep_as(root, "other") == 1
        with pytest.raises(FruitsError, match=r"leases/asleep is gone: this run stood still.*Run it again"):
            replace_classes(root, TABLE, {"Kiwi": [part]}, lease)
    assert rows_of(root) == {"Kiwi": 1}


def test_a_lease_ends_with_its_run_and_with_an_error(root: Root) -> None:
    with suppress(ValueError), held_lease(root, "run"):
        assert root.has("leases/run")
        raise ValueError
    assert not root.has("leases/run")


def test_a_lease_that_cannot_be_removed_hides_no_error_of_its_run(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(root: Root, path: str) -> None:
        raise PermissionError("AWS Error ACCESS_DENIED during DeleteObject operation")

    monkeypatch.setattr(Root, "remove_file", denied)
    with held_lease(root, "done"):
        pass
    with pytest.raises(FruitsError, match="the error of the run"), held_lease(root, "failed"):
        raise FruitsError("the error of the run")


def test_a_replaced_file_is_kept_for_the_given_time_and_then_removed(root: Root, store: str) -> None:
    old = commit_class(root, "Kiwi", ["old"], "first")
    commit_class(root, "Kiwi", ["new"], "second")
    with held_lease(root, "third") as lease:
        assert sweep_table(root, TABLE, timedelta(hours=24), lease) == 0
        assert root.has(old.path)
    age(Path(store) / TABLE / "_delta_log", hours=25)
    with held_lease(root, "third") as lease:
        assert sweep_table(root, TABLE, timedelta(hours=24), lease) == 1
    assert not root.has(old.path)
    assert rows_of(root) == {"Kiwi": 1}
