"""Checks and decodes the bytes of one photo, with Pillow and NumPy only.

The bytes come from strangers, so the rules are strict:

| The file                                 | What `decode` does                                              |
|------------------------------------------|-----------------------------------------------------------------|
| JPEG, MPO, PNG, GIF, WebP, BMP, TIFF,    | read by its contents; the name and its extension do not matter  |
| HEIC and other HEIF, AVIF                |                                                                 |
| any other format (SVG, EPS, HTML, text)  | refused; formats that run an interpreter are never tried        |
| empty, truncated, damaged                | refused; every pixel is decoded here, so no later step fails    |
| a JPEG that lacks only its end marker    | read                                                            |
| other data where a JPEG's end marker was | refused; they may be metadata                                   |
| over `max_pixels`, or a side over 65535  | refused from the header, before a pixel is decoded              |
| more memory than `max_pixels` allows     | refused from the header: see `_memory`                          |
| a JPEG of more than 100 scans            | refused; each scan costs as much time as a whole picture        |
| a JPEG of 100,000 segments or more       | refused; the time for EXIF grows with the square of the number  |
| grey, palette, CMYK, YCbCr, LAB          | Pillow's conversion to RGB; colour profiles are not applied     |
| 16 bits a channel                        | the high byte of each value                                     |
| 32-bit integer grey                      | as 16-bit grey if its values fit in 16 bits, else refused       |
| floating point                           | refused: the file does not tell which value is white            |
| transparency                             | laid over white, the background of the fruit photos             |
| several frames or pages                  | the first                                                       |
| EXIF orientation                         | applied; broken EXIF is ignored                                 |

Pillow refuses metadata that unpacks to megabytes. `max_pixels` applies instead of its limit of pixels.

A JPEG decoder conceals some damage inside the data; `decode` cannot detect it. Pillow's warnings are
silenced. The lines that libtiff itself prints to stderr about a damaged TIFF cannot be silenced.
"""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import AvifImagePlugin, ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from spark_jobs.dimensions import IMAGE_SIDE
from spark_jobs.photos.jpeg import (
    END,
    MOST_SEGMENTS,
    frame_size,
    has_more_scans,
    has_too_many_segments,
    lacks_its_end,
    lacks_only_its_end,
    scans,
)
from spark_jobs.photos.signatures import signature

# "JPEG" covers MPO: Pillow's JPEG reader opens it, and "MPO" is not accepted in a list of formats.
_OTHERS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
_IN_BOXES = ("HEIF", "AVIF")
FORMATS = (*_OTHERS, *_IN_BOXES)

# How files begin, by the names of their formats.
_STARTS = {
    "a JPEG": re.compile(rb"\xff\xd8\xff"),
    "a PNG": re.compile(rb"\x89PNG"),
    "a GIF": re.compile(rb"GIF8"),
    "a WebP": re.compile(rb"RIFF....WEBP", re.DOTALL),
    "a BMP": re.compile(rb"BM.{4}\0{4}", re.DOTALL),
    "a TIFF": re.compile(rb"II\*\0|MM\0\*"),
    "a HEIF or AVIF": re.compile(rb"....ftyp", re.DOTALL),
}

# A version of the rules in the table above. After a change, the next run checks each photo again.
RULES = "3"

# The errors whose text is of a decoder. In the text of any other, Python speaks of its own indices and types.
_OF_DECODERS = (OSError, SyntaxError, EOFError, RuntimeError)

# The limit of the JPEG format. A picture of 50000000 x 1 is within the limit of pixels, yet the coefficients
# of its bicubic filter take 1.6 GB.
MAX_SIDE = 65_535

# A progressive photo has about 10 scans. libjpeg-turbo's own tools stop at 100 where they are asked to.
MAX_SCANS = 100

# What a pixel may cost, in bytes: Pillow keeps RGB in 4 bytes, and the turned picture beside it.
_PIXEL_BYTES = 8
# What a pixel costs in the decoder itself: the coefficients of a progressive JPEG, two canvases of a WebP,
# and the planes of HEIF and AVIF beside their RGB.
_DECODER_BYTES = {"JPEG progressive": 6, "WEBP": 8, "HEIF": 6, "AVIF": 6}
# A tile of a TIFF may have this many pixels, however small the picture is.
_TILE_PIXELS = 1 << 22

# A photo waits for the preview of its class in this size, in pixels.
_PREVIEW_SIDE = 96
THUMBNAIL_SIDE = 48  # pixels
# The preview becomes metadata of an event in Dagster's database, so it has to stay small. At this quality
# 48 x 48 pixels of noise take 0.7 to 1.0 KiB, and a photo of a fruit takes 0.4 KiB.
THUMBNAIL_QUALITY = 35

# Two kinds of bits after the data of a JPEG.
_FILLS = (bytes(64), b"\xa5" * 64)
# The last byte of a JPEG's picture may have a single bit of it, and these bytes have at least 17.
_LAST_BYTES = 4

# A JPEG that is decoded in a smaller scale keeps at least this length of its sides, in pixels: twice the side
# of the model's input, which is then reduced further with all of its filter.
_SCALED_SIDE = 2 * IMAGE_SIDE

# The transposition that makes the stored picture upright, by the value of EXIF 2.32, tag 0x0112.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImage(ValueError):
    """A photo that goes to quarantine. The message is the reason: a short phrase for a person."""


class Decoded(NamedTuple):
    """A decoded photo: an RGB picture, upright, which may be smaller than the photo.

    `width` and `height` are those of the upright photo, in pixels.
    """

    image: Image.Image
    width: int
    height: int
    format: str


def decode(content: bytes, max_pixels: int, *, scaled: bool = False) -> Decoded:
    """Decodes a whole photo by the rules in the module's table.

    Args:
        content: the bytes of the file.
        max_pixels: the largest allowed width x height, in pixels.
        scaled: whether a JPEG is decoded in the smallest scale (1/2, 1/4, 1/8) in which each side has at
            least 448 pixels. Its inverse DCT computes fewer pixels then, in a sixth of the time.

    Returns:
        The upright RGB picture, the size of the photo in pixels, and Pillow's name of its format ("JPEG",
        "PNG", ...).

    Raises:
        BadImage: the photo cannot be used; the message is the reason. No other exception is raised.
    """
    if not content:
        raise BadImage("empty file")
    with _pillow_without_warnings_and_limit():
        try:
            image, (width, height) = _loaded(content, max_pixels, scaled)
            rgb = _to_rgb(image)
            orientation = _orientation(image) or 1
            turn = _UPRIGHT.get(orientation)
            upright = rgb if turn is None else rgb.transpose(turn)
            if orientation >= 5 and turn is not None:
                width, height = height, width
        except BadImage:
            raise
        except UnidentifiedImageError:
            kind = signature(content)
            start = next((name for name, start in _STARTS.items() if start.match(content)), "")
            if start and not kind:
                raise BadImage(f"truncated or damaged: it begins as {start}, but no header follows") from None
            formats = f"not an image in a supported format ({', '.join(FORMATS)})"
            raise BadImage(f"{formats}: it is {kind}" if kind else formats) from None
        except MemoryError:
            raise BadImage("not enough memory to decode it") from None
        except Exception as error:
            # Pillow documents no closed list. Its parsers have raised OSError, SyntaxError, ValueError,
            # struct.error, EOFError, zlib.error, OverflowError and AssertionError, among other errors.
            message = " ".join(str(error).split())[:200] if isinstance(error, _OF_DECODERS) else ""
            raise BadImage(
                f"truncated or damaged: {message or 'its data are not as its header says'}"
            ) from error
    return Decoded(image=upright, width=width, height=height, format=image.format or "")


@contextmanager
def _pillow_without_warnings_and_limit() -> Iterator[None]:
    """This changes the whole process, which is safe because no caller decodes in threads."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    threads, AvifImagePlugin.DEFAULT_MAX_THREADS = AvifImagePlugin.DEFAULT_MAX_THREADS, 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS, AvifImagePlugin.DEFAULT_MAX_THREADS = limit, threads


def _loaded(content: bytes, max_pixels: int, scaled: bool) -> tuple[Image.Image, tuple[int, int]]:
    """The picture with its pixels, and the size of the photo.

    The pixels are decoded only after the header was found to be harmless.
    """
    _check_parts(content)
    if content[:4] == b"RIFF":
        _check_size(*_webp_size(content), max_pixels)  # Pillow reserves the canvas when it opens the file
    in_boxes = content[4:8] == b"ftyp"  # the first box of HEIF and AVIF (ISO/IEC 14496-12)
    if in_boxes:
        _register_heif()
    image: Image.Image = Image.open(io.BytesIO(content), formats=_IN_BOXES if in_boxes else _OTHERS)
    _check_size(image.width, image.height, max_pixels)
    _check_header(image, content, max_pixels)
    size = image.size
    if scaled:
        _scale(image)
    if image.format in ("JPEG", "MPO") and lacks_its_end(content):
        image = _ended(content, scaled)
    else:
        image.load()
    return image, size


def _scale(image: Image.Image) -> None:
    """Makes the decoder of a JPEG read it in a smaller scale. Other formats stay as they are."""
    image.draft(None, (_SCALED_SIDE, _SCALED_SIDE))


@cache
def _register_heif() -> None:
    """Lets Pillow read HEIF. The import takes 50 ms, which a process without such photos saves."""
    from pillow_heif import register_heif_opener

    # Spark runs one task on each core. Thumbnails and depths would be decoded beside the picture.
    register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)


def _ended(content: bytes, scaled: bool) -> Image.Image:
    """A JPEG whose end marker is missing. Raises `BadImage` where more than the marker is missing.

    If bits of the picture were missing, its pixels would depend on the bits that follow. If they do not
    depend on the last bits that are there, these are no part of the picture: then its end marker is damaged,
    and anything may follow.
    """
    if not lacks_only_its_end(content):
        raise BadImage("truncated or damaged: the end of a JPEG of several scans is missing")
    data = content.removesuffix(b"\xff")  # half of the marker
    picture = _filled(data, _FILLS[0], scaled)
    if picture.tobytes() != _filled(data, _FILLS[1], scaled).tobytes():
        raise BadImage("truncated or damaged: the end of its picture is missing")
    # A smaller scale would not need all bits.
    end = _last_lines(_filled(data, _FILLS[0], scaled=False) if scaled else picture)
    shorter = data[:-_LAST_BYTES]
    if all(_last_lines(_filled(shorter, fill, scaled=False)) == end for fill in _FILLS):
        raise BadImage("its end marker is damaged, and other data follow its picture")
    return picture


def _filled(data: bytes, fill: bytes, scaled: bool) -> Image.Image:
    """The picture of a JPEG with other bits between its data and an end marker."""
    image = Image.open(io.BytesIO(data + fill + bytes([0xFF, END])))
    if scaled:
        _scale(image)
    return image


def _last_lines(image: Image.Image) -> bytes:
    """The pixels of the lowest blocks of a JPEG, which have at most 32 lines."""
    return image.crop((0, max(0, image.height - 32), image.width, image.height)).tobytes()


def size_in_header(content: bytes) -> tuple[int, int] | None:
    """The width and height of a JPEG, PNG, GIF, BMP or WebP from its header, in pixels; else None."""
    if content[:2] == b"\xff\xd8":
        return frame_size(content)
    if content[:8] == b"\x89PNG\r\n\x1a\n":
        return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    if content[:4] == b"GIF8":
        return int.from_bytes(content[6:8], "little"), int.from_bytes(content[8:10], "little")
    if content[:2] == b"BM" and content[14:15] == b"\x28":
        return (
            abs(int.from_bytes(content[18:22], "little", signed=True)),
            abs(int.from_bytes(content[22:26], "little", signed=True)),
        )
    return _webp_size(content) if content[:4] == b"RIFF" else None


def _webp_size(content: bytes) -> tuple[int, int]:
    """The size of a WebP from its header (RFC 9649), in pixels; (1, 1) if it is none."""
    kind, head = content[12:16], content[20:30].ljust(10, b"\0")
    if kind == b"VP8X":
        return (
            int.from_bytes(head[4:7], "little") + 1,
            int.from_bytes(head[7:10], "little") + 1,
        )
    if kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return (
            max(1, int.from_bytes(head[6:8], "little") & 0x3FFF),
            max(1, int.from_bytes(head[8:10], "little") & 0x3FFF),
        )
    return 1, 1


def _check_parts(content: bytes) -> None:
    """Raises `BadImage` for a JPEG that would take Pillow hours."""
    if has_too_many_segments(content):
        raise BadImage(f"a JPEG of {MOST_SEGMENTS:,} segments or more")
    if has_more_scans(content, MAX_SCANS):
        raise BadImage(f"a JPEG of {scans(content):,} scans; {MAX_SCANS} are allowed")


def _check_header(image: Image.Image, content: bytes, max_pixels: int) -> None:
    """Raises `BadImage` where a header promises more time or memory than a photo needs."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        width, height = (
            int(image.tag_v2.get(tag, 0)) for tag in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH)
        )
        if width * height > max(_TILE_PIXELS, image.width * image.height):
            raise BadImage(f"its tiles of {width} x {height} pixels are larger than the picture")
    needed, allowed = _memory(image), _PIXEL_BYTES * max_pixels
    if needed > allowed:
        raise BadImage(
            f"decoding its {image.width} x {image.height} pixels takes {needed / 1e9:.2f} GB; "
            f"FRUITS_MAX_IMAGE_PIXELS={max_pixels} allows {allowed / 1e9:.2f} GB"
        )


def _memory(image: Image.Image) -> int:
    """The bytes that decoding takes at most, from the mode and the format of a picture.

    Pillow keeps a pixel of grey or of a palette in 1 byte, of 16 bits in 2, and of any other mode in 4. The
    conversion to RGB and the turning each take 4 more. Transparency takes RGBA, an alpha and white beside it.
    """
    kept = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2}.get(image.mode, 4)
    turned = 4 if (_orientation(image) or 1) != 1 else 0
    progressive = bool(image.info.get("progressive") or image.info.get("progression"))
    decoder = _DECODER_BYTES.get("JPEG progressive" if progressive else str(image.format), 0)
    converted = 0 if image.mode == "RGB" else 4
    if image.mode == "I" or image.mode.startswith("I;"):
        converted += 5  # NumPy's values and their high bytes
    if image.has_transparency_data:
        converted += 5
    return image.width * image.height * (kept + converted + turned + decoder)


def preview(photo: Decoded) -> Image.Image:
    """A small picture of a photo, for `thumbnails`: its longer side has 96 pixels."""
    return photo.image.resize(_fitted(photo.width, photo.height, _PREVIEW_SIDE), Image.Resampling.BICUBIC)


def _fitted(width: int, height: int, side: int) -> tuple[int, int]:
    """The size whose longer side is `side`, in the same proportions."""
    scale = side / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def thumbnails(images: Sequence[Image.Image]) -> bytes:
    """A preview: one row of thumbnails as a JPEG of at most 1 KiB for each picture, even of pure noise.

    Args:
        images: RGB pictures. Each is fitted whole into a white square of 48 x 48 pixels.

    Returns:
        The bytes of a JPEG of `len(images) * 48` x 48 pixels, or no bytes if there are no pictures.
    """
    if not images:
        return b""
    side = THUMBNAIL_SIDE
    sheet = Image.new("RGB", (side * len(images), side), "white")
    for column, image in enumerate(images):
        width, height = _fitted(*image.size, side)
        small = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
        sheet.paste(small, (column * side + (side - width) // 2, (side - height) // 2))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=THUMBNAIL_QUALITY, optimize=True)
    return buffer.getvalue()


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise BadImage(f"{width} x {height} pixels: the picture is empty")
    if width * height > max_pixels:
        raise BadImage(
            f"{width} x {height} pixels are over the limit of {max_pixels} (FRUITS_MAX_IMAGE_PIXELS)"
        )
    if max(width, height) > MAX_SIDE:
        raise BadImage(f"{width} x {height} pixels: a side is over {MAX_SIDE}")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise BadImage("floating-point pixels: the file does not tell which value is white")
    if image.mode == "I" or image.mode.startswith("I;"):
        return _grey_from_16_bits(image)
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(layered, mask=layered.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey_from_16_bits(image: Image.Image) -> Image.Image:
    """RGB from the high byte of grey values over 8 bits; Pillow's `convert` would clip them at 255.

    Pillow takes the high byte of 16-bit colour, so the same grey in a file of either kind gives the same
    pixel. The high byte also reverses exactly the widening of 8 bits to 16 (`v * 257`).
    """
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65_535:
        raise BadImage("32-bit grey beyond 16 bits: the file does not tell which value is white")
    grey = (values >> 8).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def _orientation(image: Image.Image) -> int | None:
    # To be called after load(): Pillow turns a TIFF itself while it loads, and then drops the tag.
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        return None
    return value if isinstance(value, int) else None
