"""Photos lose their metadata, and keep the pixels that the model sees."""

import io
import struct
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spark_jobs.photos.images import BadImage, decode
from spark_jobs.photos.metadata import without_metadata
from tests.photo_metadata import FORMATS, SECRET, personal_tags, picture, planted

LIMIT = 10_000_000

pytestmark = pytest.mark.exiftool


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize(("format", "options"), FORMATS, ids=lambda value: str(value))
def test_nothing_about_the_maker_stays_and_the_pixels_do(
    tmp_path: Path, format: str, options: dict[str, Any], mode: str
) -> None:
    if mode == "RGBA" and (format in ("JPEG", "GIF", "BMP") or options.get("compression") == "jpeg"):
        mode = "RGB"
    photo = planted(picture(mode=mode), format, options, tmp_path)
    clean = without_metadata(photo)
    assert SECRET not in clean.content
    assert clean.had_position == (format != "BMP")
    before, after = decode(photo, LIMIT), decode(clean.content, LIMIT)
    assert (after.width, after.height, after.format) == (before.width, before.height, before.format)
    assert after.image.tobytes() == before.image.tobytes()
    folder = tmp_path / "clean"
    folder.mkdir()
    (folder / "photo").write_bytes(clean.content)
    assert personal_tags(folder) == []
    assert without_metadata(clean.content).content == clean.content


def test_a_photo_without_metadata_keeps_its_bytes() -> None:
    content = io.BytesIO()
    picture().save(content, "JPEG")
    assert without_metadata(content.getvalue()).content == content.getvalue()


def test_a_film_and_a_second_picture_behind_a_photo_go(tmp_path: Path) -> None:
    first, second = io.BytesIO(), io.BytesIO()
    picture().save(first, "MPO", save_all=True, append_images=[picture().rotate(90)])
    picture().rotate(90).save(second, "JPEG")
    film = b"\0\0\0\x18ftypmp42" + b"SECRET film" * 100
    clean = without_metadata(first.getvalue() + film)
    assert SECRET not in clean.content
    assert clean.content.count(b"\xff\xd8\xff") == 1
    assert decode(clean.content, LIMIT).image.tobytes() == decode(first.getvalue(), LIMIT).image.tobytes()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "HEIF", "AVIF", "BMP"])
def test_a_photo_that_is_cut_anywhere_is_bad_or_has_no_metadata(tmp_path: Path, format: str) -> None:
    photo = planted(picture(), format, {}, tmp_path)[: -20 * len(SECRET)]
    for end in range(0, len(photo), 97):
        with suppress(BadImage):
            assert SECRET not in without_metadata(photo[:end]).content


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "HEIF", "AVIF", "BMP"])
def test_a_changed_byte_makes_a_photo_bad_at_most(tmp_path: Path, format: str) -> None:
    photo = planted(picture(), format, {}, tmp_path)
    chance = np.random.default_rng(5)
    for _ in range(300):
        changed = bytearray(photo)
        changed[int(chance.integers(min(2000, len(photo))))] = int(chance.integers(256))
        with suppress(BadImage):
            without_metadata(bytes(changed))


def test_a_position_in_xmp_counts(tmp_path: Path) -> None:
    file = tmp_path / "photo.jpg"
    picture().save(file, "JPEG")
    command = ["exiftool", "-q", "-overwrite_original", "-XMP:GPSLatitude=48.85", str(file)]
    subprocess.run(command, check=True)
    assert without_metadata(file.read_bytes()).had_position


def test_a_jpeg_without_its_end_marker_stays_without_it() -> None:
    content = io.BytesIO()
    picture().save(content, "JPEG", comment=SECRET)
    clean = without_metadata(content.getvalue()[:-2]).content
    assert SECRET not in clean
    assert not clean.endswith(b"\xff\xd9")


def chunks(kind: bytes, number: int) -> bytes:
    return (bytes(4) + kind + bytes(4)) * number


MANY = 1_000_000
ENDLESS = {
    "JPEG segments": b"\xff\xd8" + b"\xff\xfe\0\2" * MANY,
    "PNG chunks": b"\x89PNG\r\n\x1a\n" + chunks(b"IDAT", MANY),
    "WebP chunks": b"RIFF" + (8 * MANY + 4).to_bytes(4, "little") + b"WEBP" + (b"ICCP" + bytes(4)) * MANY,
    "boxes": b"\0\0\0\x0cftypheic" + b"\0\0\0\x08free" * MANY,
    "pieces of a TIFF": struct.pack("<4sIH", b"II*\0", 8, 2)
    + b"".join(struct.pack("<HHII", tag, 4, MANY + 1, 0) for tag in (273, 279))
    + bytes(4 * MANY + 4),
}


@pytest.mark.parametrize("content", ENDLESS.values(), ids=ENDLESS.keys())
def test_a_file_of_a_million_parts_is_bad(content: bytes) -> None:
    with pytest.raises(BadImage, match="its metadata cannot be removed with certainty: "):
        without_metadata(content)


def box(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(payload), kind) + payload


def heif(*boxes: bytes) -> bytes:
    """A HEIF whose main item is the item 1, with more boxes that describe its items."""
    meta = bytes(4) + box(b"pitm", struct.pack(">4xH", 1)) + box(b"iinf", struct.pack(">4xH", 0))
    return box(b"ftyp", b"heic") + box(b"meta", meta + b"".join(boxes))


PLACES = box(b"iloc", struct.pack(">4xBBHHHHII", 0x44, 0x00, 1, 1, 0, 1, 0, 1))
HOSTILE = {
    "billions of items": [box(b"iloc", struct.pack(">B3xBBI", 2, 0x44, 0x00, 0xFFFFFFFF))],
    "items without bytes": [
        box(b"iloc", struct.pack(">4xBBH", 0, 0, 0xFFFF) + struct.pack(">HHH", 1, 0, 0xFFFF) * 0xFFFF)
    ],
    "items outside": [
        box(b"iloc", struct.pack(">4xBBH", 0, 0x80, 0xFFFF) + struct.pack(">HHQH", 1, 0, 1 << 60, 9) * 0xFFFF)
    ],
    "references": [PLACES, box(b"iref", bytes(4) + box(b"dimg", struct.pack(">HH", 1, 1) + bytes(1 << 21)))],
    "properties": [PLACES, box(b"iprp", box(b"ipco", b"") + box(b"ipma", struct.pack(">4xI", 1 << 31)))],
}


@pytest.mark.parametrize("boxes", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_heif_whose_lists_promise_more_than_a_photo_has_is_bad(boxes: list[bytes]) -> None:
    with pytest.raises(
        BadImage, match=r"its metadata cannot be removed with certainty: the (list|items|file)"
    ):
        without_metadata(heif(*boxes))
