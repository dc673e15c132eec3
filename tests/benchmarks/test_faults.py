"""The check that the table of faults relies on finds faults, and finds none in a whole store."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from benchmarks.faults.check import differences, torn
from spark_jobs.store.pointers import current_by_class
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_FEATURES_CSV, RAW_IMAGES
from tests.conftest import CLASSES
from tests.jobs import extract, ingest, run_jobs
from tests.support import current_files


@pytest.fixture(scope="module")
def whole(
    spark: SparkSession, sample_photos: Path, extractor: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    store = tmp_path_factory.mktemp("faults") / "store"
    run_jobs(spark, sample_photos, str(store), extractor, CLASSES)
    return store


@pytest.fixture
def copy(whole: Path, store: str) -> str:
    shutil.copytree(whole, store)
    return store


def test_a_whole_store_has_no_fault_and_equals_its_copy(whole: Path, copy: str) -> None:
    assert torn(copy) == []
    assert differences(copy, str(whole)) == []


def lose_photos(store: str) -> None:
    Path(current_files(store, RAW_IMAGES, ["Kiwi"])[0]).unlink()


def change_features(store: str) -> None:
    file = Path(current_files(store, MOBILENET_FEATURES, ["Kiwi"])[0])
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def swap_csvs(store: str) -> None:
    root = open_root(store)
    csvs = current_by_class(root, PCA_FEATURES_CSV)
    root.write(csvs["Kiwi"].parts[0].path, root.read(csvs["Banana"].parts[0].path))


@pytest.mark.parametrize("damage", [lose_photos, change_features, swap_csvs])
def test_damage_is_found_in_its_class(copy: str, damage: Callable[[str], None]) -> None:
    damage(copy)
    found = torn(copy)
    assert found
    assert all("Kiwi" in fault for fault in found)


def test_another_photo_is_a_difference(spark: SparkSession, whole: Path, copy: str, photos: Path) -> None:
    shutil.copy(photos / "Banana" / "1_100.jpg", photos / "Kiwi" / "1_100.jpg")
    ingest(spark, photos, copy, CLASSES)
    extract(spark, copy, CLASSES)
    assert differences(copy, str(whole)) == ["raw_images: other rows", "mobilenet_features: other features"]
