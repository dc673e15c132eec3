"""`fruits forget`, as a user types it."""

import json
import os
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from fruits_assets.partitions import PARTITION, RANGE_END, known_classes, register_classes
from spark_jobs.store import classes
from spark_jobs.store.classes import Holding, holdings
from spark_jobs.store.pointers import current_one
from spark_jobs.store.schemas import PCA_FEATURES_CSV, PCA_MODEL, RAW_IMAGES
from tests.fruits_assets.commands import fruits
from tests.fruits_assets.dagster_platform import CLASSES, IMAGES, Platform

REMAINING = [label for label in CLASSES if label != "Kiwi"]
WHOLE = Holding(quarantined=0, images=IMAGES, features=IMAGES, csv_rows=IMAGES)


@pytest.fixture
def without_kiwis(platform: Platform) -> Platform:
    """A finished platform from whose photos the folder of the kiwis was removed."""
    shutil.rmtree(platform.photos / "Kiwi")
    return platform


def assert_nothing_changed(platform: Platform) -> None:
    assert holdings(platform.store) == dict.fromkeys(CLASSES, WHOLE)
    assert known_classes(platform.instance) == CLASSES


def test_a_class_leaves_tables_csvs_and_partitions_and_the_next_fit(without_kiwis: Platform) -> None:
    platform, model = without_kiwis, current_one(without_kiwis.store, PCA_MODEL)
    result = fruits(platform, "forget", "Kiwi", typed="y\n")
    assert result.exit_code == 0, result.output
    assert f"Kiwi  {IMAGES} images, 0 in quarantine, {IMAGES} with features, a CSV of {IMAGES} rows" in (
        result.output
    )
    assert "FRUITS_KEEP_HOURS=24, `fruits restore` can bring back all of it" in result.output
    assert "fruits restore Kiwi --to 20" in result.output
    assert "The PCA model keeps them until the next fit: fruits run" in result.output
    assert holdings(platform.store) == dict.fromkeys(REMAINING, WHOLE)
    copies = sorted(path.stem for path in (Path(platform.settings.store) / PCA_FEATURES_CSV).iterdir())
    assert copies == known_classes(platform.instance) == REMAINING
    assert current_one(platform.store, PCA_MODEL) == model
    platform.observe()
    assert known_classes(platform.instance) == REMAINING
    assert platform.run_everything().success
    assert platform.metadata(PCA_MODEL)["classes"] == len(REMAINING)
    for check in ("one_model", "one_row_per_feature", "one_feature_per_image", "copies_match"):
        assert platform.failing_classes(check) == []
    assert platform.out_of_sync() == []


def test_nothing_is_taken_out_if_the_answer_is_no(without_kiwis: Platform) -> None:
    result = fruits(without_kiwis, "forget", "Kiwi", typed="n\n")
    assert result.exit_code == 1
    assert_nothing_changed(without_kiwis)


def test_a_class_with_photos_is_refused_and_no_other_class_is_taken_out(without_kiwis: Platform) -> None:
    result = fruits(without_kiwis, "forget", "Kiwi", "Lemon", "--yes")
    assert result.exit_code == 1
    assert f"The class 'Lemon' has {IMAGES} photos under FRUITS_IMAGES=" in result.output
    assert "Remove its photos first: Lemon/0_100.jpg, ..." in result.output
    assert_nothing_changed(without_kiwis)


def test_a_class_whose_folder_cannot_be_listed_may_have_photos(
    without_kiwis: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    (without_kiwis.photos / "Kiwi").mkdir()
    scandir = os.scandir

    def refused(path: Path) -> object:
        if Path(path).name == "Kiwi":
            raise OSError(5, "Input/output error")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    result = fruits(without_kiwis, "forget", "Kiwi", "--yes")
    assert result.exit_code == 1
    assert "The class 'Kiwi' may have photos" in result.output
    assert_nothing_changed(without_kiwis)


def test_an_unknown_class_is_refused_with_the_known_classes(without_kiwis: Platform) -> None:
    result = fruits(without_kiwis, "forget", "Kiwi", "kiwi", "--yes")
    assert result.exit_code == 1
    assert "The store has no class 'kiwi'. Its classes: Apple Red 1, Banana, Huckleberry" in result.output
    assert_nothing_changed(without_kiwis)


def test_the_last_photos_may_be_gone_too(platform: Platform) -> None:
    for label in CLASSES:
        shutil.rmtree(platform.photos / label)
    assert fruits(platform, "forget", *CLASSES, "--yes").exit_code == 0
    assert holdings(platform.store) == {}
    assert known_classes(platform.instance) == []


def test_a_partition_without_data_can_be_forgotten(platform: Platform) -> None:
    register_classes(platform.instance, ["Never ingested"])
    result = fruits(platform, "forget", "Never ingested", "--yes")
    assert result.exit_code == 0
    assert "Never ingested  0 images, 0 in quarantine, 0 with features, no CSV" in result.output
    assert_nothing_changed(platform)


@pytest.mark.parametrize("tag", [PARTITION, RANGE_END])
def test_a_run_that_has_not_ended_keeps_the_partition_that_it_names(
    without_kiwis: Platform, tag: str
) -> None:
    instance = without_kiwis.instance
    started = dg.DagsterRun("pipeline", status=dg.DagsterRunStatus.STARTED, tags={tag: "Kiwi"})
    run = instance.add_run(started)
    result = fruits(without_kiwis, "forget", "Kiwi", "--yes")
    assert result.exit_code == 1
    assert f"The run {run.run_id} is of the class 'Kiwi' and has not ended" in result.output
    assert_nothing_changed(without_kiwis)
    instance.report_run_failed(run)
    assert fruits(without_kiwis, "forget", "Kiwi", "--yes").exit_code == 0


def test_forgetting_again_finishes_what_was_interrupted(
    without_kiwis: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(classes, "withdraw", interrupted)
        result = fruits(without_kiwis, "forget", "Kiwi", "--yes")
    assert result.exit_code == 130
    assert "Run the command again to finish." in result.output
    assert holdings(without_kiwis.store)["Kiwi"] == Holding(0, 0, 0, IMAGES)
    assert known_classes(without_kiwis.instance) == CLASSES
    assert fruits(without_kiwis, "forget", "Kiwi", "--yes").exit_code == 0
    assert list(holdings(without_kiwis.store)) == known_classes(without_kiwis.instance) == REMAINING


def test_without_hours_to_keep_the_files_go_at_once(without_kiwis: Platform) -> None:
    files = set((Path(without_kiwis.settings.store) / RAW_IMAGES).rglob("part-*"))
    result = fruits(without_kiwis, "forget", "Kiwi", "--yes", FRUITS_KEEP_HOURS="0")
    assert "FRUITS_KEEP_HOURS is 0, so nothing brings them back." in result.output
    assert sum(path.exists() for path in files) < len(files)


def test_json_names_what_was_taken_out_and_until_when_it_can_come_back(without_kiwis: Platform) -> None:
    assert fruits(without_kiwis, "forget", "Kiwi", "--json").exit_code == 2
    result = fruits(without_kiwis, "forget", "Kiwi", "--json", "--yes")
    said = json.loads(result.stdout)
    assert said["classes"] == {"Kiwi": WHOLE._asdict()}
    at, until = (datetime.fromisoformat(said[name]) for name in ("at", "restorable_until"))
    assert until - at == timedelta(hours=24)
    assert said["writing_runs"] == []


def test_a_store_that_is_still_to_convert_is_refused(without_kiwis: Platform) -> None:
    pointer = Path(without_kiwis.settings.store, PCA_FEATURES_CSV + "_versions", "current")
    old = Path(without_kiwis.settings.store, RAW_IMAGES, "current")
    shutil.copytree(pointer, old)
    for path in old.iterdir():
        said = json.loads(path.read_text().replace("pca_features_csv_versions", RAW_IMAGES))
        del said["sha256"]
        path.write_text(json.dumps(said))
    result = fruits(without_kiwis, "forget", "Kiwi", "--yes")
    assert result.exit_code == 1
    assert "is of release 0.1. The next run converts it" in result.output
