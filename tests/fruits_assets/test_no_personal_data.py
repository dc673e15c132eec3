"""Neither the store nor Dagster's home keeps the position, the device or the author of a photo."""

import base64
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from fruits_assets.pipeline import run_pipeline
from spark_jobs.store.schemas import RAW_IMAGES
from tests.every_byte import every_byte, files_below
from tests.fruits_assets.dagster_platform import IMAGES, Platform
from tests.jobs import table
from tests.photo_metadata import FORMATS, PLANTED, SECRET, personal_tags, picture, planted
from tests.support import numbered_samples, publish_extractor

pytestmark = pytest.mark.exiftool

LABELS = ["Banana", "Kiwi", "Lemon"]


@pytest.fixture(scope="module")
def run(spark: SparkSession, extractor: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform after a run on photos of each format, small and large, with every kind of metadata."""
    folder = tmp_path_factory.mktemp("run")
    publish_extractor(str(folder / "store"), extractor)
    platform = Platform(folder)
    numbered_samples(platform.photos, IMAGES)
    for label in {path.name for path in platform.photos.iterdir()}.difference(LABELS):
        shutil.rmtree(platform.photos / label)
    for number, (format, options) in enumerate(FORMATS):
        for side in (160, 1200):
            content = planted(picture(side, side), format, options, folder)
            name = f"planted-{number}-{side}.{format.lower()}"
            (platform.photos / LABELS[number % len(LABELS)] / name).write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(platform.home))
        assert run_pipeline(platform.settings, [], {}).failed_classes == {}
    yield platform
    platform.close()


def previews(platform: Platform) -> Iterator[bytes]:
    for label in LABELS:
        for text in platform.metadata(RAW_IMAGES, label).values():
            for encoded in re.findall(r"data:image/\w+;base64,([\w+/=]+)", str(text)):
                yield base64.b64decode(encoded)


def test_no_picture_of_the_store_says_anything_about_its_maker(run: Platform, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    rows = table(run.settings.store, RAW_IMAGES)
    found = [*rows["content"], *rows["input"].dropna(), *previews(run)]
    assert len(rows["input"].dropna()) == len(FORMATS)
    assert len(found) > len(rows) + len(FORMATS)
    for number, content in enumerate(found):
        (pictures / str(number)).write_bytes(content)
    assert personal_tags(pictures) == []
    positions = sum(run.metadata(RAW_IMAGES, label)["with_position"] for label in LABELS)
    assert positions == 2 * sum(format != "BMP" for format, _ in FORMATS)


def test_no_byte_of_the_store_and_of_dagsters_home_has_a_planted_word(run: Platform) -> None:
    words = {SECRET, *(value.encode() for value in PLANTED.values() if len(value) > 6)}
    for folder in (Path(run.settings.store), run.home):
        for path, content in every_byte(files_below(folder)):
            assert not [word for word in words if word in content], path


def test_the_planted_words_are_found_where_metadata_is_kept(
    untouched: Platform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So the searches of the tests above would find them."""
    numbered_samples(untouched.photos, IMAGES)
    (untouched.photos / "Kiwi/planted.jpg").write_bytes(planted(picture(160, 160), "JPEG", {}, tmp_path))
    monkeypatch.setenv("DAGSTER_HOME", str(untouched.home))
    settings = untouched.settings.model_copy(update={"keep_metadata": True})
    run_pipeline(settings, [], {})
    found = [place for place, content in every_byte(files_below(Path(settings.store))) if SECRET in content]
    assert {Path(place).parts[0] for place in found} == {RAW_IMAGES}
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, content in enumerate(table(settings.store, RAW_IMAGES)["content"]):
        (pictures / str(number)).write_bytes(content)
    assert {"EXIF:Artist", "EXIF:GPSLatitude", "XMP:City", "IPTC:By-line"} <= {
        tag for _, tag in personal_tags(pictures)
    }
