"""Observations of the photos: partitions, data versions, and the size of their events."""

import dagster as dg

from fruits_assets.partitions import known_classes
from tests.fruits_assets.dagster_platform import CLASSES, IMAGES, MAX_EVENT_BYTES, Platform


def test_an_observation_registers_each_class_with_its_own_data_version(finished: Platform) -> None:
    assert known_classes(finished.instance) == CLASSES
    records = finished.instance.fetch_observations(dg.AssetKey("fruit_photos"), limit=100).records
    observations = [record.asset_observation for record in records if record.asset_observation]
    versions = {o.partition: (o.tags or {})["dagster/data_version"] for o in observations if o.partition}
    assert sorted(versions) == CLASSES
    assert len(set(versions.values())) == len(CLASSES)
    [summary] = [observation.metadata for observation in observations if not observation.partition]
    assert summary["images"].value == IMAGES * len(CLASSES)
    assert summary["new_classes"].value == CLASSES
    assert summary["gone_classes"].value == []


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
