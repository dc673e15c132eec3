"""What Dagster marks as out of sync after photos change, and the runs that bring it back in sync."""

import os
import shutil

import dagster as dg

from fruits_assets.figures import CLASS_ROWS
from spark_jobs.store.pointers import current_one
from spark_jobs.store.schemas import PCA_MODEL
from tests.fruits_assets.dagster_platform import BY_CLASS, CLASSES, IMAGES, Platform, add_photo, log_messages
from tests.support import current_versions


def test_a_new_photo_makes_its_class_stale_from_asset_to_asset(platform: Platform) -> None:
    model = current_one(platform.store, PCA_MODEL)
    assert model
    add_photo(platform, "Kiwi")
    assert platform.out_of_sync() == []
    platform.observe()
    assert platform.out_of_sync() == ["raw_images Kiwi"]

    assert platform.run(["raw_images"], "Kiwi").success
    assert platform.out_of_sync() == ["mobilenet_features Kiwi"]
    assert platform.metadata("raw_images", "Kiwi")[CLASS_ROWS] == IMAGES + 1
    assert platform.failing_classes("counts_reconcile") == []
    # What makes features stale says so, not only what mends them.
    assert platform.failing_classes("one_feature_per_image") == ["Kiwi"]
    assert platform.run(["mobilenet_features"], "Lemon").success
    assert platform.failing_classes("one_feature_per_image") == ["Kiwi"]
    assert platform.failing_classes("one_row_per_feature") == []
    assert platform.run(["mobilenet_features"], "Kiwi").success
    assert platform.failing_classes("one_feature_per_image") == []
    assert platform.out_of_sync("pca_model") == ["pca_model"]
    assert not platform.check("fitted_on_current_features").passed
    assert platform.out_of_sync(*BY_CLASS) == ["pca_features_csv Kiwi"]
    assert platform.failing_classes("one_row_per_feature") == ["Kiwi"]

    # A run of one class uses the current model, names it in the log, and does not fit it again.
    assert platform.run(["pca_features_csv"], "Lemon").success
    assert platform.failing_classes("one_row_per_feature") == ["Kiwi"]
    run = platform.run(["pca_features_csv"], "Kiwi")
    assert platform.failing_classes("one_row_per_feature") == []
    assert platform.failing_classes("one_model") == []
    assert current_one(platform.store, PCA_MODEL) == model
    assert any(
        f"{IMAGES * len(CLASSES)} images of {len(CLASSES)} classes" in message and model.directory in message
        for message in log_messages(platform, run)
    )
    assert platform.out_of_sync("pca_model") == ["pca_model"]

    # A new model makes the CSVs of all classes stale.
    assert platform.run(["pca_model"]).success
    assert platform.metadata("pca_model")["images"] == IMAGES * len(CLASSES) + 1
    csvs = [f"pca_features_csv {label}" for label in CLASSES]
    assert platform.out_of_sync(*BY_CLASS) == csvs
    assert platform.failing_classes("one_model") == CLASSES
    assert platform.check("fitted_on_current_features").passed
    assert platform.run(["pca_features_csv"], "Kiwi").success
    assert platform.failing_classes("one_model") == [label for label in CLASSES if label != "Kiwi"]
    assert platform.check("one_model").severity != dg.AssetCheckSeverity.ERROR


def test_photos_rewritten_with_the_same_bytes_make_only_raw_images_stale(platform: Platform) -> None:
    before = platform.version("raw_images", "Banana")
    for photo in (platform.photos / "Banana").iterdir():
        os.utime(photo, (1_700_000_000, 1_700_000_000))
    platform.observe()
    assert platform.out_of_sync() == ["raw_images Banana"]
    assert platform.run(["raw_images"], "Banana").success
    assert platform.version("raw_images", "Banana") == before
    assert platform.out_of_sync() == []


def test_a_class_that_a_run_read_before_any_observation_stays_in_sync(platform: Platform) -> None:
    add_photo(platform, "Kiwi")
    assert platform.run(BY_CLASS, "Kiwi").success
    assert platform.observe().success
    assert platform.out_of_sync(*BY_CLASS) == []


def test_a_removed_photo_makes_its_class_stale(platform: Platform) -> None:
    (platform.photos / "Banana" / "0_100.jpg").unlink()
    platform.observe()
    assert platform.out_of_sync() == ["raw_images Banana"]


def test_a_class_that_lost_all_photos_keeps_its_last_version_with_a_warning(platform: Platform) -> None:
    last = current_versions(platform.store, "raw_images")["Huckleberry"]
    shutil.rmtree(platform.photos / "Huckleberry")
    observation = platform.observe()
    assert any("Huckleberry" in message for message in log_messages(platform, observation, "WARNING"))
    assert platform.out_of_sync() == []
    run = platform.run(["raw_images"], "Banana", "Kiwi")
    assert run.success
    assert any("Huckleberry" in message for message in log_messages(platform, run, "WARNING"))
    assert current_versions(platform.store, "raw_images")["Huckleberry"] == last
    assert platform.metadata("raw_images", "Huckleberry")["without_photos"] is True
    assert platform.version("raw_images", "Huckleberry") == last.data_version
    assert platform.records(run) == {}  # nothing has changed, so no job ran
    assert platform.out_of_sync() == []
