"""Old runs are removed, and nothing that Dagster's marks and checks need."""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from fruits_assets.automation.old_runs import old_runs, remove_old_runs
from fruits_assets.dagster_runs import dagster_runs
from fruits_assets.definitions import definitions_for
from tests.fruits_assets.dagster_platform import BY_CLASS, CLASSES, Platform, add_photo, spoil_photo
from tests.support import leave_lock


def test_old_runs_that_changed_nothing_go_and_all_marks_stay(platform: Platform) -> None:
    platform.observe()  # nothing has changed
    spoil_photo(platform, "Lemon")
    platform.run(["raw_images"], "Lemon")  # fails; its only event is of what it read
    add_photo(platform, "Kiwi")
    platform.observe()
    platform.run(BY_CLASS, "Kiwi")
    before = marks(platform)
    checks = sorted(platform.graph.asset_check_keys)
    runs = platform.instance.get_runs()  # the newest first
    day, now = timedelta(days=1), datetime.now(UTC)
    assert remove_old_runs(platform.instance, checks, None, now - day) == (0, None)
    removed, until = remove_old_runs(platform.instance, checks, None, now + day)
    assert removed == 1
    assert platform.instance.get_runs() == [run for number, run in enumerate(runs) if number != 3]
    assert marks(platform) == before
    # Runs at which it has looked are not looked at again.
    assert remove_old_runs(platform.instance, checks, until, now + day) == (0, None)


@pytest.mark.parametrize("has_daemon", [True, False])
def test_old_logs_of_steps_and_old_locks_go_with_the_daemon_and_without_it(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, has_daemon: bool
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(platform.home))
    storage, locks = platform.home / "storage", platform.home / "running"
    days = platform.settings.keep_run_days
    files = {
        storage / "old" / "compute_logs": days + 1,
        storage / "new" / "compute_logs": days - 1,
        storage / "outputs of another project" / "result": days + 1,
        storage / "old of both" / "compute_logs": days + 1,
    }
    for logs, age in files.items():
        logs.mkdir(parents=True)
        (logs / "step.err").touch()
        set_age(logs, age)
    (storage / "old of both" / "result").touch()
    leave_lock(platform.instance, "old")
    set_age(locks / "old", days + 1)
    if has_daemon:
        sensor = old_runs(platform.settings)
        with dg.build_sensor_context(
            instance=platform.instance, definitions=definitions_for(platform.settings)
        ) as context:
            assert isinstance(sensor(context), dg.SkipReason)
    else:
        with dagster_runs(platform.settings):
            pass
    assert not (storage / "old").exists()
    assert [path.name for path in (storage / "old of both").iterdir()] == ["result"]
    assert (storage / "new" / "compute_logs" / "step.err").exists()
    assert (storage / "outputs of another project" / "result" / "step.err").exists()
    assert list(locks.iterdir()) == []


def set_age(path: Path, days: float) -> None:
    os.utime(path, (time.time() - 86400 * days,) * 2)


def marks(platform: Platform) -> dict[str, object]:
    keys: list[dg.AssetCheckKey] = sorted(platform.graph.asset_check_keys)
    return {
        "versions": {
            (asset, label): platform.version(asset, label) for asset in BY_CLASS for label in CLASSES
        },
        "checks": {key.name: platform.check(key.name).passed for key in keys},
        "unsynced": platform.out_of_sync(),
    }
