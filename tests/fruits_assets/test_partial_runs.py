"""Runs of one class or of a contiguous range of classes."""

import math
import shutil
from pathlib import Path

from fruits_assets.costs.run_records import RUN_RECORDS
from spark_jobs.store.leases import held_lease
from spark_jobs.store.parquet import PartWriter, read_row_groups, vectors_column, vectors_in
from spark_jobs.store.schemas import ENVIRONMENT_COMPARISON, MOBILENET_FEATURES, PCA_FEATURES_CSV, SCHEMAS
from spark_jobs.store.tables import replace_classes
from tests.fruits_assets.dagster_platform import BY_CLASS, CLASSES, IMAGES, Platform, log_messages
from tests.support import current_versions


def test_a_run_of_a_range_changes_only_the_classes_of_the_range(platform: Platform) -> None:
    before = {label: len(platform.events("raw_images", label)) for label in CLASSES}
    files = current_versions(platform.store, PCA_FEATURES_CSV)
    assert platform.recompute(BY_CLASS, "Huckleberry", "Lemon").success
    after = {label: len(platform.events("raw_images", label)) for label in CLASSES}
    assert [label for label in CLASSES if after[label] > before[label]] == ["Huckleberry", "Kiwi", "Lemon"]
    replaced = current_versions(platform.store, PCA_FEATURES_CSV)
    assert [label for label in CLASSES if replaced[label] != files[label]] == ["Huckleberry", "Kiwi", "Lemon"]
    assert platform.out_of_sync() == []


def test_a_run_of_one_class_writes_records_that_count_one_class(platform: Platform) -> None:
    before = platform.records()
    run = platform.recompute(BY_CLASS, "Kiwi")
    records = platform.records(run)
    assert set(records) == set(BY_CLASS)
    for record in records.values():
        assert (record.images, record.classes, record.known_classes) == (IMAGES, 1, len(CLASSES))
    assert platform.records() == before
    assert platform.run([ENVIRONMENT_COMPARISON]).success
    assert "1 of 6" in platform.metadata(ENVIRONMENT_COMPARISON)["comparison"]


def test_a_run_warns_and_succeeds_if_it_cannot_write_its_record(platform: Platform) -> None:
    shutil.rmtree(Path(platform.settings.store) / RUN_RECORDS)
    (Path(platform.settings.store) / RUN_RECORDS).write_text("not a folder")
    run = platform.recompute(["raw_images"], "Kiwi")
    assert run.success
    [warning] = log_messages(platform, run, "WARNING")
    assert warning.startswith("This run will be missing in environment_comparison")


def test_checks_name_every_failing_class_also_if_the_run_is_of_another_class(platform: Platform) -> None:
    def falsify(label: str, value: float) -> None:
        [part] = current_versions(platform.store, MOBILENET_FEATURES)[label].parts
        schema = SCHEMAS[MOBILENET_FEATURES]
        writer = PartWriter(platform.store, f"{MOBILENET_FEATURES}/false", schema, part.made_with)
        for rows in read_row_groups(platform.store, part.path, range(len(part.row_groups)), schema.names):
            vectors = vectors_in(rows).copy()
            vectors[0] = value
            writer.write(rows.set_column(3, "features", vectors_column(vectors)))
        with held_lease(platform.store, "false") as lease:
            replace_classes(platform.store, MOBILENET_FEATURES, {label: [writer.close()]}, lease)

    falsify("Lemon", math.nan)
    falsify("Orange", 1.5)
    assert platform.run(BY_CLASS, "Kiwi").success
    assert platform.failing_classes("finite_and_varied") == ["Lemon", "Orange"]
    assert platform.failing_classes("one_feature_per_image") == []
