"""Small files that take much time or memory, and the largest photos of each kind."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import ExifTags, Image

from spark_jobs.photos import jpeg

# 49 megapixels, in each mode.
SIDE = 7000


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, format, **options)
    return content.getvalue()


def scans(number: int) -> bytes:
    """A progressive JPEG of many scans: 200,000 take 20 minutes."""
    content = encoded(Image.new("L", (SIDE, SIDE)), "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * (number - jpeg.scans(content)) + content[-2:]


def segments() -> bytes:
    """A small JPEG with 400,000 segments of EXIF."""
    content = encoded(Image.new("RGB", (64, 64)), "JPEG")
    return content[:2] + b"\xff\xe1\0\x08Exif\0\0" * 400_000 + content[2:]


def tiff(*entries: tuple[int, int, int, int], data: bytes = b"") -> bytes:
    """A TIFF of one directory, with entries (tag, type, number, value), and `data` from byte 512 on."""
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    return (head + directory).ljust(512, b"\0") + data


def tile(side: int) -> bytes:
    """A TIFF of 16 x 16 pixels with a tile that is much larger."""
    packed = zlib.compress(bytes(1 << 20))
    size = [(256, 3, 1, 16), (257, 3, 1, 16), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    places = [(322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 512), (325, 4, 1, len(packed))]
    return tiff(*size, *places, data=packed)


def strips() -> bytes:
    """A TIFF of 16 x 16 pixels with 2.5 million offsets of strips."""
    number = 2_500_000
    size = [(256, 3, 1, 16), (257, 3, 1, 16), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    places = [(273, 4, number, 512), (277, 3, 1, 1), (278, 3, 1, 16), (279, 4, 1, 256)]
    return tiff(*size, *places, data=bytes(4 * number))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(more: bytes) -> bytes:
    content = encoded(Image.new("RGB", (64, 64)), "PNG")
    return content[:33] + more + content[33:]


def rationals() -> bytes:
    """A PNG whose orientation is 1.25 million fractions."""
    exif = struct.pack("<4sIHHHIII", b"II*\0", 8, 1, 0x0112, 5, 1_250_000, 26, 0) + bytes(8 * 1_250_000)
    return png(chunk(b"eXIf", exif))


def turned() -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return encoded(Image.new("RGB", (SIDE, SIDE), "red"), "JPEG", exif=exif)


def grey_32() -> bytes:
    return encoded(Image.fromarray(np.zeros((SIDE, SIDE), np.int32)), "TIFF", compression="tiff_lzw")


# Files to refuse: how each is made, and a part of the reason.
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "scans.jpg": (lambda: scans(2_000), "a JPEG of 2,000 scans; 100 are allowed"),
    "scans-2.jpg": (lambda: scans(200_000), "a JPEG of 100,000 segments or more"),
    "segments.jpg": (segments, "a JPEG of 100,000 segments or more"),
    "tile.tif": (lambda: tile(26_624), "its tiles of 26624 x 26624 pixels are larger than the picture"),
    "tile-2.tif": (lambda: tile(24_000), "its tiles of 24000 x 24000 pixels are larger than the picture"),
    "strips.tif": (strips, ""),
    "texts.png": (lambda: png(chunk(b"tEXt", b"a\0b") * 1_000_000), ""),
    "wide.webp": (
        lambda: encoded(Image.new("RGB", (16_383, 8_000)), "WEBP", lossless=True, method=0),
        "16383 x 8000 pixels are over the limit of 120000000",
    ),
    "rgba.webp": (
        lambda: encoded(Image.new("RGBA", (16_383, 3_000)), "WEBP", lossless=True, method=0),
        "decoding its 16383 x 3000 pixels takes 1.03 GB",
    ),
    "rgba.png": (
        lambda: encoded(Image.new("RGBA", (12_000, 9_900)), "PNG", compress_level=1),
        "decoding its 12000 x 9900 pixels takes 1.54 GB",
    ),
}
# Photos that take much time or memory too, yet are photos.
LARGE: dict[str, Callable[[], bytes]] = {
    "phone.jpg": lambda: encoded(Image.new("RGB", (8192, 6144), "green"), "JPEG"),
    "turned.jpg": turned,
    "progressive.jpg": lambda: encoded(Image.new("RGB", (SIDE, SIDE)), "JPEG", progressive=True),
    "cmyk.jpg": lambda: encoded(Image.new("CMYK", (SIDE, SIDE)), "JPEG"),
    "grey.jpg": lambda: encoded(Image.new("L", (SIDE, SIDE)), "JPEG"),
    "alpha.png": lambda: encoded(Image.new("RGBA", (SIDE, SIDE)), "PNG", compress_level=1),
    "palette.png": lambda: encoded(Image.new("P", (SIDE, SIDE)), "PNG", compress_level=1, transparency=0),
    "grey-16.png": lambda: encoded(Image.new("I;16", (SIDE, SIDE)), "PNG", compress_level=1),
    "grey-32.tif": grey_32,
    "rgb.webp": lambda: encoded(Image.new("RGB", (16_383, 3_000)), "WEBP", lossless=True, method=0),
    "rationals.png": rationals,
}
