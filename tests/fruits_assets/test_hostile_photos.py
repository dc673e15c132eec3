"""Files that were made to take time or memory concern themselves alone: a run names them, and goes on."""

import os

import pytest

from benchmarks.faults.bombs import BOMBS, LARGE
from benchmarks.faults.hostile import WORKER_BYTES, watched_workers
from fruits_assets.pipeline import run_pipeline
from spark_jobs.store.schemas import QUARANTINED_IMAGES, RAW_IMAGES
from tests.fruits_assets.dagster_platform import IMAGES, Platform
from tests.jobs import table
from tests.support import numbered_samples


def test_hostile_photos_are_named_and_all_other_photos_are_there(
    untouched: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbered_samples(untouched.photos, IMAGES)
    good = sum(1 for _ in untouched.photos.rglob("*.jpg")) + len(LARGE)
    for name, make in {**LARGE, **{name: make for name, (make, _) in BOMBS.items()}}.items():
        (untouched.photos / "Kiwi" / name).write_bytes(make())
    monkeypatch.setenv("DAGSTER_HOME", str(untouched.home))
    settings = untouched.settings.model_copy(update={"max_bad_share": 0.5})
    with watched_workers(os.getpid()) as workers:
        summary = run_pipeline(settings, [], {})
    assert summary.failed_classes == {}
    bad = table(settings.store, QUARANTINED_IMAGES).set_index("path")["reason"]
    assert set(bad.index) == {f"Kiwi/{name}" for name in BOMBS}
    for name, (_, reason) in BOMBS.items():
        assert reason in bad[f"Kiwi/{name}"]
    assert len(table(settings.store, RAW_IMAGES)) == summary.csv_rows == good
    assert workers.peaks()
    assert max(workers.peaks()) <= WORKER_BYTES, workers.memory
