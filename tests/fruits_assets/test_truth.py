"""The store alone says which classes exist: partitions, fits and checks follow it."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fruits_assets.costs.run_records import read_records
from fruits_assets.partitions import fruit_classes, known_classes
from fruits_assets.pipeline import Summary, run_pipeline
from spark_jobs.store.leases import held_lease
from spark_jobs.store.pointers import current_by_class, current_one, publish
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_FEATURES_CSV, PCA_MODEL, RAW_IMAGES
from spark_jobs.store.tables import current, replace_classes
from tests.fruits_assets.dagster_platform import BY_CLASS, CLASSES, Platform, log_messages
from tests.support import current_versions


def run(platform: Platform, monkeypatch: pytest.MonkeyPatch, *labels: str, **config: Any) -> Summary:
    monkeypatch.setenv("DAGSTER_HOME", str(platform.home))
    return run_pipeline(platform.settings, labels, config)


def take_out(platform: Platform, table: str, label: str) -> None:
    """Takes a class out of one table only."""
    with held_lease(platform.store, "tests") as lease:
        replace_classes(platform.store, table, {label: []}, lease)


def models_of_csvs(platform: Platform) -> dict[str, str]:
    """The version of the model that projected each class."""
    csvs = current_by_class(platform.store, PCA_FEATURES_CSV)
    return {label: version.inputs[PCA_MODEL] for label, version in csvs.items()}


def test_a_new_machine_with_the_same_store_fits_all_classes_and_mixes_no_models(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(platform.photos / "Huckleberry")
    shutil.rmtree(platform.home)
    new = Platform(platform.photos.parent)
    summary = run(new, monkeypatch, components=3)
    assert known_classes(new.instance) == CLASSES
    assert (summary.classes_done, summary.failed_classes) == (len(CLASSES), {})
    assert summary.classes_without_photos == ["Huckleberry"]
    assert (
        "no photos",
        "Huckleberry: its last version stays. To take it out: fruits forget Huckleberry",
    ) in (summary.lines)
    model = current_one(new.store, PCA_MODEL)
    assert model
    assert (model.details["classes"], model.details["components"]) == (len(CLASSES), 3)
    assert models_of_csvs(new) == dict.fromkeys(CLASSES, model.data_version)
    for check in ("one_model", "one_row_per_feature", "copies_match", "one_feature_per_image"):
        assert new.failing_classes(check) == []
    new.close()


def test_a_fit_on_a_new_machine_before_any_observation_takes_all_classes(platform: Platform) -> None:
    shutil.rmtree(platform.home)
    new = Platform(platform.photos.parent)
    assert new.run([PCA_MODEL]).success
    assert new.metadata(PCA_MODEL)["classes"] == len(CLASSES)
    new.close()


def test_a_lost_dagster_home_comes_back_by_one_run_that_computes_nothing(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {(asset, label): platform.version(asset, label) for asset in BY_CLASS for label in CLASSES}
    pointers = [current_versions(platform.store, asset) for asset in BY_CLASS]
    shutil.rmtree(platform.home)
    new = Platform(platform.photos.parent)
    assert new.out_of_sync() != []
    summary = run(new, monkeypatch)
    assert not summary.failed
    assert known_classes(new.instance) == CLASSES
    assert new.out_of_sync() == []
    assert {key: new.version(*key) for key in versions} == versions
    assert [current_versions(new.store, asset) for asset in BY_CLASS] == pointers
    assert not {run.run_id for run in new.instance.get_runs()} & {
        record.run for record in read_records(new.store)[0]
    }  # no Spark job ran
    new.close()


def test_a_partition_that_is_deleted_comes_back_with_the_next_observation(platform: Platform) -> None:
    shutil.rmtree(platform.photos / "Huckleberry")
    before = {table: current(platform.store, table) for table in (RAW_IMAGES, MOBILENET_FEATURES)}
    for label in ("Huckleberry", "Kiwi"):
        platform.instance.delete_dynamic_partition(str(fruit_classes.name), label)
    observation = platform.observe()
    assert known_classes(platform.instance)[-2:] == ["Huckleberry", "Kiwi"]
    assert {table: current(platform.store, table) for table in before} == before
    [warning] = log_messages(platform, observation, "WARNING")
    assert warning.startswith("Classes without photos: 1 (Huckleberry).")
    assert warning.endswith("fruits forget CLASS")
    assert platform.out_of_sync() == []


def test_an_observation_registers_the_classes_of_a_store_that_is_still_to_convert(
    untouched: Platform,
) -> None:
    """A store of release 0.1 has a pointer for each class of each table."""
    (untouched.photos / "Banana").mkdir(parents=True)
    (untouched.photos / "Banana" / "1.jpg").touch()
    extractor = current_one(untouched.store, "feature_extractor")
    assert extractor
    publish(
        untouched.store, RAW_IMAGES, [replace(extractor, label="Kiwi", directory=f"{RAW_IMAGES}/version=1")]
    )
    assert untouched.observe().success
    assert known_classes(untouched.instance) == ["Banana", "Kiwi"]


def test_a_class_that_only_has_features_is_projected_by_a_new_model_too(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(platform.photos / "Huckleberry")
    take_out(platform, RAW_IMAGES, "Huckleberry")
    summary = run(platform, monkeypatch, components=3)
    assert summary.failed_classes == {}
    assert set(models_of_csvs(platform)) == set(CLASSES)
    assert len(set(models_of_csvs(platform).values())) == 1
    assert platform.failing_classes("one_model") == []


def test_checks_name_a_class_whose_source_is_not_in_the_store(platform: Platform) -> None:
    take_out(platform, MOBILENET_FEATURES, "Kiwi")
    take_out(platform, RAW_IMAGES, "Lemon")
    assert platform.run(BY_CLASS, "Banana").success
    assert platform.failing_classes("one_feature_per_image") == ["Kiwi", "Lemon"]
    assert platform.failing_classes("one_row_per_feature") == ["Kiwi"]
    assert platform.failing_classes("one_model") == []


def test_checks_of_csvs_look_at_all_classes_of_the_store(platform: Platform) -> None:
    assert platform.run([PCA_MODEL], config={PCA_MODEL: {"config": {"components": 3}}}).success
    for label in ("Lemon", "Orange"):
        platform.instance.delete_dynamic_partition(str(fruit_classes.name), label)
    (Path(platform.settings.store) / PCA_FEATURES_CSV / "Orange.csv").write_text("changed")
    assert platform.run([PCA_FEATURES_CSV], "Apple Red 1", "Kiwi").success
    assert platform.failing_classes("one_model") == ["Lemon", "Orange"]
    assert platform.failing_classes("copies_match") == []  # the run has replaced the copy
