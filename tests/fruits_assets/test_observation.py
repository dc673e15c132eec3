"""Observations of the photos: partitions, data versions, and the size of their events."""

import shutil

import dagster as dg

from fruits_assets.partitions import known_classes
from tests.fruits_assets.dagster_platform import (
    CLASSES,
    IMAGES,
    MAX_EVENT_BYTES,
    Platform,
    add_photo,
    log_messages,
)


def test_an_observation_registers_each_class_with_its_own_data_version(finished: Platform) -> None:
    assert known_classes(finished.instance) == CLASSES
    records = finished.instance.fetch_observations(dg.AssetKey("fruit_photos"), limit=100).records
    observations = [record.asset_observation for record in records if record.asset_observation]
    versions = {o.partition: (o.tags or {})["dagster/data_version"] for o in observations if o.partition}
    assert sorted(versions) == CLASSES
    assert len(set(versions.values())) == len(CLASSES)
    [summary] = [observation.metadata for observation in observations if not observation.partition]
    assert summary["photos"].value == IMAGES * len(CLASSES)
    assert summary["new_classes"].value == CLASSES
    assert summary["gone_classes"].value == []


def test_an_observation_names_the_classes_whose_photos_have_changed(platform: Platform) -> None:
    add_photo(platform, "Kiwi")
    (platform.photos / "Lemon" / "0_100.jpg").unlink()
    run = platform.observe()
    said = "Photos are new or have changed in 2 classes: Kiwi, Lemon"
    assert any(message.endswith(said) for message in log_messages(platform, run, "INFO"))
    records = platform.instance.fetch_observations(dg.AssetKey("fruit_photos"), limit=3).records
    summary, *changed = [record.asset_observation for record in records if record.asset_observation]
    assert (summary.partition, summary.metadata["changed_classes"].value) == (None, ["Kiwi", "Lemon"])
    images = {observation.partition: observation.metadata["photos"].value for observation in changed}
    assert images == {"Kiwi": IMAGES + 1, "Lemon": IMAGES - 1}


def test_refused_folders_and_classes_without_photos_are_failed_checks(platform: Platform) -> None:
    shutil.rmtree(platform.photos / "Kiwi")
    (platform.photos / "a\nb").mkdir()
    shutil.copy(platform.photos / "Lemon" / "0_100.jpg", platform.photos / "a\nb")
    assert platform.observe().success
    gone, refused = platform.check("no_class_gone"), platform.check("no_folder_refused")
    assert (gone.passed, refused.passed) == (False, False)
    assert "Kiwi" in str(gone.description)
    assert "fruits forget" in str(gone.description)
    assert "'a\\nb'" in str(refused.description)


def test_an_observation_of_many_long_class_names_stays_below_30_kilobytes(untouched: Platform) -> None:
    for number in range(120):
        folder = untouched.photos / f"{number:03}{'🍎' * 62}"
        folder.mkdir(parents=True)
        (folder / "photo.jpg").touch()
    run = untouched.observe()
    assert len(known_classes(untouched.instance)) == 120
    sizes = [len(dg.serialize_value(entry)) for entry in untouched.instance.all_logs(run.run_id)]
    assert max(sizes) < MAX_EVENT_BYTES


def test_a_second_observation_of_unchanged_photos_leaves_everything_in_sync(platform: Platform) -> None:
    assert platform.observe().success
    assert platform.out_of_sync() == []
