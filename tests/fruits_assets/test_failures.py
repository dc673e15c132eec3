"""Failed runs: they name the classes that failed and the remedy, and keep the last good versions."""

from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.reconstruct import ReconstructableRepository

from fruits_assets.costs.comparison import rows_of
from fruits_assets.costs.run_records import STAGES, read_records
from fruits_assets.partitions import register_classes
from spark_jobs.store.schemas import PCA_FEATURES_CSV
from tests.fruits_assets.dagster_platform import (
    CLASSES,
    IMAGES,
    Platform,
    add_photo,
    failed_classes,
    failure_message,
    spoil_photo,
)
from tests.support import current_versions


def test_a_class_with_too_many_bad_photos_fails_and_keeps_its_last_version(platform: Platform) -> None:
    last = current_versions(platform.store, "raw_images")
    spoil_photo(platform, "Kiwi")
    add_photo(platform, "Lemon")
    platform.observe()
    run = platform.run_everything()
    assert not run.success
    [(label, reason)] = failed_classes(run).items()
    assert label == "Kiwi"
    assert f"1 of {IMAGES} photos are bad" in reason
    assert "FRUITS_MAX_BAD_SHARE" in reason

    now = current_versions(platform.store, "raw_images")
    assert now["Kiwi"] == last["Kiwi"]
    assert now["Lemon"].rows == IMAGES + 1
    assert [label for label in CLASSES if len(platform.events("raw_images", label)) == 1] == ["Kiwi"]
    # The photo that went bad is still an image of the last version.
    assert platform.failing_classes("nothing_quarantined") == []
    assert platform.failing_classes("counts_reconcile") == []
    # The run stops before the features. Only out-of-date classes are marked.
    assert not run.asset_materializations_for_node("mobilenet_features")
    assert platform.out_of_sync() == ["mobilenet_features Lemon", "raw_images Kiwi"]


def test_a_registered_class_without_photos_or_a_version_fails_by_name(platform: Platform) -> None:
    register_classes(platform.instance, ["Dragonfruit"])
    run = platform.run(["raw_images"], "Orange", "Dragonfruit")
    assert failed_classes(run).keys() == {"Dragonfruit"}
    assert platform.run(["mobilenet_features"], "Dragonfruit").success is False
    assert platform.run(["pca_features_csv"], "Dragonfruit").success is False
    assert current_versions(platform.store, PCA_FEATURES_CSV).keys() == set(CLASSES)


def test_a_retry_from_the_failure_runs_only_the_missing_steps(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = (platform.photos / "Kiwi" / "0_100.jpg").read_bytes()
    spoil_photo(platform, "Kiwi")
    platform.observe()
    failed = platform.run_everything(recompute=True)
    assert not failed.success
    (platform.photos / "Kiwi" / "0_100.jpg").write_bytes(good)
    platform.observe()
    for name, value in platform.settings.model_dump(include={"images", "store", "weights"}).items():
        monkeypatch.setenv(f"FRUITS_{name.upper()}", value)
    repository = ReconstructableRepository.for_module("fruits_assets.definitions", "defs")
    retry = dg.execute_job(
        repository.get_reconstructable_job("__ASSET_JOB"),
        instance=platform.instance,
        reexecution_options=dg.ReexecutionOptions.from_failure(failed.run_id, platform.instance),
        # The button in Dagster's UI passes these tags too, so that the retry covers the same range.
        tags=failed.dagster_run.tags,
    )
    assert retry.success
    steps = {event.step_key for event in retry.all_events if event.event_type_value == "STEP_SUCCESS"}
    assert "feature_extractor" not in steps
    assert {"raw_images", "mobilenet_features", "pca_model", "pca_features_csv"} <= steps
    assert platform.out_of_sync() == []
    assert platform.failing_classes("nothing_quarantined") == []
    records = [record for record in read_records(platform.store)[0] if record.root_run == failed.run_id]
    assert {record.run for record in records if record.stage == "raw_images"} == {failed.run_id, retry.run_id}
    [row] = rows_of(records)
    assert (row.run, row.images, len(row.stages)) == (failed.run_id, IMAGES * len(CLASSES), len(STAGES))
    assert row.complete


def test_a_missing_input_is_named_in_the_failure(untouched: Platform) -> None:
    register_classes(untouched.instance, ["Kiwi"])
    untouched.store.fs.delete_file("feature_extractor/current.json")
    no_extractor = failure_message(untouched.run(["mobilenet_features"], "Kiwi"))
    assert no_extractor == "There is no feature_extractor yet. Materialize it first."
    assert "There is no pca_model yet" in failure_message(untouched.run(["pca_features_csv"], "Kiwi"))
    assert "15 components need at least 16 images" in failure_message(untouched.run(["pca_model"]))
    assert "FRUITS_IMAGES" in failure_message(untouched.run(["raw_images"], "Kiwi"))
    assert "FRUITS_IMAGES" in failure_message(untouched.observe())


def test_unreadable_weights_fail_with_the_name_of_their_variable(tmp_path: Path) -> None:
    platform = Platform(tmp_path, weights="/no/such/file.h5")
    assert "FRUITS_WEIGHTS=/no/such/file.h5" in failure_message(platform.run(["feature_extractor"]))
    platform.close()
