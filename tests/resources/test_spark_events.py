"""Old event logs, and those of killed runs, do not stay in the store for ever."""

import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from resources.spark_events import EVENT_LOGS, KEEP_FILE, remove_old_event_logs
from spark_jobs.store.root import open_root

# Names as Spark 3.5 gives them, here and on a cluster, and the days since Spark last wrote to them.
LOGS = {
    "local-1796092860167.zstd": 89.0,
    "local-1796092860000.zstd": 91.0,
    "application_1796092860167_0001.zstd": 91.0,
    "local-1796092860168.zstd.inprogress": 0.9,
    "local-1796092860001.zstd.inprogress": 1.1,
    KEEP_FILE: 1000.0,
}


def add_logs(store: str, days: Mapping[str, float]) -> None:
    for name, age in days.items():
        file = Path(store) / EVENT_LOGS / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        os.utime(file, (time.time() - age * 86400,) * 2)


def test_logs_go_after_90_days_and_unfinished_logs_after_a_day(store: str) -> None:
    add_logs(store, LOGS)
    assert remove_old_event_logs(open_root(store), datetime.now(UTC)) == 3
    left = {path.name for path in (Path(store) / EVENT_LOGS).iterdir()}
    assert left == {"local-1796092860167.zstd", "local-1796092860168.zstd.inprogress", KEEP_FILE}


def test_a_store_without_logs_has_nothing_to_remove(store: str) -> None:
    assert remove_old_event_logs(open_root(store), datetime.now(UTC)) == 0
