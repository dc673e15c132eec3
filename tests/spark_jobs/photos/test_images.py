"""`decode`: which photos are accepted or refused, and the pixels that come out."""

import io
import struct
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import ExifTags, Image, ImageFile

from spark_jobs.photos import jpeg
from spark_jobs.photos.images import BadImage, decode

LIMIT = 50_000_000

pillow_heif.register_heif_opener()


def picture(mode: str = "RGB", size: tuple[int, int] = (60, 40)) -> Image.Image:
    """A smooth picture, whose colours JPEG preserves."""
    ramp = np.linspace(0, 255, size[0] * size[1]).reshape(size[1], size[0])
    colours = np.stack([ramp, ramp[::-1], np.full_like(ramp, 90)], axis=-1).astype(np.uint8)
    return Image.fromarray(colours).convert(mode)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with_header(width: int, height: int, *chunks: bytes) -> bytes:
    """A small PNG whose header declares a grey picture of this size; it holds only 1,000 bytes of pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = png_chunk(b"IDAT", zlib.compress(bytes(1000)))
    return (
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + b"".join(chunks) + data + png_chunk(b"IEND", b"")
    )


def turned_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return exif


def reason(content: bytes, max_pixels: int = LIMIT) -> str:
    with pytest.raises(BadImage) as caught:
        decode(content, max_pixels)
    return str(caught.value)


def centre(content: bytes) -> tuple[int, int, int]:
    image = decode(content, LIMIT).image
    assert image.mode == "RGB"
    pixel = image.getpixel((image.width // 2, image.height // 2))
    assert isinstance(pixel, tuple)
    return pixel[0], pixel[1], pixel[2]


# Photos that are accepted.


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_every_supported_format_becomes_an_rgb_picture_of_the_same_size(format: str) -> None:
    decoded = decode(encoded(picture(), format), LIMIT)
    assert decoded.image.mode == "RGB"
    assert (decoded.width, decoded.height, decoded.format) == (60, 40, format)
    assert decoded.image.size == (60, 40)


def test_only_the_first_picture_of_an_mpo_is_decoded() -> None:
    red, blue = Image.new("RGB", (32, 32), (200, 0, 0)), Image.new("RGB", (32, 32), (0, 0, 200))
    content = encoded(red, "MPO", save_all=True, append_images=[blue])
    assert decode(content, LIMIT).format == "MPO"
    assert centre(content)[0] > 150


def test_the_pixels_of_a_lossless_photo_are_kept() -> None:
    assert decode(encoded(picture(), "PNG"), LIMIT).image.tobytes() == picture().tobytes()


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_becomes_the_same_grey_in_rgb(mode: str) -> None:
    assert centre(encoded(Image.new(mode, (9, 9), 255), "PNG")) == (255, 255, 255)


def test_a_palette_picture_keeps_its_colours() -> None:
    image = Image.new("RGB", (9, 9), (200, 30, 60)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert centre(encoded(image, "PNG")) == (200, 30, 60)


@pytest.mark.parametrize("transparent", [0, bytes([0, 255])], ids=["one colour", "an alpha for each"])
def test_transparent_pixels_of_a_palette_become_white(transparent: object) -> None:
    image = Image.new("P", (9, 9), 0)
    image.putpalette([200, 30, 60, 1, 2, 3])
    assert centre(encoded(image, "PNG", transparency=transparent)) == (255, 255, 255)


@pytest.mark.parametrize(("mode", "colour"), [("RGBA", (200, 30, 60, 0)), ("LA", (40, 0))])
def test_transparent_pixels_become_white(mode: str, colour: tuple[int, ...]) -> None:
    assert centre(encoded(Image.new(mode, (9, 9), colour), "PNG")) == (255, 255, 255)


@pytest.mark.parametrize(("mode", "colour"), [("L", 40), ("RGB", (200, 30, 60))])
def test_the_transparent_colour_of_a_png_without_alpha_becomes_white(mode: str, colour: object) -> None:
    image = Image.new(mode, (9, 9), colour)  # type: ignore[arg-type]
    assert centre(encoded(image, "PNG", transparency=colour)) == (255, 255, 255)


def test_half_transparent_pixels_are_blended_with_white() -> None:
    assert centre(encoded(Image.new("RGBA", (9, 9), (0, 0, 0, 128)), "PNG")) == (127, 127, 127)


def test_opaque_pixels_of_a_picture_with_alpha_keep_their_colour() -> None:
    assert centre(encoded(Image.new("RGBA", (9, 9), (200, 30, 60, 255)), "PNG")) == (200, 30, 60)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_a_jpeg_in_another_colour_space_keeps_its_colour(mode: str) -> None:
    image = Image.new("RGB", (32, 32), (200, 30, 60)).convert(mode)
    assert np.abs(np.subtract(centre(encoded(image, "JPEG", quality=95)), (200, 30, 60))).max() <= 4


def test_a_lab_tiff_keeps_its_colour() -> None:
    image = Image.new("RGB", (9, 9), (200, 30, 60)).convert("LAB")
    assert np.abs(np.subtract(centre(encoded(image, "TIFF")), (200, 30, 60))).max() <= 4


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_mid_grey_of_16_bits_stays_mid_grey(format: str) -> None:
    image = Image.fromarray(np.full((9, 9), 0x8080, np.uint16))
    assert centre(encoded(image, format)) == (128, 128, 128)


def test_a_big_endian_16_bit_tiff_stays_mid_grey() -> None:
    image = Image.frombytes("I;16B", (9, 9), b"\x80\x01" * 81)
    assert centre(encoded(image, "TIFF")) == (128, 128, 128)


def test_8_bit_grey_that_was_widened_to_16_bits_is_restored_exactly() -> None:
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    image = decode(encoded(Image.fromarray(grey * 257), "PNG"), LIMIT).image
    assert np.array_equal(np.asarray(image)[..., 0], grey)


def test_the_transparent_value_of_16_bit_grey_becomes_white() -> None:
    image = Image.fromarray(np.full((9, 9), 5000, np.uint16))
    assert centre(encoded(image, "PNG", transparency=5000)) == (255, 255, 255)


def test_32_bit_grey_within_16_bits_is_read_as_16_bit_grey() -> None:
    image = Image.fromarray(np.full((9, 9), 0x8080, np.int32))
    assert centre(encoded(image, "TIFF")) == (128, 128, 128)


@pytest.mark.parametrize("format", ["GIF", "WEBP"])
def test_only_the_first_frame_of_an_animation_is_decoded(format: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    content = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    red, green, blue = centre(content)
    assert red > 240 and green < 10 and blue < 10


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_6_turns_the_photo_clockwise(format: str) -> None:
    image = Image.new("RGB", (64, 32), "white")
    image.paste((0, 0, 0), (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decode(encoded(image, format, exif=exif), LIMIT)
    assert (decoded.width, decoded.height) == decoded.image.size == (32, 64)
    greys = np.asarray(decoded.image.convert("L"))
    assert greys[:28].max() < 60 and greys[36:].min() > 200


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\x00\x00this is only text",
        b"Exif\x00\x00II*\x00\xff\xff\xff\x7f",
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x02\xff\xff\xff\xff\x00\x00\x00\x99",
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x63\x00\x00",
    ],
    ids=["text", "offset outside", "wrong type and count", "orientation 99"],
)
def test_a_photo_with_broken_exif_is_kept(exif: bytes) -> None:
    decoded = decode(encoded(picture(), "JPEG", exif=exif), LIMIT)
    assert (decoded.width, decoded.height) == (60, 40)


# Photos that are refused.


def test_an_empty_file_is_refused() -> None:
    assert reason(b"") == "empty file"


@pytest.mark.parametrize(
    "content",
    [
        b"just some notes about apples\n",
        b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>',
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n",
        b"P6 2 2 255\n" + bytes(12),
        b"%PDF-1.7\n",
        bytes(100),
    ],
    ids=["text", "html", "svg", "eps", "ppm", "pdf", "zeros"],
)
def test_a_file_that_is_no_photo_is_refused_with_the_supported_formats(content: bytes) -> None:
    assert reason(content).startswith("not an image in a supported format (JPEG, PNG")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_truncated_photo_is_refused(format: str) -> None:
    content = encoded(picture(size=(300, 200)), format)
    assert reason(content[: len(content) // 2]).startswith(("truncated or damaged: ", "not an image"))


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_the_reason_for_a_truncated_photo_contains_truncated(format: str) -> None:
    content = encoded(picture(size=(300, 200)), format)
    assert "truncated" in reason(content[: len(content) * 2 // 3])


def test_floating_point_pixels_are_refused() -> None:
    assert reason(encoded(Image.new("F", (9, 9), 0.5), "TIFF")).startswith("floating-point pixels")


def test_32_bit_grey_beyond_16_bits_is_refused() -> None:
    image = Image.fromarray(np.full((9, 9), 70_000, np.int32))
    assert reason(encoded(image, "TIFF")).startswith("32-bit grey")


def test_a_photo_at_the_limit_is_decoded_and_a_larger_photo_is_refused() -> None:
    content = encoded(picture(size=(60, 40)), "PNG")
    assert reason(content, 2399) == "60 x 40 pixels are over the limit of 2399 (FRUITS_MAX_IMAGE_PIXELS)"
    assert decode(content, 2400).width == 60


@pytest.mark.parametrize("side", [9_000, 12_000, 30_000])
def test_a_decompression_bomb_is_refused_before_its_pixels_are_decoded(
    side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(self: ImageFile.ImageFile) -> None:
        raise AssertionError("decoded")

    bomb = png_with_header(side, side)
    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    assert len(bomb) < 200
    assert "over the limit of 50000000" in reason(bomb)


def test_the_limit_may_be_above_that_of_pillow_which_stays_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert decode(encoded(picture(size=(60, 40)), "PNG"), 2400).width == 60
    assert Image.MAX_IMAGE_PIXELS == 1000


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("alpha", [True, False])
def test_the_size_of_a_webp_is_that_of_its_header(lossless: bool, alpha: bool) -> None:
    content = encoded(picture("RGBA" if alpha else "RGB", (61, 43)), "WEBP", lossless=lossless)
    assert reason(content, 61 * 43 - 1).startswith("61 x 43 pixels are over the limit of")
    assert decode(content, LIMIT).width == 61


def test_the_canvas_of_a_webp_is_not_reserved_before_its_size_is_known() -> None:
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes([2, 0, 0, 0]) + b"\xfe\x3f\0" * 2
    content = b"RIFF" + struct.pack("<I", len(canvas) + 20) + b"WEBP" + canvas + b"ANIM" + bytes(16)
    assert reason(content).startswith("16383 x 16383 pixels are over the limit of")


def progressive(scans: int) -> bytes:
    """A progressive JPEG whose last scan is there many times."""
    content = encoded(picture(size=(64, 64)), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * (scans - jpeg.scans(content)) + content[-2:]


def test_a_jpeg_of_many_scans_is_refused_from_its_header() -> None:
    assert reason(progressive(101)) == "a JPEG of 101 scans; 100 are allowed"
    assert jpeg.scans(progressive(12)) == 12
    decode(encoded(picture(), "JPEG", progressive=True), LIMIT)


def test_data_that_looks_like_scans_does_not_count() -> None:
    content = encoded(picture(), "JPEG", comment=b"\xff\xda" * 200)
    assert jpeg.scans(content) == 1
    decode(content, LIMIT)


def test_a_tiff_whose_tile_is_much_larger_than_its_picture_is_refused() -> None:
    def tiff(side: int) -> bytes:
        tags = {
            256: 9,
            257: 9,
            258: 8,
            259: 1,
            262: 1,
            277: 1,
            322: side,
            323: side,
            324: 200,
            325: side * side,
        }
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
        head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
        return head.ljust(200, b"\0") + bytes(min(side * side, 300))

    assert reason(tiff(32_768)) == "its tiles of 32768 x 32768 pixels are larger than the picture"
    assert decode(tiff(16), LIMIT).width == 9


@pytest.mark.parametrize(
    ("mode", "options", "limit"),
    [
        ("RGB", {"format": "JPEG"}, 1.0),
        ("RGB", {"format": "JPEG", "exif": turned_exif()}, 1.0),
        ("RGB", {"format": "JPEG", "progressive": True}, 1.25),
        ("CMYK", {"format": "JPEG"}, 1.0),
        ("L", {"format": "PNG"}, 1.0),
        ("RGBA", {"format": "PNG"}, 1.625),
        ("RGB", {"format": "WEBP"}, 1.5),
    ],
)
def test_a_photo_may_take_as_much_memory_as_a_turned_jpeg_of_the_limit(
    mode: str, options: dict[str, Any], limit: float
) -> None:
    """`limit` is the smallest one that decodes the photo, in multiples of its pixels."""
    content = encoded(picture(mode, (100, 100)), **options)
    assert decode(content, round(limit * 10_000)).width == 100
    if limit > 1:
        assert reason(content, round(limit * 10_000) - 10).startswith("decoding its 100 x 100 pixels takes ")


# The formats of phones.


PHONES: dict[str, dict[str, Any]] = {"HEIF": {"quality": -1, "chroma": 444}, "AVIF": {"quality": 100}}


@pytest.mark.parametrize("format", PHONES)
def test_a_photo_of_a_phone_has_the_pixels_that_its_decoder_gives(format: str) -> None:
    image = picture(size=(64, 48))
    content = encoded(image, format, **PHONES[format])
    decoded = decode(content, LIMIT)
    assert (decoded.format, decoded.width, decoded.height) == (format, 64, 48)
    assert np.abs(np.asarray(decoded.image, int) - np.asarray(image, int)).max() <= 6
    assert reason(content, 64 * 48 - 1).startswith("64 x 48 pixels are over the limit of")


@pytest.mark.parametrize("format", PHONES)
def test_a_photo_of_a_phone_that_was_held_upright_is_turned(format: str) -> None:
    image = Image.new("RGB", (64, 48), "blue")
    image.paste("red", (0, 0, 32, 48))
    upright = decode(encoded(image, format, exif=turned_exif().tobytes(), **PHONES[format]), LIMIT).image
    assert upright.size == (48, 64)
    assert [upright.getpixel((24, y))[0] > 200 for y in (8, 56)] == [True, False]  # type: ignore[index]


def test_a_truncated_photo_of_a_phone_is_refused() -> None:
    for format in PHONES:
        content = encoded(picture(size=(300, 200)), format)
        assert reason(content[: len(content) // 2])


# A JPEG without its end marker.


@pytest.mark.parametrize("options", [{}, {"quality": 95, "subsampling": 0}, {"restart_marker_blocks": 2}])
def test_a_jpeg_that_lacks_only_its_end_marker_is_read(options: dict[str, Any]) -> None:
    content = encoded(picture(size=(300, 200)), "JPEG", **options)
    expected = np.asarray(decode(content, LIMIT).image)
    for end in (len(content) - 2, len(content) - 1):
        assert np.array_equal(np.asarray(decode(content[:end], LIMIT).image), expected)


@pytest.mark.parametrize("options", [{}, {"quality": 95, "subsampling": 0}, {"progressive": True}])
def test_a_jpeg_that_lacks_more_than_its_end_marker_is_refused(options: dict[str, Any]) -> None:
    content = encoded(picture(size=(300, 200)), "JPEG", **options)
    for lost in (4, 8, 50, 400):
        assert "truncated" in reason(content[:-lost])


def test_a_progressive_jpeg_without_its_end_marker_may_lack_scans_and_is_refused() -> None:
    assert "truncated" in reason(encoded(picture(), "JPEG", progressive=True)[:-2])


# What a file is that was saved under a photo's name.


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\n<HTML><head>", "a web page"),
        (b"<?xml version='1.0'?><svg>", "an SVG drawing"),
        (b"<?xml version='1.0'?><annotation>", "an XML text"),
        (b'{"error": "not found"}', "a JSON text"),
        (b"%PDF-1.7", "a PDF"),
        (b"PK\x03\x04" + bytes(40), "a ZIP archive"),
        (b"\x1f\x8b\x08" + bytes(40), "an archive"),
        (bytes(257) + b"ustar" + bytes(40), "a tar archive"),
        (b"\0\0\0\x18ftypmp42" + bytes(40), "a film"),
        (b"\0\0\0\x14ftypqt  " + bytes(40), "a film"),
        (b"\x1aE\xdf\xa3" + bytes(40), "a film"),
        (b"\0\0\0\x18ftypcrx " + bytes(40), "a raw file of a camera"),
        (b"\xff\x0a" + bytes(40), "a JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n", "a JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n", "a JPEG 2000"),
        (b"8BPS" + bytes(40), "a Photoshop file"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS"),
        (b"Access denied: your session has expired.\n", "a text"),
        (bytes(100), "a file of zeros"),
        (b"MZ" + bytes(40), "a program"),
    ],
)
def test_a_file_under_a_photos_name_says_what_it_is_and_what_to_do(content: bytes, kind: str) -> None:
    found = reason(content)
    assert f"): it is {kind}" in found
    assert found[found.index(f"it is {kind}") :].count(". ") == 1


def test_a_file_of_an_unknown_kind_is_only_refused() -> None:
    assert reason(b"\x01\x02\x03\x04" * 10).endswith(")")


def test_a_picture_over_pillows_warning_limit_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(encoded(picture(size=(60, 40)), "PNG"), LIMIT).width == 60


def test_a_picture_with_a_side_over_65535_pixels_is_refused() -> None:
    assert "a side is over" in reason(png_with_header(1_000_000, 1))


def test_a_png_with_a_decompression_bomb_in_its_text_is_refused() -> None:
    text = png_chunk(b"zTXt", b"Comment\x00\x00" + zlib.compress(bytes(20_000_000)))
    assert "damaged" in reason(png_with_header(9, 9, text))


def test_any_error_inside_pillow_becomes_a_one_line_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(picture(), "PNG")
    for error in (OverflowError("too  big\nindeed"), struct.error(), KeyError("x"), MemoryError()):

        def load(self: ImageFile.ImageFile, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(ImageFile.ImageFile, "load", load)
        monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
        message = reason(content)
        assert message and "\n" not in message


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"])
def test_mutated_photos_are_decoded_or_refused_and_nothing_is_printed(
    format: str, capfd: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(11)
    exif = Image.Exif()
    exif[0x0112] = 6
    options: dict[str, object] = {"exif": exif} if format in ("JPEG", "PNG", "WEBP", "TIFF") else {}
    if format == "TIFF":
        options["compression"] = "tiff_lzw"
    original = np.frombuffer(encoded(picture(size=(48, 32)), format, **options), np.uint8)
    for _ in range(300):
        mutant = original.copy()
        # Half of the mutations change the header, which the parsers read.
        reach = int(rng.choice([min(200, len(mutant)), len(mutant)]))
        where = rng.integers(0, reach, rng.integers(1, 9))
        mutant[where] = rng.integers(0, 256, len(where))
        try:
            decoded = decode(mutant.tobytes()[: int(rng.integers(1, len(mutant) * 3))], 1_000_000)
        except BadImage as error:
            assert str(error)  # noqa: PT017
        else:
            assert decoded.image.mode == "RGB" and decoded.image.size == (decoded.width, decoded.height)
    # libtiff prints its own lines about damage.
    assert format == "TIFF" or capfd.readouterr() == ("", "")


# Warnings.


def test_decode_emits_no_warning_and_restores_the_filters() -> None:
    exif = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x02\x00\x00\x00\x09\x00\x00\x00\x99"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        decode(encoded(picture(), "JPEG", exif=exif), LIMIT)
        reason(png_with_header(10_000, 10_000))
        warnings.warn("another module's", stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["another module's"]


def test_the_module_imports_only_pillow_numpy_and_modules_without_spark() -> None:
    import ast

    import spark_jobs.photos.images as module

    names = set()
    for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
        if isinstance(node, ast.Import):
            names |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    outside = {name for name in names if name.split(".")[0] not in sys.stdlib_module_names}
    own = {f"spark_jobs.{name}" for name in ("dimensions", "photos.jpeg", "photos.signatures")}
    assert outside == {"PIL", "pillow_heif", "numpy", *own}
