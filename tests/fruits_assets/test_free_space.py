"""A run that has too little room says so before it begins."""

from pathlib import Path

import pytest

from fruits_assets.free_space import check_free_space
from resources.settings import Settings
from spark_jobs.errors import FruitsError
from spark_jobs.store.photos import Photo
from tests.fruits_assets.conftest import name_folder


def kiwis(photos: int) -> dict[str, list[Photo]]:
    """A class of photos of 100 KB each."""
    return {"Kiwi": [Photo(f"Kiwi/{number}.jpg", 100_000, 0) for number in range(photos)]}


def test_a_store_without_room_for_the_photos_is_named(small_disk: Path, elsewhere: None) -> None:
    settings = Settings(images="/photos", store=str(small_disk / "new" / "store"))
    check_free_space(settings, kiwis(10))
    with pytest.raises(FruitsError, match=rf"^FRUITS_STORE={small_disk}/new/store: 1\d MB are free.* 2\d MB"):
        check_free_space(settings, kiwis(100))


@pytest.mark.parametrize("setting", ["DAGSTER_HOME", "SPARK_LOCAL_DIRS", "TMPDIR"])
def test_other_places_without_room_are_named(
    small_disk: Path, elsewhere: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    settings = Settings(images="/photos", store=str(tmp_path / "store"))
    (small_disk / "folder").mkdir()
    name_folder(monkeypatch, setting, small_disk / "folder")
    check_free_space(settings, kiwis(1))
    (small_disk / "file").write_bytes(bytes(15_500_000))
    with pytest.raises(FruitsError, match=rf"^{setting}={small_disk}/folder: . MB are free"):
        check_free_space(settings, kiwis(1))


def test_places_on_one_disk_are_added_up(
    small_disk: Path, elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(images="/photos", store=str(small_disk / "store"))
    check_free_space(settings, kiwis(1))
    monkeypatch.setenv("DAGSTER_HOME", str(small_disk))
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(small_disk))
    places = r"^DAGSTER_HOME=.* and FRUITS_STORE=.* and SPARK_LOCAL_DIRS=.*Make room"
    with pytest.raises(FruitsError, match=places):
        check_free_space(settings, kiwis(10))


def test_a_store_on_s3_needs_no_room_here(small_disk: Path, elsewhere: None) -> None:
    check_free_space(Settings(images="s3://b/photos", store="s3://b/store"), kiwis(100_000))
