"""What the sensors decide, and the checks of late classes and of drift.."""

import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from PIL import Image

from fruits_assets.automation.alerts import alerts
from fruits_assets.automation.new_photos import keep_up_to_date, late_classes, photo_observation
from fruits_assets.definitions import definitions_for
from fruits_assets.figures import CLASS_ROWS
from fruits_assets.jobs import BRING_UP_TO_DATE, OBSERVE_PHOTOS
from fruits_assets.pipeline import run_pipeline
from resources.settings import Settings
from spark_jobs.errors import FruitsError
from tests.fruits_assets.dagster_platform import (
    BY_CLASS,
    CLASSES,
    IMAGES,
    Platform,
    add_photo,
    failed_classes,
    spoil_photo,
)


class Ticks:
    """Ticks of a sensor on a platform, with the cursor that one tick leaves to the next."""

    def __init__(self, platform: Platform, sensor: dg.SensorDefinition, settings: Settings) -> None:
        self.platform, self.sensor = platform, sensor
        self.definitions = definitions_for(settings)
        self.cursor: str | None = None

    def tick(self) -> Any:
        context = dg.build_sensor_context(
            self.platform.instance,
            cursor=self.cursor,
            repository_def=self.definitions.get_repository_def(),
        )
        data = self.sensor.evaluate_tick(context)
        self.cursor = data.cursor
        return data.run_requests[0] if data.run_requests else data.skip_message


def requested(answer: Any) -> list[str]:
    """The classes of a run request; none is all."""
    return list(answer.run_config["classes"])


@pytest.fixture
def following(platform: Platform) -> Ticks:
    """The sensor keep_up_to_date, which was switched on before."""
    ticks = Ticks(platform, keep_up_to_date, platform.settings)
    assert requested(ticks.tick()) == []  # it begins with all classes
    assert ticks.tick() == "Nothing has changed."
    return ticks


def test_changes_by_hand_are_followed_in_one_request(platform: Platform, following: Ticks) -> None:
    for label in ("Kiwi", "Apple Red 1"):
        add_photo(platform, label)
    assert platform.run(["raw_images"], "Kiwi").success
    assert platform.run(["raw_images"], "Apple Red 1").success
    assert requested(following.tick()) == ["Apple Red 1", "Kiwi"]
    assert following.tick() == "Nothing has changed."


def test_a_new_model_is_followed_by_all_classes_and_no_sensor_fits_one(
    platform: Platform, following: Ticks
) -> None:
    add_photo(platform, "Kiwi")
    assert platform.run(["pca_model"]).success
    request = following.tick()
    assert requested(request) == []
    assert request.run_config["refit"] is False
    assert "components" not in request.run_config


def test_nothing_is_requested_while_a_run_is_unfinished_or_no_model_is_there(
    platform: Platform, following: Ticks, untouched: Platform
) -> None:
    add_photo(platform, "Kiwi")
    platform.observe()
    run = platform.instance.add_run(dg.DagsterRun(BRING_UP_TO_DATE, status=dg.DagsterRunStatus.STARTED))
    assert "has not ended" in following.tick()
    platform.instance.report_run_failed(run)
    assert requested(following.tick()) == ["Kiwi"]
    assert "no PCA model" in Ticks(untouched, keep_up_to_date, untouched.settings).tick()


def test_a_run_that_failed_as_a_whole_is_tried_again_after_a_while(
    platform: Platform, following: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = platform.instance.create_run_for_job(
        definitions_for(platform.settings).resolve_job_def(BRING_UP_TO_DATE),
        run_config={"classes": ["Kiwi"]},
        tags={"dagster/sensor_name": "keep_up_to_date"},
    )
    platform.instance.report_run_failed(run, "S3 cannot be reached.")
    assert following.tick() == "Nothing has changed."
    monkeypatch.setattr("fruits_assets.automation.new_photos._AGAIN_SECONDS", 0)
    assert requested(following.tick()) == ["Kiwi"]


def test_a_class_that_has_gone_since_the_request_does_not_stop_the_others(platform: Platform) -> None:
    add_photo(platform, "Kiwi")
    job = definitions_for(platform.settings).resolve_job_def(BRING_UP_TO_DATE)
    run = job.execute_in_process(
        {"classes": ["Durian", "Kiwi"]}, instance=platform.instance, raise_on_error=False
    )
    assert failed_classes(run) == {"Durian": "it has no photos, and the store does not have it"}
    assert platform.metadata("pca_features_csv", "Kiwi")[CLASS_ROWS] == IMAGES + 1


def test_photos_on_disk_are_observed_only_after_a_change(platform: Platform) -> None:
    ticks = Ticks(platform, photo_observation(platform.settings), platform.settings)
    assert ticks.sensor.default_status == dg.DefaultSensorStatus.RUNNING
    assert isinstance(ticks.tick(), dg.RunRequest)  # the first look
    assert "No photo is new" in ticks.tick()
    add_photo(platform, "Kiwi")
    assert isinstance(ticks.tick(), dg.RunRequest)
    platform.instance.add_run(dg.DagsterRun(OBSERVE_PHOTOS, status=dg.DagsterRunStatus.STARTED))
    assert "has not ended" in ticks.tick()


def test_photos_on_s3_are_never_listed_by_the_sensor_and_it_is_off_until_switched_on(
    untouched: Platform,
) -> None:
    # No server answers: a listing would fail.
    settings = untouched.settings.model_copy(update={"images": "s3://photos/fruits", "store": "s3://store"})
    ticks = Ticks(untouched, photo_observation(settings), untouched.settings)
    assert ticks.sensor.default_status == dg.DefaultSensorStatus.STOPPED
    assert ticks.sensor.minimum_interval_seconds == 900
    assert isinstance(ticks.tick(), dg.RunRequest)
    assert isinstance(ticks.tick(), dg.RunRequest)
    assert late_classes(settings).default_status == dg.DefaultScheduleStatus.STOPPED
    assert keep_up_to_date.default_status == dg.DefaultSensorStatus.STOPPED


def test_a_run_that_costs_more_than_the_limit_is_told(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    monkeypatch.setattr("fruits_assets.automation.alerts.send", lambda _, subject, text: sent.append(text))
    settings = platform.settings.model_copy(update={"alert_cost": 0.5, "ui_url": "http://dagster"})
    ticks = Ticks(platform, alerts(settings), platform.settings)
    assert "begin now" in ticks.tick()

    @dg.op(out={})
    def costly() -> Any:
        for label in ("Kiwi", "Lemon"):  # the cost of a job is on the event of each of its classes
            for asset, cost in (("raw_images", 0.4), ("mobilenet_features", 0.35)):
                yield dg.AssetMaterialization(asset, partition=label, metadata={"estimated_cost_usd": cost})

    @dg.job
    def backfill() -> None:
        costly()

    run = backfill.execute_in_process(instance=platform.instance)
    ticks.tick()
    assert sent == [
        f"The run backfill cost about 0.75 USD, and FRUITS_ALERT_COST is 0.50.\nhttp://dagster/runs/{run.run_id}"
    ]
    platform.instance.add_run_tags(run.run_id, {"seen": "by a person"})
    ticks.tick()
    assert len(sent) == 1


def test_a_message_that_no_channel_takes_is_sent_later_and_once(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    reachable = [False]

    def send(_: Settings, subject: str, text: str) -> None:
        if not reachable[0]:
            raise FruitsError("no channel", retry_helps=True)
        sent.append(subject)

    monkeypatch.setattr("fruits_assets.automation.alerts.send", send)
    ticks = Ticks(platform, alerts(platform.settings), platform.settings)
    ticks.tick()
    spoil_photo(platform, "Kiwi")
    platform.run(["raw_images"], "Kiwi")
    assert ticks.tick() == "Messages sent: 0. 1 wait: no channel took them."
    reachable[0] = True
    ticks.tick()
    ticks.tick()
    assert sent == ["Fruits: raw_images failed"]


def test_late_classes_are_those_whose_photos_changed_long_ago(platform: Platform) -> None:
    add_photo(platform, "Kiwi")
    spoil_photo(platform, "Lemon")
    platform.observe()
    platform.run(["raw_images"], "Kiwi")
    assert late(platform, hours=1) == []
    assert late(platform, hours=1e-9) == ["Kiwi", "Lemon"]
    (platform.photos / "Kiwi" / "new.jpg").unlink()
    platform.observe()
    assert platform.run(BY_CLASS, "Kiwi").success
    assert late(platform, hours=1e-9) == ["Lemon"]


def test_photos_that_change_back_are_not_late(platform: Platform) -> None:
    photo = platform.photos / "Kiwi" / "0_100.jpg"
    away = platform.photos.parent / "away.jpg"
    photo.rename(away)
    platform.observe()
    away.rename(photo)
    platform.observe()
    assert late(platform, hours=1e-9) == []


def late(platform: Platform, hours: float) -> list[str]:
    """The late classes, by an execution of the check alone."""
    settings = platform.settings.model_copy(update={"late_hours": hours})
    checks = dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey("pca_features_csv"), "csvs_follow_photos"))
    job = dg.define_asset_job("check", selection=checks)
    definitions = dg.Definitions.merge(definitions_for(settings), dg.Definitions(jobs=[job]))
    assert definitions.resolve_job_def("check").execute_in_process(instance=platform.instance).success
    return sorted(platform.failing_classes("csvs_follow_photos"))


def test_images_that_the_model_describes_badly_are_a_reason_for_a_new_model(platform: Platform) -> None:
    assert platform.check("describes_new_images").passed
    # Noise is unlike any fruit.
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    Image.fromarray(noise).save(platform.photos / CLASSES[0] / "noise.png")
    assert platform.run(["raw_images", "mobilenet_features"], CLASSES[0]).success
    check = platform.check("describes_new_images")
    figures = {name: check.metadata[name].value for name in ("kept_at_fit", "kept_variance", "lost_variance")}
    assert figures["kept_variance"] < figures["kept_at_fit"] - 0.05, figures  # type: ignore[operator]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "It is time for a new model: 1 image and 0 classes have come" in str(check.description)


def test_a_backup_of_the_store_comes_back_without_new_work(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Path(platform.settings.store)
    shutil.copytree(store, store.with_name("backup"))
    add_photo(platform, "Kiwi")
    assert platform.run(BY_CLASS, "Kiwi").success
    # The disk is lost, with Dagster's home; the photos are as they were at the backup.
    (platform.photos / "Kiwi" / "new.jpg").unlink()
    shutil.rmtree(store)
    shutil.rmtree(platform.home)
    shutil.copytree(store.with_name("backup"), store)
    new = Platform(platform.photos.parent)
    monkeypatch.setenv("DAGSTER_HOME", str(new.home))
    monkeypatch.setattr("fruits_assets.all_assets.begin_session", lambda _: pytest.fail("Spark starts"))
    summary = run_pipeline(new.settings, [], {})
    assert (summary.failed, summary.classes_done) == (False, len(CLASSES))
    assert new.out_of_sync() == []
    new.close()
