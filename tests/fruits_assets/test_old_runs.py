"""Old runs are removed, and nothing that Dagster's marks and checks need."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from fruits_assets.automation.old_runs import remove_old_runs
from tests.fruits_assets.dagster_platform import BY_CLASS, CLASSES, Platform, add_photo, spoil_photo


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


def marks(platform: Platform) -> dict[str, object]:
    keys: list[dg.AssetCheckKey] = sorted(platform.graph.asset_check_keys)
    return {
        "versions": {
            (asset, label): platform.version(asset, label) for asset in BY_CLASS for label in CLASSES
        },
        "checks": {key.name: platform.check(key.name).passed for key in keys},
        "unsynced": platform.out_of_sync(),
    }
