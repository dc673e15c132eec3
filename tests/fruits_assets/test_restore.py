"""`fruits restore`, as a user types it."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from datetime import datetime, timedelta

import dagster as dg
import pytest

from fruits_assets.partitions import known_classes
from spark_jobs.store.classes import holdings
from spark_jobs.store.pointers import current_by_class, current_one, publish
from spark_jobs.store.schemas import (
    FEATURE_EXTRACTOR,
    MOBILENET_FEATURES,
    PCA_FEATURES_CSV,
    PCA_MODEL,
    RAW_IMAGES,
)
from spark_jobs.store.tables import current
from tests.fruits_assets.commands import fruits
from tests.fruits_assets.dagster_platform import BY_CLASS, CLASSES, IMAGES, Platform, add_photo

TABLES = [RAW_IMAGES, MOBILENET_FEATURES]


def run_of(platform: Platform, asset: str, label: str) -> str:
    """The id of the Dagster run that materialized a class last."""
    filters = dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=[label])
    [record] = platform.instance.fetch_materializations(filters, limit=1).records
    return record.run_id


def test_a_forgotten_class_comes_back_by_the_command_that_forget_prints(platform: Platform) -> None:
    then = {table: current(platform.store, table)["Kiwi"] for table in TABLES}
    (platform.photos / "Kiwi").rename(platform.photos.parent / "kiwis")
    said = fruits(platform, "forget", "Kiwi", "--yes").output
    [command] = re.findall(r"fruits (restore Kiwi --to \S+)", said)
    # Meanwhile the other classes get another model.
    first, last = CLASSES[0], CLASSES[-1]
    config = {PCA_MODEL: {"config": {"components": 3}}}
    assert platform.run([PCA_MODEL, PCA_FEATURES_CSV], first, last, config).success
    model = current_one(platform.store, PCA_MODEL)
    assert model

    result = fruits(platform, *shlex.split(command))
    assert result.exit_code == 0, result.output
    assert f"Kiwi  {IMAGES} images, 0 in quarantine" in result.output
    assert {table: current(platform.store, table)["Kiwi"] for table in TABLES} == then
    assert known_classes(platform.instance) == [*(label for label in CLASSES if label != "Kiwi"), "Kiwi"]
    csv = current_by_class(platform.store, PCA_FEATURES_CSV)["Kiwi"]
    assert csv.inputs == {
        MOBILENET_FEATURES: then[MOBILENET_FEATURES].data_version,
        PCA_MODEL: model.data_version,
    }
    for check in ("one_model", "one_row_per_feature", "copies_match"):
        assert platform.failing_classes(check) == []
    for table in TABLES:
        assert platform.version(table, "Kiwi") == then[table].data_version
    assert platform.out_of_sync(*BY_CLASS) == []
    (platform.photos.parent / "kiwis").rename(platform.photos / "Kiwi")
    platform.observe()
    assert platform.out_of_sync(*BY_CLASS) == []


def test_a_class_comes_back_as_a_run_left_it_and_its_photos_are_then_newer(platform: Platform) -> None:
    then = {table: current(platform.store, table) for table in TABLES}
    run = run_of(platform, RAW_IMAGES, "Kiwi")
    for label in ("Kiwi", "Lemon"):
        add_photo(platform, label)
    platform.observe()
    assert platform.run_everything().success
    lemons = {table: current(platform.store, table)["Lemon"] for table in TABLES}
    result = fruits(platform, "restore", "Kiwi", "--run", run[:8], "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1]) == {
        "images": {"Kiwi": IMAGES},
        "quarantined_images": {},
        "failed_classes": {},
    }
    for table in TABLES:
        assert current(platform.store, table)["Kiwi"] == then[table]["Kiwi"]
        assert current(platform.store, table)["Lemon"] == lemons[table]
    assert current_by_class(platform.store, PCA_FEATURES_CSV)["Kiwi"].rows == IMAGES
    assert platform.out_of_sync(*BY_CLASS) == ["raw_images Kiwi"]
    assert platform.failing_classes("one_row_per_feature") == []
    # The next run of the class reads its photos again.
    assert platform.run(BY_CLASS, "Kiwi").success
    assert current(platform.store, RAW_IMAGES)["Kiwi"].rows == IMAGES + 1
    assert platform.out_of_sync(*BY_CLASS) == []


def test_features_of_another_extractor_are_extracted_again_from_the_restored_images(
    platform: Platform,
) -> None:
    moment = datetime.now().astimezone()
    extractor = current_one(platform.store, FEATURE_EXTRACTOR)
    assert extractor
    publish(platform.store, FEATURE_EXTRACTOR, [replace(extractor, data_version="another")])
    assert platform.run(BY_CLASS, CLASSES[0], CLASSES[-1]).success
    result = fruits(platform, "restore", "Kiwi", "Banana", "--to", moment.isoformat())
    assert result.exit_code == 0, result.output
    features = current(platform.store, MOBILENET_FEATURES)
    assert {version.inputs[FEATURE_EXTRACTOR] for version in features.values()} == {"another"}
    assert platform.failing_classes("one_feature_per_image") == []
    assert platform.failing_classes("one_row_per_feature") == []


def test_a_new_machine_restores_a_class_that_its_dagster_never_saw(platform: Platform) -> None:
    moment = datetime.now().astimezone()
    shutil.rmtree(platform.photos / "Kiwi")
    assert fruits(platform, "forget", "Kiwi", "--yes").exit_code == 0
    shutil.rmtree(platform.home)
    new = Platform(platform.photos.parent)
    result = fruits(new, "restore", "Kiwi", "--to", moment.isoformat())
    assert result.exit_code == 0, result.output
    assert known_classes(new.instance) == ["Kiwi"]
    assert new.version(RAW_IMAGES, "Kiwi") == current(new.store, RAW_IMAGES)["Kiwi"].data_version
    assert new.out_of_sync(PCA_FEATURES_CSV) == []
    new.close()


def test_without_a_model_the_tables_come_back_and_the_csv_is_said_to_be_missing(platform: Platform) -> None:
    moment = datetime.now().astimezone()
    shutil.rmtree(platform.photos / "Kiwi")
    assert fruits(platform, "forget", "Kiwi", "--yes").exit_code == 0
    platform.store.remove_file(f"{PCA_MODEL}/current.json")
    result = fruits(platform, "restore", "Kiwi", "--to", moment.isoformat())
    assert result.exit_code == 1
    assert "failed  Kiwi: there is no PCA model yet" in result.output
    assert holdings(platform.store)["Kiwi"].features == IMAGES


@pytest.mark.parametrize(
    ("options", "status", "sentence"),
    [
        ([], 2, "Give either --to TIME or --run ID."),
        (["--to", "2026-11-23T10:00", "--run", "1"], 2, "Give either --to TIME or --run ID."),
        (["--to", "yesterday"], 1, "--to 'yesterday' is no time. Write it as 2026-11-23T10:00"),
        (["--to", (datetime.now() + timedelta(days=1)).isoformat()], 1, "lies ahead"),
        (["--to", "2020-01-01"], 1, "The table raw_images had no class 'Kiwi' at 2020-01-01T00:00:00.000"),
        (["--run", "0000"], 1, "The logs of the tables name no run '0000'. The last runs: "),
    ],
)
def test_a_moment_that_cannot_be_restored_is_refused_with_a_sentence(
    finished: Platform, options: list[str], status: int, sentence: str
) -> None:
    before = holdings(finished.store)
    result = fruits(finished, "restore", "Kiwi", *options)
    assert result.exit_code == status
    assert sentence in result.output
    assert "Traceback" not in result.output
    assert holdings(finished.store) == before
