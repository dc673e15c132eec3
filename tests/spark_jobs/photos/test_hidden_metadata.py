"""Damage, or a hostile tool, hides no metadata in the data of a picture: the file is bad, or loses them."""

import struct
import zlib
from functools import cache

import pytest
from PIL import ImageFile

from benchmarks.faults.bombs import chunk
from benchmarks.faults.hostile import is_a_reason, samples
from benchmarks.faults.mutations import MARKER, Part, parts, photos, repaired
from spark_jobs.photos.images import BadImage, decode
from spark_jobs.photos.metadata import without_metadata
from spark_jobs.photos.ranges import overlap

LIMIT = 10_000_000


@cache
def all_photos() -> dict[str, bytes]:
    return photos(samples())


def photo(name: str) -> bytes:
    """A photo with metadata in which the marker is."""
    return all_photos()[name]


def part(content: bytes, kind: bytes) -> Part:
    """The first part of a file that begins with `kind`, or has it after its length."""
    return next(
        found
        for found in parts(content)
        if kind in (content[found.start :][: len(kind)], content[found.start + 4 :][: len(kind)])
    )


def bytes_of(content: bytes, kind: bytes) -> bytes:
    found = part(content, kind)
    return content[found.start : found.end]


def put(content: bytes, position: int, data: bytes) -> bytes:
    return content[:position] + data + content[position + len(data) :]


def replaced(content: bytes, old: bytes, new: bytes) -> bytes:
    assert content.count(old) == 1
    return content.replace(old, new)


def refusal(content: bytes) -> str:
    with pytest.raises(BadImage) as caught:
        decode(without_metadata(content).content, LIMIT)
    return str(caught.value).removeprefix("its metadata cannot be removed with certainty: ")


# PNG: the lengths and checksums of chunks, https://www.w3.org/TR/png-3/#5Chunk-layout.


def test_data_of_a_png_that_have_taken_in_a_text_are_refused() -> None:
    content = photo("rgb.png")
    data = bytes_of(content, b"IDAT")[8:-4]
    hidden = replaced(content, data, data + bytes_of(content, b"tEXt"))
    at = part(content, b"IDAT").start
    hidden = repaired(put(hidden, at, struct.pack(">I", len(data) + len(bytes_of(content, b"tEXt")))))
    assert decode(hidden, LIMIT)
    assert refusal(hidden) == "a part of the PNG is inside another"


def test_a_png_with_a_wrong_checksum_is_refused() -> None:
    content = photo("rgb.png")
    hidden = put(content, part(content, b"IDAT").end - 4, bytes(4))
    assert decode(hidden, LIMIT)
    assert refusal(hidden) == "a checksum of the PNG is wrong"


def test_a_png_with_text_after_its_numbers_is_refused() -> None:
    content = photo("rgb.png")
    hidden = replaced(content, bytes_of(content, b"IHDR"), chunk(b"IHDR", content[16:29] + MARKER))
    assert refusal(hidden) == "the PNG has 19 bytes of IHDR"
    hidden = replaced(content, bytes_of(content, b"IEND"), chunk(b"IEND", MARKER))
    assert refusal(hidden) == "the PNG has 6 bytes of IEND"


def test_a_profile_with_text_behind_it_goes_and_a_whole_profile_stays() -> None:
    # The size of a profile is in its first 4 bytes: ICC.1:2022, section 7.2.2.
    content = photo("rgb.png")
    packed = bytes_of(content, b"iCCP")
    profile = zlib.decompress(packed[8:-4].partition(b"\0")[2][1:])
    assert packed in without_metadata(content).content
    for longer in (zlib.compress(profile + MARKER), zlib.compress(profile) + MARKER):
        hidden = replaced(content, packed, chunk(b"iCCP", b"a\0\0" + longer))
        assert b"iCCP" not in without_metadata(hidden).content


# JPEG: https://www.w3.org/Graphics/JPEG/itu-t81.pdf, annex B.


def test_the_number_of_lines_of_a_jpeg_is_no_place_for_text() -> None:
    content = photo("baseline.jpg")
    hidden = replaced(content, bytes_of(content, b"\xff\xfe"), b"\xff\xdc\0\x08" + MARKER)
    assert decode(hidden, LIMIT)
    assert refusal(hidden) == "the number of lines of the JPEG is no number"


def test_a_profile_of_a_jpeg_that_has_taken_in_a_comment_goes() -> None:
    content = photo("baseline.jpg")
    profile, comment = bytes_of(content, b"\xff\xe2"), bytes_of(content, b"\xff\xfe")
    assert profile in without_metadata(content).content
    longer = b"\xff\xe2" + struct.pack(">H", len(profile) - 2 + len(comment)) + profile[4:] + comment
    clean = without_metadata(replaced(content, profile, longer)).content
    assert MARKER not in clean
    assert decode(clean, LIMIT)


@pytest.mark.parametrize("name", ["baseline.jpg", "grey.jpg", "cmyk.jpg", "restarts.jpg"])
@pytest.mark.parametrize("end", [b"\xff\x00", b"\xfe\xd9", b""], ids=["0xFF00", "0xFED9", "nothing"])
def test_what_follows_a_damaged_end_marker_is_no_part_of_a_jpeg(name: str, end: bytes) -> None:
    content = photo(name)
    hidden = content[: part(content, b"\xff\xd9").start] + end + MARKER * 20
    for scaled in (False, True):
        with pytest.raises(BadImage, match="its end marker is damaged, and other data follow its picture"):
            decode(without_metadata(hidden).content, LIMIT, scaled=scaled)


def test_a_progressive_jpeg_whose_end_marker_is_damaged_is_refused() -> None:
    content = photo("progressive.jpg")
    hidden = content[: part(content, b"\xff\xd9").start] + b"\xfe\xd9" + MARKER * 20
    assert refusal(hidden) == "truncated or damaged: the end of a JPEG of several scans is missing"


# WebP: https://www.rfc-editor.org/rfc/rfc9649.


@pytest.mark.parametrize("name", ["lossy.webp", "lossless.webp", "alpha.webp"])
def test_a_picture_of_a_webp_that_has_taken_in_its_exif_is_refused(name: str) -> None:
    content = photo(name)
    found = next(part(content, kind) for kind in (b"VP8L", b"VP8 ") if kind in content)
    exif = part(content, b"EXIF")
    assert found.end == exif.start
    hidden = put(content, found.length, struct.pack("<I", exif.end - found.payload))
    assert decode(hidden, LIMIT)
    assert refusal(hidden) == "a part of the WebP is inside another"


# GIF: https://www.w3.org/Graphics/GIF/spec-gif89a.txt, section 23.


def test_a_gif_with_text_in_its_block_of_transparency_is_refused() -> None:
    content = photo("one.gif")
    comment = bytes_of(content, b"\x21\xfe")
    hidden = replaced(content, comment, b"\x21\xf9\x04\0\0\0\0" + comment[2:])
    assert decode(hidden, LIMIT)
    assert refusal(hidden) == "the GIF has a control block of another length than 4 bytes"


# BMP.


def test_a_bmp_whose_table_of_colours_takes_in_all_that_follows_is_refused() -> None:
    content = photo("rgb.bmp")
    start = len(content)
    hidden = put(put(content, 46, struct.pack("<I", (start - 54) // 4)), 10, struct.pack("<I", start))
    assert refusal(hidden + content[54:]) == f"the BMP has a table of {(start - 54) // 4:,} colours"


# TIFF 6.0: https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf, sections 2 and 8.


def entry(content: bytes, tag: int) -> int:
    """Where the entry of a tag begins."""
    return next(
        found.start for found in parts(content)[2:] if content[found.start :][:2] == struct.pack("<H", tag)
    )


def test_a_text_of_a_tiff_under_the_tag_of_a_picture_is_refused() -> None:
    content = photo("lzw.tif")
    predictor = struct.pack("<H", 317)
    assert refusal(put(content, entry(content, 315), predictor)) == "the TIFF has a value of the type 2"
    numbers = struct.pack("<HH", 317, 1)
    assert refusal(put(content, entry(content, 315), numbers)) == "the TIFF has 121 values of the tag 317"


def test_a_strip_of_a_tiff_that_takes_in_a_text_is_refused() -> None:
    content = photo("tiles.tif")
    # The offsets of the tiles begin at byte 512, and their lengths follow; the text follows the tiles.
    number = struct.unpack_from("<I", content, entry(content, 324) + 4)[0]
    last = 512 + 4 * (2 * number - 1)
    length = struct.unpack_from("<I", content, last)[0]
    hidden = put(content, last, struct.pack("<I", length + 20))
    assert decode(hidden, LIMIT)
    assert refusal(hidden) == "a part of the picture is also a part of its metadata"


@pytest.mark.parametrize(
    ("some", "others", "expected"),
    [
        ([(0, 5)], [(5, 9)], False),
        ([(0, 6)], [(5, 9)], True),
        ([(9, 12)], [(5, 9), (20, 21)], False),
        ([(6, 7)], [(0, 3), (2, 9)], True),
        ([(3, 3)], [(0, 9)], False),
        ([(0, 9)], [(3, 3)], False),
        ([(30, 40), (0, 9)], [(8, 20)], True),
        ([(0, 9)], [], False),
    ],
)
def test_ranges_overlap_where_a_byte_is_in_both(
    some: list[tuple[int, int]], others: list[tuple[int, int]], expected: bool
) -> None:
    assert overlap(some, others) is expected
    assert overlap(others, some) is expected


# HEIF and AVIF: ISO/IEC 14496-12, sections 8.11.1 and 8.11.3.


def grown(content: bytes, kind: bytes, more: bytes) -> bytes:
    """A file with more bytes at the end of a box in its box of metadata."""
    found = part(content, kind)
    sizes = bytearray(content)
    for box in (found.start, *found.around):
        size = struct.unpack_from(">I", sizes, box)[0]
        struct.pack_into(">I", sizes, box, size + len(more))
    return bytes(sizes[: found.end]) + more + bytes(sizes[found.end :])


def test_the_name_of_the_handler_of_a_heif_goes() -> None:
    assert MARKER not in without_metadata(grown(photo("one.avif"), b"hdlr", MARKER)).content[:400]


def test_a_heif_that_describes_its_picture_twice_is_refused() -> None:
    content = photo("one.heic")
    iprp = part(content, b"iprp")
    twice = grown(content, b"iprp", bytes_of(content, b"iprp"))
    # The second box stands beside the first, not in it.
    twice = put(twice, iprp.start, struct.pack(">I", iprp.end - iprp.start))
    assert refusal(twice) == "the file describes its picture twice"


def places(content: bytes) -> list[tuple[int, int]]:
    """Where the items of an AVIF are: Pillow writes 4 bytes for a place and 4 for a length."""
    box, media = part(content, b"iloc"), part(content, b"mdat")
    pairs = [struct.unpack_from(">II", content, at) for at in range(box.payload, box.end - 7)]
    return [
        (start, length) for start, length in pairs if start >= media.payload and start + length <= media.end
    ]


def test_an_avif_whose_metadata_reach_into_its_picture_is_refused() -> None:
    content = photo("one.avif")
    found = sorted(places(content))
    assert len(found) == 3
    start, length = found[1]  # XMP, which the picture follows
    hidden = replaced(content, struct.pack(">II", start, length), struct.pack(">II", start, length + 10))
    assert refusal(hidden) == "a part of the picture is also a part of its metadata"


def test_metadata_that_have_moved_to_where_the_picture_was_are_found() -> None:
    content = photo("one.heic")  # EXIF and XMP follow the picture
    middle = part(content, b"mdat").payload + 300
    assert (
        refusal(content[:middle] + content[middle + 400 :] + bytes(400))
        == "they are in the data of its picture"
    )
    content = photo("one.avif")  # the picture follows XMP
    start = part(content, b"mdat").payload
    assert refusal(content[:start] + bytes(400) + content[start:]) == "they are in the data of its picture"


def test_the_first_picture_of_a_film_in_avif_is_a_photo() -> None:
    content = photo("film.avif")
    assert content[8:12] == b"avis"
    clean = without_metadata(content).content
    assert MARKER not in clean
    assert decode(clean, LIMIT).image.tobytes() == decode(content, LIMIT).image.tobytes()


# Reasons.


@pytest.mark.parametrize(
    "error", [IndexError("list index out of range"), AssertionError(), struct.error("unpack"), KeyError(259)]
)
def test_words_of_python_are_no_reason(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: ImageFile.ImageFile) -> None:
        raise error

    monkeypatch.setattr("PIL.BmpImagePlugin.BmpImageFile.load", load)
    said = refusal(photo("rgb.bmp"))
    assert said == "truncated or damaged: its data are not as its header says"
    assert is_a_reason(said)


def test_a_tiff_whose_directory_is_not_there_has_a_reason() -> None:
    assert refusal(b"II*\0\xff\xff\xff\x7f" + bytes(100)) == "a part of the file is not where the file says"


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\x89PNG\r\n\x1a\n", "a PNG"),
        (b"RIFF\x04\0\0\0WEBP", "a WebP"),
        (b"\0\0\0\x10ftypavif", "a HEIF or AVIF"),
    ],
)
def test_a_file_whose_header_is_damaged_is_named_by_its_first_bytes(start: bytes, name: str) -> None:
    with pytest.raises(BadImage, match=f"truncated or damaged: it begins as {name}, but no header follows"):
        decode(start + b"\x01" * 100, LIMIT)
