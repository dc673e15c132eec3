"""A photo that is not plainly cheap is decoded in a child process: it can hurt only itself."""

import fcntl
import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import ExifTags, Image
from pyspark.sql import SparkSession

from spark_jobs.photos import guarded, jpeg
from spark_jobs.photos.guarded import decode_guarded, is_cheap
from spark_jobs.photos.images import BadImage, decode, size_in_header
from spark_jobs.photos.limits import Limits
from spark_jobs.photos.model_input import model_input, reduced
from spark_jobs.store.schemas import QUARANTINED_IMAGES, RAW_IMAGES
from tests.jobs import extract, ingest, table
from tests.support import publish_extractor

LIMIT = 120_000_000

pillow_heif.register_heif_opener()


def noise(width: int, height: int) -> Image.Image:
    small = np.random.default_rng(1).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, format, **options)
    return content.getvalue()


@pytest.fixture(scope="module")
def large() -> bytes:
    """A photo of 6 megapixels, turned by EXIF."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 8
    return encoded(noise(3000, 2000), "JPEG", exif=exif)


@pytest.fixture(scope="module")
def slow() -> bytes:
    """A progressive JPEG of 90 scans, which takes seconds."""
    content = encoded(noise(4000, 4000), "JPEG", progressive=True, quality=30)
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * (90 - jpeg.scans(content)) + content[-2:]


@pytest.fixture(autouse=True)
def child(monkeypatch: pytest.MonkeyPatch) -> Iterator[guarded._Child]:
    child = guarded._Child()
    monkeypatch.setattr(guarded, "_child", child)
    yield child
    child._end()


def reason(content: bytes, limits: Limits) -> str:
    with pytest.raises(BadImage) as caught:
        decode_guarded(content, LIMIT, limits)
    return str(caught.value)


def meanwhile(child: guarded._Child, number: int) -> None:
    """Sends a signal to the child, once it runs."""

    def send() -> None:
        while child._process is None:
            time.sleep(0.01)
        time.sleep(0.5)
        os.kill(child._process.pid, number)

    threading.Thread(target=send, daemon=True).start()


@pytest.mark.parametrize("scaled", [False, True])
def test_a_child_returns_the_input_of_the_model_as_the_worker_itself(large: bytes, scaled: bool) -> None:
    whole = decode(large, LIMIT, scaled=scaled)
    found = decode_guarded(large, LIMIT, Limits(), scaled=scaled)
    assert (found.width, found.height, found.format) == (2000, 3000, "JPEG")
    assert found.image.tobytes() == reduced(whole.image).tobytes()
    assert reduced(found.image).tobytes() == found.image.tobytes()
    assert np.array_equal(model_input(found.image), model_input(whole.image))


def test_a_cheap_photo_starts_no_child(child: guarded._Child) -> None:
    content = encoded(noise(1600, 1200), "JPEG")
    assert is_cheap(content)
    assert decode_guarded(content, LIMIT, Limits()).image.size == (1600, 1200)
    assert child._process is None


@pytest.mark.parametrize("format", ["TIFF", "AVIF", "HEIF"])
def test_a_photo_whose_size_a_simple_header_does_not_tell_is_not_cheap(format: str) -> None:
    assert not is_cheap(encoded(noise(80, 80), format))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_the_size_in_the_header_is_that_of_the_picture(format: str) -> None:
    assert size_in_header(encoded(noise(88, 40), format)) == (88, 40)
    assert size_in_header(b"") is None
    assert size_in_header(encoded(noise(88, 40), format)[:6]) in (None, (1, 1), (0, 0))


def test_a_photo_that_takes_too_much_time_is_bad_and_the_next_photo_is_not(slow: bytes, large: bytes) -> None:
    assert reason(slow, Limits(seconds=1)) == "decoding it takes more than 1 s"
    assert decode_guarded(large, LIMIT, Limits(seconds=1)).width == 2000


def test_a_photo_that_takes_too_much_memory_is_bad_and_the_next_photo_is_not(large: bytes) -> None:
    content = encoded(Image.new("RGB", (9000, 9000)), "PNG")
    limits = Limits(memory=200_000_000)
    assert reason(content, limits) == "not enough memory to decode it"
    assert decode_guarded(large, LIMIT, limits).width == 2000


def test_a_photo_whose_decoder_crashes_is_bad_and_the_next_photo_is_not(
    child: guarded._Child, slow: bytes, large: bytes
) -> None:
    meanwhile(child, signal.SIGSEGV)
    assert reason(slow, Limits()) == "its decoder crashed: signal 11"
    assert decode_guarded(large, LIMIT, Limits()).width == 2000


def test_a_photo_whose_decoder_stands_still_is_bad(child: guarded._Child, slow: bytes) -> None:
    meanwhile(child, signal.SIGSTOP)
    assert reason(slow, Limits(seconds=0.9)) == "decoding it takes more than 2.7 s"


def test_a_child_that_stands_still_before_it_has_read_a_photo_makes_the_photo_bad(
    child: guarded._Child, large: bytes
) -> None:
    process = child._started(Limits().memory)
    os.kill(process.pid, signal.SIGSTOP)
    content = large + bytes(8 << 20)  # more than a pipe holds
    assert reason(content, Limits(seconds=0.3)) == "decoding it takes more than 0.9 s"


def test_a_user_who_may_have_no_larger_pipes_gets_the_same_picture(
    child: guarded._Child, large: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pipe(7), "/proc/sys/fs/pipe-user-pages-soft": https://man7.org/linux/man-pages/man7/pipe.7.html
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    assert decode_guarded(large, LIMIT, Limits()).width == 2000


def test_time_is_counted_for_each_photo_by_itself(large: bytes) -> None:
    for _ in range(25):
        decode_guarded(large, LIMIT, Limits(seconds=1))


def test_hostile_photos_are_named_and_the_others_become_features(
    spark: SparkSession, photos: Path, store: str, extractor: Path, slow: bytes, large: bytes
) -> None:
    (photos / "Kiwi/slow.jpg").write_bytes(slow)
    (photos / "Kiwi/large.jpg").write_bytes(large)
    (photos / "Kiwi/wide.png").write_bytes(encoded(Image.new("RGB", (9000, 9000)), "PNG"))
    limits = Limits(seconds=1, memory=200_000_000)
    report = ingest(spark, photos, store, ["Kiwi"], limits=limits, max_bad_share=0.5, max_pixels=LIMIT)
    assert report.failed == {}
    bad = table(store, QUARANTINED_IMAGES).set_index("path")["reason"]
    assert dict(bad) == {
        "Kiwi/slow.jpg": "decoding it takes more than 1 s",
        "Kiwi/wide.png": "not enough memory to decode it",
    }
    assert len(table(store, RAW_IMAGES)) == 9
    publish_extractor(store, extractor)
    assert extract(spark, store, ["Kiwi"]).classes["Kiwi"].images == 9


def test_a_photo_that_decodes_no_more_fails_its_class_by_name(
    spark: SparkSession, photos: Path, store: str, extractor: Path, slow: bytes
) -> None:
    (photos / "Kiwi/slow.jpg").write_bytes(slow)
    ingest(spark, photos, store, ["Banana", "Kiwi"])
    publish_extractor(store, extractor)
    # Its stored input is that of the exact decoding.
    report = extract(spark, store, ["Banana", "Kiwi"], limits=Limits(seconds=1), scaled=True)
    assert list(report.classes) == ["Banana"]
    assert "'Kiwi/slow.jpg' was good when it was ingested, and is bad now" in report.failed["Kiwi"]
