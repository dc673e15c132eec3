import io
import struct
import sys
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from spark_jobs.dimensions import IMAGE_SIDE
from spark_jobs.images import BadImage, decode, model_input, thumbnails

LIMIT = 50_000_000


def picture(mode: str = "RGB", size: tuple[int, int] = (60, 40)) -> Image.Image:
    """A smooth picture, so that JPEG keeps its colours."""
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
    """A small PNG that declares a grey picture of this size and holds hardly any of it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = png_chunk(b"IDAT", zlib.compress(bytes(1000)))
    return (
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + b"".join(chunks) + data + png_chunk(b"IEND", b"")
    )


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


# What is accepted.


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_every_supported_format_becomes_an_rgb_picture_of_its_size(format: str) -> None:
    decoded = decode(encoded(picture(), format), LIMIT)
    assert decoded.image.mode == "RGB"
    assert (decoded.width, decoded.height, decoded.format) == (60, 40, format)
    assert decoded.image.size == (60, 40)


def test_an_mpo_of_a_stereo_camera_gives_its_first_picture() -> None:
    red, blue = Image.new("RGB", (32, 32), (200, 0, 0)), Image.new("RGB", (32, 32), (0, 0, 200))
    content = encoded(red, "MPO", save_all=True, append_images=[blue])
    assert decode(content, LIMIT).format == "MPO"
    assert centre(content)[0] > 150


def test_the_pixels_of_a_lossless_photo_are_kept() -> None:
    assert decode(encoded(picture(), "PNG"), LIMIT).image.tobytes() == picture().tobytes()


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_becomes_the_same_grey_in_rgb(mode: str) -> None:
    assert centre(encoded(Image.new(mode, (9, 9), 255), "PNG")) == (255, 255, 255)


def test_a_palette_picture_gets_its_colours() -> None:
    image = Image.new("RGB", (9, 9), (200, 30, 60)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert centre(encoded(image, "PNG")) == (200, 30, 60)


@pytest.mark.parametrize("transparent", [0, bytes([0, 255])], ids=["one colour", "an alpha for each"])
def test_transparent_pixels_of_a_palette_come_out_white(transparent: object) -> None:
    image = Image.new("P", (9, 9), 0)
    image.putpalette([200, 30, 60, 1, 2, 3])
    assert centre(encoded(image, "PNG", transparency=transparent)) == (255, 255, 255)


@pytest.mark.parametrize(("mode", "colour"), [("RGBA", (200, 30, 60, 0)), ("LA", (40, 0))])
def test_transparent_pixels_come_out_white(mode: str, colour: tuple[int, ...]) -> None:
    assert centre(encoded(Image.new(mode, (9, 9), colour), "PNG")) == (255, 255, 255)


@pytest.mark.parametrize(("mode", "colour"), [("L", 40), ("RGB", (200, 30, 60))])
def test_the_transparent_colour_of_a_png_without_alpha_comes_out_white(mode: str, colour: object) -> None:
    image = Image.new(mode, (9, 9), colour)  # type: ignore[arg-type]
    assert centre(encoded(image, "PNG", transparency=colour)) == (255, 255, 255)


def test_half_transparent_pixels_are_half_way_to_white() -> None:
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


def test_8_bit_grey_that_was_widened_to_16_bits_comes_back_exactly() -> None:
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    image = decode(encoded(Image.fromarray(grey * 257), "PNG"), LIMIT).image
    assert np.array_equal(np.asarray(image)[..., 0], grey)


def test_the_transparent_value_of_16_bit_grey_comes_out_white() -> None:
    image = Image.fromarray(np.full((9, 9), 5000, np.uint16))
    assert centre(encoded(image, "PNG", transparency=5000)) == (255, 255, 255)


def test_32_bit_grey_within_16_bits_is_read_as_16_bit_grey() -> None:
    image = Image.fromarray(np.full((9, 9), 0x8080, np.int32))
    assert centre(encoded(image, "TIFF")) == (128, 128, 128)


@pytest.mark.parametrize("format", ["GIF", "WEBP"])
def test_an_animation_gives_its_first_frame(format: str) -> None:
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
        b"Exif\x00\x00nothing of the kind",
        b"Exif\x00\x00II*\x00\xff\xff\xff\x7f",
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x02\xff\xff\xff\xff\x00\x00\x00\x99",
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x63\x00\x00",
    ],
    ids=["text", "offset outside", "wrong type and count", "orientation 99"],
)
def test_a_photo_with_broken_exif_is_kept(exif: bytes) -> None:
    decoded = decode(encoded(picture(), "JPEG", exif=exif), LIMIT)
    assert (decoded.width, decoded.height) == (60, 40)


# What is refused.


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
def test_what_is_no_photo_is_refused_as_such(content: bytes) -> None:
    assert reason(content).startswith("not an image in a supported format (JPEG, PNG")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_truncated_photo_is_refused(format: str) -> None:
    content = encoded(picture(size=(300, 200)), format)
    assert reason(content[: len(content) // 2]).startswith(("truncated or damaged: ", "not an image"))


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_the_reason_for_a_truncated_photo_says_so(format: str) -> None:
    content = encoded(picture(size=(300, 200)), format)
    assert "truncated" in reason(content[: len(content) * 2 // 3])


def test_floating_point_pixels_are_refused() -> None:
    assert reason(encoded(Image.new("F", (9, 9), 0.5), "TIFF")).startswith("floating-point pixels")


def test_32_bit_grey_beyond_16_bits_is_refused() -> None:
    image = Image.fromarray(np.full((9, 9), 70_000, np.int32))
    assert reason(encoded(image, "TIFF")).startswith("32-bit grey")


def test_a_photo_over_the_limit_is_refused_and_one_at_the_limit_is_not() -> None:
    content = encoded(picture(size=(60, 40)), "PNG")
    assert reason(content, 2399) == "60 x 40 pixels are over the limit of 2399 (FRUITS_MAX_IMAGE_PIXELS)"
    assert decode(content, 2400).width == 60


@pytest.mark.parametrize("side", [9_000, 12_000, 30_000])
def test_a_picture_bomb_is_refused_before_a_pixel_is_decoded(
    side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(self: ImageFile.ImageFile) -> None:
        raise AssertionError("decoded")

    bomb = png_with_header(side, side)
    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    assert len(bomb) < 200
    assert "over the limit of 50000000" in reason(bomb)


def test_pillows_own_limit_holds_under_a_higher_one_of_ours() -> None:
    assert "over Pillow's limit of" in reason(png_with_header(30_000, 30_000), 10**12)


def test_a_picture_between_pillows_warning_and_our_limit_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(encoded(picture(size=(60, 40)), "PNG"), LIMIT).width == 60


def test_a_picture_with_an_endless_side_is_refused() -> None:
    assert "a side is over" in reason(png_with_header(1_000_000, 1))


def test_a_bomb_in_the_text_of_a_png_is_refused() -> None:
    text = png_chunk(b"zTXt", b"Comment\x00\x00" + zlib.compress(bytes(20_000_000)))
    assert "damaged" in reason(png_with_header(9, 9, text))


def test_any_error_inside_pillow_becomes_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(picture(), "PNG")
    for error in (OverflowError("too  big\nindeed"), struct.error(), KeyError("x"), MemoryError()):

        def load(self: ImageFile.ImageFile, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(ImageFile.ImageFile, "load", load)
        monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
        words = reason(content)
        assert words and "\n" not in words


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_mutated_bytes_decode_or_are_refused_and_nothing_is_printed(
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
        # Half of the mutations go into the headers, where the parsers are.
        reach = int(rng.choice([min(200, len(mutant)), len(mutant)]))
        where = rng.integers(0, reach, rng.integers(1, 9))
        mutant[where] = rng.integers(0, 256, len(where))
        try:
            decoded = decode(mutant.tobytes()[: int(rng.integers(1, len(mutant) * 3))], 1_000_000)
        except BadImage as error:
            assert str(error)  # noqa: PT017
        else:
            assert decoded.image.mode == "RGB" and decoded.image.size == (decoded.width, decoded.height)
    # libtiff prints about damage by itself.
    assert format == "TIFF" or capfd.readouterr() == ("", "")


# Warnings.


def test_no_warning_leaks_and_none_of_others_is_silenced() -> None:
    exif = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x02\x00\x00\x00\x09\x00\x00\x00\x99"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        decode(encoded(picture(), "JPEG", exif=exif), LIMIT)
        reason(png_with_header(10_000, 10_000))
        warnings.warn("somebody else's", stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["somebody else's"]


def test_the_warning_filters_survive_decoding_in_many_threads() -> None:
    before = list(warnings.filters)
    content = encoded(picture(), "JPEG")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [
            threading.Thread(target=lambda: [decode(content, LIMIT) for _ in range(50)]) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert list(warnings.filters) == before


# The model's input.


def noise(size: tuple[int, int] = (100, 100), seed: int = 3) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    )


def test_the_models_input_is_bit_identical_to_the_formula() -> None:
    resized = noise().resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BICUBIC)
    expected = np.asarray(resized, np.float32) / 127.5 - 1
    actual = model_input(noise())
    assert actual.dtype == expected.dtype == np.float32
    assert actual.tobytes() == expected.tobytes()


def test_the_models_input_is_bit_identical_to_keras() -> None:
    from keras.applications.mobilenet_v2 import preprocess_input  # type: ignore[import-untyped]

    # Every byte value, at the model's size already, so that no resize hides one.
    levels = np.resize(np.arange(256, dtype=np.uint8), (IMAGE_SIDE, IMAGE_SIDE, 3))
    expected = preprocess_input(levels.astype(np.float32))
    assert model_input(Image.fromarray(levels)).tobytes() == expected.tobytes()


def test_the_models_input_can_fill_one_row_of_a_batch() -> None:
    batch = np.full((3, IMAGE_SIDE, IMAGE_SIDE, 3), 9, np.float32)
    model_input(noise(), out=batch[1])
    assert np.array_equal(batch[1], model_input(noise()))
    assert (batch[[0, 2]] == 9).all()


@pytest.mark.parametrize(
    "out",
    [np.empty((2, IMAGE_SIDE, IMAGE_SIDE, 3), np.float32), np.empty((IMAGE_SIDE, IMAGE_SIDE, 3), np.float16)],
    ids=["shape", "dtype"],
)
def test_a_row_of_another_shape_or_dtype_is_refused(out: np.ndarray) -> None:
    with pytest.raises(ValueError, match="not float32"):
        model_input(noise(), out=out)


def test_a_picture_that_is_not_rgb_is_no_input() -> None:
    with pytest.raises(ValueError, match="not RGB"):
        model_input(Image.new("L", (9, 9)))


def test_a_photo_of_any_shape_becomes_a_square() -> None:
    assert model_input(noise((1, 900))).shape == (IMAGE_SIDE, IMAGE_SIDE, 3)


# Thumbnails.


@pytest.mark.parametrize("count", [1, 2, 8])
@pytest.mark.parametrize("side", [48, 500])
def test_a_contact_sheet_is_one_row_of_at_most_a_kibibyte_a_picture(count: int, side: int) -> None:
    content = thumbnails([noise((side, side), seed) for seed in range(count)])
    sheet = Image.open(io.BytesIO(content))
    assert (sheet.format, sheet.size) == ("JPEG", (48 * count, 48))
    assert len(content) <= 1024 * count


def test_a_contact_sheet_keeps_the_shape_of_a_photo() -> None:
    content = thumbnails([Image.new("RGB", (200, 50), (0, 0, 0)), Image.new("RGB", (1, 9000), (0, 0, 0))])
    greys = np.asarray(Image.open(io.BytesIO(content)).convert("L"))
    assert greys[24, 4:44].max() < 60 and greys[4, 4:44].min() > 200 and greys[44, 4:44].min() > 200
    # The second photo is one column wide, in the middle of its square.
    assert greys[24, 52:66].min() > 200 and greys[24, 78:92].min() > 200


def test_no_photos_make_no_contact_sheet() -> None:
    assert thumbnails([]) == b""


def test_the_module_imports_nothing_but_pillow_and_numpy() -> None:
    import ast

    import spark_jobs.images as module

    roots = set()
    for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
        if isinstance(node, ast.Import):
            roots |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add((node.module or "").split(".")[0])
    assert roots - set(sys.stdlib_module_names) == {"PIL", "numpy"}
