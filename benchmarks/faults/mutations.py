"""Damaged and malicious variants of photos in all formats, by a seed: equal seeds give equal files.

Each photo has metadata with a marker, which no picture needs. No mutation copies it into the picture's data.
"""

import random
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageCms, PngImagePlugin, TiffImagePlugin

from benchmarks.faults.bombs import chunk, encoded, tiff
from spark_jobs.photos import jpeg

MARKER = b"SECRET"

# In half of the cases a mutation is among these first bytes, where the headers are.
_HEAD = 1024
_PNG, _RIFF = b"\x89PNG\r\n\x1a\n", b"RIFF"
# Boxes that contain boxes, and the bytes before them (ISO/IEC 14496-12).
_CONTAINERS = {b"meta": 4, b"iprp": 0, b"ipco": 0, b"iinf": 6, b"iref": 4}


class Part(NamedTuple):
    """A part of a file: a segment, chunk, block, directory entry or box.

    Its data begins at `payload`. Its length, or the number of its values, stands at `length` in `size` bytes.
    `around` has where the boxes around it begin.
    """

    start: int
    payload: int
    end: int
    length: int
    size: int
    around: tuple[int, ...] = ()


# Photos.


def photos(samples: Sequence[Path]) -> dict[str, bytes]:
    """A photo in each format and kind, with metadata, by file name. Each is one of the samples.

    Text follows the end of the file too, but for HEIF and AVIF: where such a file has lost bytes, the data of
    its picture reach into that text, and nothing in the file tells.
    """
    from pillow_heif import register_heif_opener

    register_heif_opener()
    pictures = []
    for sample in samples:
        with Image.open(sample) as picture:
            pictures.append(picture.convert("RGB").resize((120, 80)))
    made: dict[str, bytes] = {}
    for number, (name, make) in enumerate(_KINDS.items()):
        first, second = (pictures[(number + more) % len(pictures)] for more in (0, 1))
        made[name] = make(first, second) + (b"" if name.endswith((".heic", ".avif")) else MARKER * 20)
    return made


def _exif(orientation: int = 6) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = exif[ExifTags.Base.Make] = f"{MARKER.decode()} " * 10
    exif[ExifTags.Base.Orientation] = orientation
    exif.get_ifd(ExifTags.IFD.GPSInfo).update({1: "N", 2: (48.0, 51.0, 0.0), 3: "E", 4: (2.0, 21.0, 0.0)})
    return exif


def _saved(image: Image.Image, format: str, **options: Any) -> bytes:
    """A photo with EXIF, XMP and comments, as far as the format has them."""
    text = MARKER * 20
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/">%s</x:xmpmeta>' % text
    if format == "TIFF":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[270], tags[315], tags[700] = text.decode(), text.decode(), xmp
        return encoded(image, format, tiffinfo=tags, **options)
    if format == "PNG":
        texts = PngImagePlugin.PngInfo()
        texts.add_text("Comment", text.decode())
        texts.add_itxt("XML:com.adobe.xmp", xmp.decode())
        options["pnginfo"] = texts
    if format in ("JPEG", "MPO", "WEBP", "HEIF", "AVIF"):
        options["xmp"] = xmp
    if format in ("JPEG", "MPO", "GIF"):
        options["comment"] = text
    if format in ("JPEG", "MPO", "PNG", "WEBP", "HEIF", "AVIF"):
        # Pillow 13.0 crashes as it writes an AVIF of several pictures that are turned.
        turned = format != "AVIF" or "save_all" not in options
        options["exif"] = _exif(6 if turned else 1).tobytes()
    if format in ("JPEG", "PNG", "WEBP", "AVIF"):
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        options["icc_profile"] = profile[:24] + bytes(12) + profile[36:]  # without the time of now
    content = encoded(image, format, **options)
    for kind in (b"mvhd", b"tkhd", b"mdhd") if format == "AVIF" else ():
        # The times of now, after a version and flags: ISO/IEC 14496-12, section 8.2.2.
        before, box, after = content.partition(kind)
        content = before + box + after[:4] + bytes(16) + after[20:] if box else content
    return content


def _kind(format: str, mode: str = "RGB", **options: Any) -> Callable[[Image.Image, Image.Image], bytes]:
    def make(first: Image.Image, _: Image.Image) -> bytes:
        return _saved(_in_mode(first, mode), format, **options)

    return make


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    picture = image.convert(mode)
    if mode == "RGBA":
        picture.putalpha(Image.linear_gradient("L").resize(image.size))
    return picture


def _film(format: str, **options: Any) -> Callable[[Image.Image, Image.Image], bytes]:
    def make(first: Image.Image, second: Image.Image) -> bytes:
        return _saved(first, format, save_all=True, append_images=[second, first], **options)

    return make


def _interlaced(first: Image.Image, _: Image.Image) -> bytes:
    """A PNG in seven passes, which Pillow does not write."""
    pixels = np.asarray(first)
    rows = b"".join(
        b"\0" + row.tobytes()
        for top, left, down, right in (
            *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)),
            *((2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)),
        )
        for row in pixels[top::down, left::right]
    )
    header = struct.pack(">IIBBBBB", first.width, first.height, 8, 2, 0, 0, 1)
    texts = chunk(b"tEXt", b"Comment\0" + MARKER * 20) + chunk(b"eXIf", _exif().tobytes()[6:])
    body = chunk(b"IHDR", header) + texts + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return _PNG + body


def _tiles(first: Image.Image, _: Image.Image) -> bytes:
    """A TIFF of tiles, compressed by deflate, which Pillow does not write."""
    side, grey = 16, np.asarray(first.convert("L"))
    width, height = grey.shape[1] // side * side, grey.shape[0] // side * side
    tiles = [
        zlib.compress(grey[top : top + side, left : left + side].tobytes())
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]
    number, start = len(tiles), 512
    lists = start + 8 * number
    offsets = [lists + sum(map(len, tiles[:before])) for before in range(number)]
    data = struct.pack(f"<{2 * number}I", *offsets, *map(len, tiles)) + b"".join(tiles) + MARKER * 20
    size = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1)]
    places = [
        (322, 3, 1, side),
        (323, 3, 1, side),
        (324, 4, number, start),
        (325, 4, number, start + 4 * number),
    ]
    text = start + len(data) - len(MARKER) * 20
    return tiff(*size, (277, 3, 1, 1), (315, 2, len(MARKER) * 20, text), *places, data=data)


_KINDS: dict[str, Callable[[Image.Image, Image.Image], bytes]] = {
    "baseline.jpg": _kind("JPEG"),
    "progressive.jpg": _kind("JPEG", progressive=True),
    "restarts.jpg": _kind("JPEG", restart_marker_blocks=3, subsampling=0),
    "grey.jpg": _kind("JPEG", "L"),
    "cmyk.jpg": _kind("JPEG", "CMYK"),
    "two.jpg": _film("MPO"),
    "rgb.png": _kind("PNG"),
    "palette.png": _kind("PNG", "P", transparency=0),
    "16.png": _kind("PNG", "I;16"),
    "alpha.png": _kind("PNG", "RGBA"),
    "bits.png": _kind("PNG", "1"),
    "interlaced.png": _interlaced,
    "one.gif": _kind("GIF"),
    "film.gif": _film("GIF"),
    "lossy.webp": _kind("WEBP"),
    "lossless.webp": _kind("WEBP", lossless=True),
    "alpha.webp": _kind("WEBP", "RGBA"),
    "film.webp": _film("WEBP"),
    "rgb.bmp": _kind("BMP"),
    "palette.bmp": _kind("BMP", "P"),
    "raw.tif": _kind("TIFF"),
    "strips.tif": _kind("TIFF", strip_size=1024),
    "lzw.tif": _kind("TIFF", compression="tiff_lzw"),
    "deflate.tif": _kind("TIFF", compression="tiff_adobe_deflate"),
    "jpeg.tif": _kind("TIFF", compression="jpeg"),
    "tiles.tif": _tiles,
    "one.heic": _kind("HEIF"),
    "alpha.heic": _kind("HEIF", "RGBA"),
    "two.heic": _film("HEIF"),
    "one.avif": _kind("AVIF"),
    "alpha.avif": _kind("AVIF", "RGBA"),
    "film.avif": _film("AVIF"),
}


# Mutations.


def mutations(samples: Sequence[Path], seed: int, number: int) -> Iterator[tuple[str, bytes]]:
    """`number` mutated files, each with its name, which tells the photo and the first mutation."""
    originals = photos(samples)
    for index in range(number):
        dice = random.Random(seed * 1_000_003 + index)
        name = list(originals)[(index + seed) % len(originals)]
        first = dice.choice(_MUTATIONS)
        content = first(_Case(originals[name], list(originals.values()), dice))
        if dice.random() < 0.5:
            content = repaired(content)
        while content and dice.random() < 0.3:
            content = dice.choice(_OF_BYTES)(_Case(content, (), dice))
        stem, _, extension = name.partition(".")
        yield f"{index:04}-{stem}-{first.__name__.strip('_')}.{extension}", content


class _Case(NamedTuple):
    """A photo to mutate, all photos, and the dice."""

    content: bytes
    others: Sequence[bytes]
    dice: random.Random

    def place(self) -> int:
        end = len(self.content)
        return self.dice.randrange(min(end, _HEAD) if self.dice.random() < 0.5 else end)

    def part(self) -> Part:
        return self.dice.choice(parts(self.content))

    def put(self, position: int, data: bytes) -> bytes:
        """The content with other bytes from a position on."""
        return self.content[:position] + data + self.content[position + len(data) :]

    def number(self, value: int, size: int) -> bytes:
        """A number of a header; larger ones are cut."""
        little = self.content[:4] == _RIFF or self.content[:2] in (b"II", b"BM", b"GI")
        return (value % (1 << 8 * size)).to_bytes(size, "little" if little else "big")

    def inserted(self, position: int, data: bytes, around: Sequence[int]) -> bytes:
        """The content with more bytes. The boxes around the position grow, so that the rest stays whole."""
        grown = bytearray(self.content)
        for box in around:
            size = int.from_bytes(grown[box : box + 4], "big") + len(data)
            grown[box : box + 4] = (size % (1 << 32)).to_bytes(4, "big")
        return bytes(grown[:position] + data + grown[position:])


_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def _bits(case: _Case) -> bytes:
    content = bytearray(case.content)
    for _ in range(case.dice.randint(1, 8)):
        content[case.place()] ^= 1 << case.dice.randrange(8)
    return bytes(content)


def _bytes(case: _Case) -> bytes:
    content = bytearray(case.content)
    for _ in range(case.dice.randint(1, 8)):
        content[case.place()] = case.dice.randrange(256)
    return bytes(content)


def _cut(case: _Case) -> bytes:
    return case.content[: case.place()]


def _run(case: _Case) -> bytes:
    length = case.dice.choice((1, 2, 3, 4, 16, 100, 1000))
    kind = case.dice.randrange(3)
    return case.dice.randbytes(length) if kind == 0 else bytes([255 * (kind - 1)]) * length


def _inserted_run(case: _Case) -> bytes:
    return case.inserted(case.place(), _run(case), ())


def _overwritten_run(case: _Case) -> bytes:
    return case.put(case.place(), _run(case))


def _removed_run(case: _Case) -> bytes:
    position = case.place()
    return case.content[:position] + case.content[position + case.dice.choice((1, 2, 3, 4, 16, 100)) :]


def _extreme_length(case: _Case) -> bytes:
    part = case.part()
    return case.put(part.length, case.number(case.dice.choice(_EXTREMES), part.size))


def _near_length(case: _Case) -> bytes:
    """A length that is off by a few bytes."""
    part = case.part()
    field = case.content[part.length : part.length + part.size]
    little = case.number(1, part.size)[0] == 1 and part.size > 1
    value = int.from_bytes(field, "little" if little else "big")
    return case.put(part.length, case.number(value + case.dice.choice((-4, -2, -1, 1, 2, 4)), part.size))


def _swallowed_part(case: _Case) -> bytes:
    """A part whose length takes in the parts that follow."""
    part = case.part()
    field = case.content[part.length : part.length + part.size]
    little = case.number(1, part.size)[0] == 1 and part.size > 1
    value = int.from_bytes(field, "little" if little else "big")
    ends = [other.end for other in parts(case.content) if other.end > part.end] or [len(case.content)]
    more = case.dice.choice(ends[:4]) - part.end
    return case.put(part.length, case.number(value + more, part.size))


def _extreme_number(case: _Case) -> bytes:
    """A width, a height, a count, an offset or a code: a number near the start of a part."""
    content = case.content
    for _ in range(case.dice.randint(1, 3)):
        part, size = case.part(), case.dice.choice((1, 2, 4))
        position = part.start + case.dice.randrange(max(1, min(32, part.end - part.start)))
        content = case._replace(content=content).put(position, case.number(case.dice.choice(_EXTREMES), size))
    return content[: len(case.content)]


def _removed_part(case: _Case) -> bytes:
    part = case.part()
    return case.content[: part.start] + case.content[part.end :]


def _repeated_part(case: _Case) -> bytes:
    part = case.part()
    again = case.content[part.start : part.end] * case.dice.choice((1, 1, 2, 10, 1000))
    return case.inserted(part.end, again[:1_000_000], part.around)


def _moved_part(case: _Case) -> bytes:
    part, other = case.part(), case.part()
    data = case.content[part.start : part.end]
    if other.start >= part.end:
        between = case.content[part.end : other.end]
        return case.content[: part.start] + between + data + case.content[other.end :]
    between = case.content[other.start : part.start] if other.start < part.start else b""
    return case.content[: part.start - len(between)] + data + between + case.content[part.end :]


def _nested_part(case: _Case) -> bytes:
    """A part at the start of the data of another, which is longer by it."""
    part, other = case.part(), case.part()
    data = case.content[part.start : part.end]
    field = case.content[other.length : other.length + other.size]
    little = case.number(1, other.size)[0] == 1 and other.size > 1
    value = int.from_bytes(field, "little" if little else "big") + len(data)
    grown = case._replace(content=case.put(other.length, case.number(value, other.size)))
    return grown.inserted(other.payload, data, other.around)


def _glued(case: _Case) -> bytes:
    """Two files, one after the other, or the start of one with the end of another."""
    other = case.dice.choice(case.others)
    if case.dice.random() < 0.3:
        return case.content + other
    return case.content[: case.place()] + other[case.dice.randrange(len(other)) // 2 :]


_OF_BYTES = (_bits, _bytes, _cut, _inserted_run, _overwritten_run, _removed_run)
_OF_PARTS = (
    *(_extreme_length, _near_length, _swallowed_part, _extreme_number, _extreme_number, _removed_part),
    *(_repeated_part, _moved_part, _nested_part, _glued),
)
_MUTATIONS = (*_OF_BYTES, *_OF_PARTS)


def repaired(content: bytes) -> bytes:
    """A PNG with right checksums, or a WebP with the right length: a decoder goes on to the damage."""
    if content.startswith(_PNG):
        kept = bytearray(content)
        for part in _chunks(content):
            kept[part.end - 4 : part.end] = zlib.crc32(content[part.start + 4 : part.end - 4]).to_bytes(
                4, "big"
            )
        return bytes(kept)
    if content[:4] == _RIFF and len(content) > 8:
        return content[:4] + struct.pack("<I", len(content) - 8) + content[8:]
    return content


# The parts of each format.


def parts(content: bytes) -> list[Part]:
    """The parts of a file, up to where it is damaged."""
    if content.startswith(b"\xff\xd8"):
        found = [Part(s.start, s.start + 4, s.end, s.start + 2, 2) for s in jpeg.segments(content)]
    elif content.startswith(_PNG):
        found = list(_chunks(content))
    elif content.startswith(_RIFF):
        found = list(_riff(content, 12, len(content)))
    elif content.startswith(b"GIF"):
        found = list(_blocks(content))
    elif content.startswith(b"BM"):
        found = [
            Part(0, 2, 14, 2, 4),
            Part(14, 18, 54, 14, 4),
            Part(34, 34, 54, 34, 4),
            Part(54, 54, 99, 10, 4),
        ]
    elif content[:4] in (b"II*\0", b"MM\0*"):
        found = list(_entries(content, "<" if content[:1] == b"I" else ">"))
    else:
        found = list(_boxes(content, 0, len(content), ()))
    return found or [Part(0, 0, len(content), 0, 4)]


def _chunks(content: bytes) -> Iterator[Part]:
    position = len(_PNG)
    while position + 12 <= len(content):
        end = position + 12 + int.from_bytes(content[position : position + 4], "big")
        if end > len(content):
            return
        yield Part(position, position + 8, end, position, 4)
        position = end


def _riff(content: bytes, position: int, end: int) -> Iterator[Part]:
    while position + 8 <= end:
        size = int.from_bytes(content[position + 4 : position + 8], "little")
        after = position + 8 + size + size % 2
        if after > end:
            return
        yield Part(position, position + 8, after, position + 4, 4)
        if content[position : position + 4] == b"ANMF":
            yield from _riff(content, position + 24, after)
        position = after


def _blocks(content: bytes) -> Iterator[Part]:
    position = 13 + _colours(content[10])
    yield Part(0, 6, position, 6, 2)
    while position + 10 < len(content):
        start, kind = position, content[position]
        if kind == 0x21:
            position += 2
        elif kind == 0x2C:
            position += 11 + _colours(content[position + 9])
        else:
            return
        length = position
        while position < len(content) and content[position]:
            position += 1 + content[position]
        position += 1
        if position > len(content):
            return
        yield Part(start, length + 1, position, length, 1)


def _colours(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _entries(content: bytes, order: str) -> Iterator[Part]:
    [start] = struct.unpack_from(f"{order}I", content, 4)
    yield Part(0, 2, 8, 4, 4)
    [number] = struct.unpack_from(f"{order}H", content.ljust(start + 2, b"\0"), start)
    yield Part(start, start + 2, min(start + 2 + 12 * number, len(content)), start, 2)
    for entry in range(min(number, 100)):
        place = start + 2 + 12 * entry
        yield Part(place, place + 8, place + 12, place + 4, 4)


def _boxes(content: bytes, position: int, end: int, around: tuple[int, ...]) -> Iterator[Part]:
    while position + 8 <= end:
        size = int.from_bytes(content[position : position + 4], "big")
        if size < 8 or position + size > end:
            return
        yield Part(position, position + 8, position + size, position, 4, around)
        if (skipped := _CONTAINERS.get(content[position + 4 : position + 8])) is not None:
            yield from _boxes(content, position + 8 + skipped, position + size, (*around, position))
        position += size
