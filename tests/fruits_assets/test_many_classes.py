"""The work of Dagster's records does not grow with a query, a transaction or a read event for each class."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from fruits_assets.automation import alerts
from fruits_assets.automation.old_runs import remove_old_runs
from fruits_assets.pipeline import run_pipeline
from fruits_assets.provenance import last_observations
from fruits_assets.store_checks import CSVS_FOLLOW_PHOTOS, evaluate
from resources.dagster_storage import EventLog
from tests.fruits_assets.dagster_platform import CLASSES, Platform, spoil_photo
from tests.fruits_assets.test_automation import Ticks

PHOTOS = dg.AssetKey("fruit_photos")


@contextmanager
def counted_queries() -> Iterator[list[str]]:
    """The SQL statements of all databases while the context lasts."""
    queries: list[str] = []

    def count(*arguments: Any) -> None:
        queries.append(arguments[2])

    event.listen(Engine, "before_cursor_execute", count)
    try:
        yield queries
    finally:
        event.remove(Engine, "before_cursor_execute", count)


def test_the_check_of_late_classes_asks_no_more_for_more_classes(platform: Platform) -> None:
    settings = platform.settings.model_copy(update={"late_hours": 1e-9})

    def check_with_late(labels: list[str]) -> int:
        for label in labels:
            (platform.photos / label / "0_100.jpg").unlink()
        assert platform.observe().success
        with counted_queries() as queries:
            [check] = evaluate(platform.instance, settings, {CSVS_FOLLOW_PHOTOS})
        late.extend(labels)
        found: Any = check.metadata["failing_classes"]
        assert sorted(getattr(found, "value", found)) == sorted(late)
        return len(queries)

    late: list[str] = []
    assert check_with_late(CLASSES[:1]) == check_with_late(CLASSES[1:])


def test_the_last_observation_of_each_class_before_an_event_is_found_on_any_page(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fruits_assets.provenance._AT_ONCE", 2)
    instance = platform.instance
    for version in ("1", "2", "3"):
        for label in ("Banana", "Kiwi", "Lemon"):
            tags = {"dagster/data_version": version}
            instance.report_runless_asset_event(dg.AssetObservation(PHOTOS, partition=label, tags=tags))
    storage = instance.event_log_storage
    last = storage.get_latest_storage_id_by_partition(PHOTOS, dg.DagsterEventType.ASSET_OBSERVATION)
    before = {"Banana": last["Banana"] + 1, "Kiwi": last["Kiwi"], "Lemon": last["Banana"], "Durian": 9999}
    found = last_observations(instance, PHOTOS, before)
    versions = {
        label: (record.asset_observation.tags or {})["dagster/data_version"]  # type: ignore[union-attr]
        for label, record in found.items()
    }
    assert versions == {"Banana": "3", "Kiwi": "2", "Lemon": "2"}
    first = min(record.storage_id for record in instance.fetch_observations(PHOTOS, 1000).records)
    assert last_observations(instance, PHOTOS, {"Kiwi": first}) == {}


def test_a_run_over_many_classes_is_not_read_to_its_end_to_see_that_it_is_needed(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dg.op(out={})
    def many() -> Iterator[dg.AssetMaterialization]:
        for number in range(50):
            yield dg.AssetMaterialization("raw_images", partition=f"class {number}")

    @dg.job
    def over_many_classes() -> None:
        many()

    @dg.op(out={})
    def seen_late() -> Iterator[dg.AssetObservation]:
        for _ in range(25):
            yield dg.AssetObservation(PHOTOS)
        yield dg.AssetObservation(PHOTOS, partition="Kiwi")

    @dg.job
    def with_a_late_observation() -> None:
        seen_late()

    kept = {
        job.execute_in_process(instance=platform.instance).run_id
        for job in (over_many_classes, with_a_late_observation)
    }
    read: list[int] = []
    original = EventLog.get_records_for_run

    def counted(self: EventLog, *arguments: Any, **options: Any) -> Any:
        found = original(self, *arguments, **options)
        read.append(len(found.records))
        return found

    monkeypatch.setattr(EventLog, "get_records_for_run", counted)
    now = datetime.now(UTC)
    remove_old_runs(platform.instance, [], now - timedelta(hours=1), now + timedelta(hours=1))
    assert kept <= {run.run_id for run in platform.instance.get_runs()}
    assert max(read) <= 10


def test_the_failures_of_all_classes_are_recorded_at_once(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[list[str | None]] = []
    original = EventLog.store_event_batch

    def counted(self: EventLog, events: Any) -> None:
        batches.append([each.get_dagster_event().partition for each in events])
        original(self, events)

    monkeypatch.setattr(EventLog, "store_event_batch", counted)
    for label in CLASSES:
        spoil_photo(platform, label)
    monkeypatch.setenv("DAGSTER_HOME", str(platform.home))
    summary = run_pipeline(platform.settings, [], {})
    assert sorted(summary.failed_classes) == CLASSES
    assert [sorted(map(str, batch)) for batch in batches if set(CLASSES) & set(batch)] == [CLASSES]


def test_alerts_of_many_runs_take_several_ticks_and_none_is_lost(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    monkeypatch.setattr("fruits_assets.automation.alerts.send", lambda _, subject, text: sent.append(text))
    monkeypatch.setattr("fruits_assets.automation.alerts._AT_ONCE", 2)
    ticks = Ticks(platform, alerts.alerts(platform.settings), platform.settings)
    ticks.tick()
    runs = []
    for _ in range(5):
        run = platform.instance.add_run(dg.DagsterRun("bring_up_to_date", status=dg.DagsterRunStatus.STARTED))
        platform.instance.report_run_failed(run, "S3 cannot be reached.")
        runs.append(run.run_id)
    for expected in (2, 4, 5, 5):
        ticks.tick()
        assert len(sent) == expected
    assert [next(run for run in runs if run in text) for text in sent] == runs
