"""Large photos are decoded once, at ingestion, which stores the input of the model beside them."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pillow_heif
import pyarrow.parquet as pq
import pytest
from PIL import ExifTags, Image, ImageOps
from pyspark.sql import SparkSession

from spark_jobs.errors import FruitsError
from spark_jobs.inference import MODEL_BIN, MODEL_XML, compile_ir
from spark_jobs.photos.images import decode
from spark_jobs.photos.model_input import decoded_input, encoded_input, is_stored, model_input, reduced
from spark_jobs.store.schemas import MOBILENET_FEATURES, RAW_IMAGES
from tests.jobs import extract, ingest, table
from tests.support import WEIGHTS, current_files, publish_extractor

LIMIT = 120_000_000


def landscape(width: int, height: int, seed: int = 1) -> Image.Image:
    """A picture with soft shapes and a little noise, as a camera gives."""
    chance = np.random.default_rng(seed)
    shapes = Image.fromarray(chance.integers(0, 256, (12, 16, 3), np.uint8))
    pixels = np.asarray(shapes.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    noise = chance.integers(-3, 4, pixels.shape, np.int16)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))


def turned(picture: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=90, exif=exif)
    return content.getvalue()


@pytest.fixture
def kiwis(photos: Path) -> Path:
    """The small photos of Kiwi, and three photos of 1.2, 2 and 12 megapixels among them."""
    for number, size in enumerate([(1200, 1000), (2000, 1000), (4000, 3000)]):
        (photos / f"Kiwi/2_large_{number}.jpg").write_bytes(turned(landscape(*size, seed=number)))
    return photos


def differing(pixels: Image.Image, others: Image.Image) -> int:
    return int(np.abs(np.asarray(pixels).astype(int) - np.asarray(others)).max())


def test_the_input_is_stored_from_one_megapixel_on() -> None:
    assert not is_stored(100, 100)
    assert not is_stored(999, 1000)
    assert is_stored(1000, 1000)


def test_a_stored_input_has_the_pixels_of_the_picture() -> None:
    picture = landscape(700, 500)
    assert decoded_input(encoded_input(picture)).tobytes() == reduced(picture).tobytes()


@pytest.mark.parametrize(
    "content", [b"", b"RIFF", encoded_input(landscape(9, 9))[:-100], turned(landscape(9, 9))]
)
def test_bytes_that_are_no_stored_input_are_refused(content: bytes) -> None:
    with pytest.raises(FruitsError, match="the stored input of the model is damaged"):
        decoded_input(content)


def test_features_of_large_photos_are_bit_identical_to_those_of_a_plain_loop(
    spark: SparkSession, kiwis: Path, store: str, extractor: Path
) -> None:
    publish_extractor(store, extractor)
    assert ingest(spark, kiwis, store, ["Kiwi"]).failed == {}
    rows = table(store, RAW_IMAGES).set_index("path")
    large = rows[rows["input"].notna()]
    assert list(large.index) == [f"Kiwi/2_large_{number}.jpg" for number in range(3)]
    assert list(large["width"]) == [1000, 1000, 3000]
    for row in large.to_dict("records"):
        assert row["sha256_input"] == hashlib.sha256(row["input"]).hexdigest()
    extract(spark, store, ["Kiwi"])
    network = compile_ir((extractor / MODEL_XML).read_bytes(), (extractor / MODEL_BIN).read_bytes())
    for row in table(store, MOBILENET_FEATURES).to_dict("records"):
        picture = decode((kiwis / row["path"]).read_bytes(), LIMIT).image
        assert np.array_equal(row["features"], network(model_input(picture)))


def with_zeros(path: str, column: str, least: int) -> int:
    """Overwrites each chunk of a column that has at least `least` bytes. Returns the number of chunks."""
    with pq.ParquetFile(path) as file:
        number = file.schema_arrow.names.index(column)
        chunks = [file.metadata.row_group(group).column(number) for group in range(file.num_row_groups)]
    large = [chunk for chunk in chunks if chunk.total_compressed_size >= least]
    content = bytearray(Path(path).read_bytes())
    for chunk in large:
        start = chunk.data_page_offset
        content[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    Path(path).write_bytes(content)
    return len(large)


def test_extraction_reads_no_photo_that_has_an_input(
    spark: SparkSession, kiwis: Path, store: str, extractor: Path
) -> None:
    publish_extractor(store, extractor)
    ingest(spark, kiwis, store, ["Kiwi"])
    [file] = current_files(store, RAW_IMAGES)
    assert with_zeros(file, "content", 100_000) >= 1
    assert extract(spark, store, ["Kiwi"]).failed == {}


def test_an_input_that_was_changed_fails_its_class(
    spark: SparkSession, kiwis: Path, store: str, extractor: Path
) -> None:
    publish_extractor(store, extractor)
    ingest(spark, kiwis, store, ["Kiwi", "Banana"])
    file = next(path for path in current_files(store, RAW_IMAGES, ["Kiwi"]))
    assert with_zeros(file, "input", 10_000) >= 1
    report = extract(spark, store, ["Kiwi", "Banana"])
    assert report.failed.keys() == {"Kiwi"}
    assert "was removed or changed after it was written" in report.failed["Kiwi"]


def test_scaled_decoding_is_close_and_its_data_version_says_it(
    spark: SparkSession, kiwis: Path, store: str, extractor: Path
) -> None:
    publish_extractor(store, extractor)
    ingest(spark, kiwis, store, ["Kiwi"], scaled=True)
    exact = extract(spark, store, ["Kiwi"])
    of_exact = table(store, MOBILENET_FEATURES)
    scaled = extract(spark, store, ["Kiwi"], scaled=True)
    of_scaled = table(store, MOBILENET_FEATURES)
    assert exact.classes["Kiwi"].data_version != scaled.classes["Kiwi"].data_version
    for row in table(store, RAW_IMAGES).to_dict("records"):
        photo = (kiwis / row["path"]).read_bytes()
        large = row["input"] is not None
        close = decode(photo, LIMIT, scaled=True)
        assert (close.width, close.height) == (row["width"], row["height"])
        assert differing(reduced(close.image), reduced(decode(photo, LIMIT).image)) <= (2 if large else 0)
        if large:
            assert decoded_input(row["input"]).tobytes() == reduced(close.image).tobytes()
    same = [
        np.array_equal(first, second)
        for first, second in zip(of_exact["features"], of_scaled["features"], strict=True)
    ]
    assert same.count(True) == 8  # small photos are decoded in the same way


def test_features_of_the_other_decoding_are_computed_from_the_photo(
    spark: SparkSession, kiwis: Path, store: str, extractor: Path, tmp_path: Path
) -> None:
    for folder, scaled in (("scaled", True), ("exact", False)):
        publish_extractor(f"{store}/{folder}", extractor)
        ingest(spark, kiwis, f"{store}/{folder}", ["Kiwi"], scaled=scaled)
        extract(spark, f"{store}/{folder}", ["Kiwi"], scaled=False)
    first, second = (table(f"{store}/{folder}", MOBILENET_FEATURES) for folder in ("scaled", "exact"))
    assert np.array_equal(np.stack(first["features"]), np.stack(second["features"]))


def test_photos_with_and_without_an_input_have_row_groups_of_their_own(
    spark: SparkSession, kiwis: Path, store: str
) -> None:
    ingest(spark, kiwis, store, ["Kiwi"])
    [path] = current_files(store, RAW_IMAGES)
    with pq.ParquetFile(path) as file:
        groups = [file.read_row_group(number) for number in range(file.num_row_groups)]
    for group in groups:
        assert group.column("input").null_count in (0, group.num_rows)
    assert sum(group.num_rows for group in groups) == 11


def test_features_of_phone_photos_are_those_of_keras_on_the_pixels_of_pillow(
    spark: SparkSession, photos: Path, store: str, extractor: Path
) -> None:
    from keras.applications.mobilenet_v2 import preprocess_input

    from fruits_assets.model.convert import load_model
    from fruits_assets.model.weights import find_weights

    pillow_heif.register_heif_opener()
    pictures = {
        "turned.jpg": turned(landscape(1600, 1200)),
        "12 megapixels.jpg": turned(landscape(4000, 3000)),
    }
    for format in ("HEIF", "AVIF"):
        content = io.BytesIO()
        landscape(1200, 900).save(content, format)
        pictures[f"photo.{format.lower()}"] = content.getvalue()
    for name, content_of in pictures.items():
        (photos / "Kiwi" / name).write_bytes(content_of)
    publish_extractor(store, extractor)
    ingest(spark, photos, store, ["Kiwi"])
    extract(spark, store, ["Kiwi"])
    features = table(store, MOBILENET_FEATURES).set_index("path")["features"]
    model = load_model(find_weights(WEIGHTS))
    for name in pictures:
        with Image.open(photos / "Kiwi" / name) as photo:
            upright = ImageOps.exif_transpose(photo).convert("RGB")
        pixels = np.asarray(upright.resize((224, 224), Image.Resampling.BICUBIC), np.float32)
        expected = np.asarray(model(preprocess_input(pixels[np.newaxis]), training=False))[0]
        assert np.abs(features[f"Kiwi/{name}"] - expected).max() < 1e-4
