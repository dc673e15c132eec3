"""A TIFF of the first picture of another TIFF, with the tags that a decoder needs (TIFF 6.0)."""

import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from spark_jobs.photos.profiles import is_profile
from spark_jobs.photos.ranges import Range, overlap

# Bytes of a value, by the number of its type.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_PROFILE = 34675
_COMPRESSION, _OLD_JPEG, _JPEG = 259, 6, 7
# Where the pieces of a picture are, and their lengths: of strips, or of tiles.
_PIECES = ((273, 279), (324, 325))
# Tags of baseline TIFF, of its compressions and tiles, of alpha, and of a colour profile (34675).
_KEPT = {
    *(256, 257, 258, 259, 262, 263, 266, 273, 274, 277, 278, 279, 280, 281, 282, 283, 284, 292, 293, 296),
    *(301, 317, 318, 319, 320, 322, 323, 324, 325, 332, 334, 338, 339, 340, 341, 347),
    *(512, 513, 514, 529, 530, 531, 532, _PROFILE),
}
# Tags of lists: of strips and tiles, samples, colours, tables of a JPEG. All others have a few numbers.
_LISTS = {*(258, 273, 279, 280, 281, 301, 320, 324, 325, 338, 339, 340, 341, 347, _PROFILE)}
_FEW_BYTES = 48
_TEXT = 2
# Tags with the place of another directory: of EXIF and of GPS.
_DIRECTORIES = (34665, 34853)
# A picture of 250 megapixels has fewer strips or tiles.
_MOST_PIECES = 1_000_000


class _Entry(NamedTuple):
    """A value of a directory: the number of its type, how many there are, and where their bytes are."""

    kind: int
    number: int
    start: int
    data: bytes

    @property
    def place(self) -> Range:
        return self.start, self.start + len(self.data)


def first_picture(content: bytes) -> bytes:
    """Raises `ValueError` or `struct.error` where the TIFF is not as the format says."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(content[:4])
    if order is None:
        raise ValueError("the TIFF is of more than 4 GB, or of an unknown kind")
    [start] = struct.unpack_from(f"{order}I", content, 4)
    entries = _directory(content, order, start)
    if _PROFILE in entries and not is_profile(entries[_PROFILE].data):
        del entries[_PROFILE]
    compression = _numbers(entries[_COMPRESSION], order)[0] if _COMPRESSION in entries else 1
    if compression == _OLD_JPEG:
        raise ValueError("the TIFF has a JPEG of the old kind")
    said = [pair for pair in _PIECES if entries.keys() >= set(pair)]
    if len(said) != 1:
        raise ValueError("the TIFF does not say where its picture is")
    [(offsets_tag, lengths_tag)] = said
    starts, lengths = (_numbers(entries[tag], order) for tag in (offsets_tag, lengths_tag))
    if len(starts) != len(lengths):
        raise ValueError("the TIFF does not say where its picture is")
    if sum(lengths) > len(content):
        raise ValueError("the pieces of the TIFF are longer than the file")
    places = [(start, start + length) for start, length in zip(starts, lengths, strict=True)]
    places += [entry.place for entry in entries.values()]
    if overlap(places, _metadata(content, order, start)):
        raise ValueError("a part of the picture is also a part of its metadata")
    pieces = [content[start : start + length] for start, length in zip(starts, lengths, strict=True)]
    if sum(map(len, pieces)) != sum(lengths):
        raise ValueError("the TIFF ends in its picture")
    if compression == _JPEG and any(piece.count(b"\xff\xe1") or piece.count(b"\xff\xfe") for piece in pieces):
        raise ValueError("the TIFF has a JPEG with metadata")
    return _written(order, {tag: entries[tag] for tag in sorted(_KEPT & entries.keys())}, offsets_tag, pieces)


def _directory(content: bytes, order: str, start: int) -> dict[int, _Entry]:
    """The entries that are kept."""
    entries = {}
    for tag, kind, values, offset in _entries(content, order, start):
        if tag not in _KEPT:
            continue
        if kind not in _SIZES or kind == _TEXT:
            raise ValueError(f"the TIFF has a value of the type {kind}")
        size = _SIZES[kind] * values
        if size > _FEW_BYTES and tag not in _LISTS:
            raise ValueError(f"the TIFF has {values:,} values of the tag {tag}")
        data = content[offset : offset + size]
        if len(data) != size:
            raise ValueError("the TIFF ends in its directory")
        entries[tag] = _Entry(kind, values, offset, data)
    return entries


def _entries(content: bytes, order: str, start: int) -> Iterator[tuple[int, int, int, int]]:
    """Of each entry of a directory: its tag, type, number of values, and where they begin."""
    [count] = struct.unpack_from(f"{order}H", content, start)
    for place in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, values = struct.unpack_from(f"{order}HHI", content, place)
        [offset] = struct.unpack_from(f"{order}I", content, place + 8)
        yield tag, kind, values, place + 8 if _SIZES.get(kind, 1) * values <= 4 else offset


def _metadata(content: bytes, order: str, start: int, *, first: bool = True) -> Iterator[Range]:
    """Where the values are that are not kept, with those of EXIF and GPS. Broken lists of these end early."""
    with suppress(struct.error):
        for tag, kind, values, offset in _entries(content, order, start):
            if first and tag in _KEPT:
                continue
            yield offset, offset + _SIZES.get(kind, 1) * values
            if tag in _DIRECTORIES:
                [inner] = struct.unpack_from(f"{order}I", content, offset)
                yield inner, inner + 2
                if first:
                    yield from _metadata(content, order, inner, first=False)


def _numbers(entry: _Entry, order: str) -> list[int]:
    code = {1: "B", 3: "H", 4: "I"}.get(entry.kind)
    if entry.number > _MOST_PIECES:
        raise ValueError(f"the TIFF has more than {_MOST_PIECES:,} pieces")
    if code is None:
        raise ValueError(f"the TIFF has a number of the type {entry.kind}")
    return list(struct.unpack(f"{order}{entry.number}{code}", entry.data))


def _written(order: str, entries: dict[int, _Entry], offsets_tag: int, pieces: list[bytes]) -> bytes:
    """The file: header, directory, values, and the pieces of the picture."""
    entries[offsets_tag] = entries[offsets_tag]._replace(kind=4, data=bytes(4 * len(pieces)))
    values_at = 8 + 2 + 12 * len(entries) + 4
    outside = {tag: entry for tag, entry in entries.items() if len(entry.data) > 4}
    starts, position = {}, values_at
    for tag, entry in outside.items():
        starts[tag] = position
        position += len(entry.data) + len(entry.data) % 2
    offsets = []
    for piece in pieces:
        offsets.append(position)
        position += len(piece) + len(piece) % 2
    entries[offsets_tag] = entries[offsets_tag]._replace(
        data=struct.pack(f"{order}{len(offsets)}I", *offsets)
    )
    directory = b"".join(
        struct.pack(f"{order}HHI", tag, entry.kind, entry.number)
        + (struct.pack(f"{order}I", starts[tag]) if tag in starts else entry.data.ljust(4, b"\0"))
        for tag, entry in entries.items()
    )
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8)
    values = b"".join(_even(entries[tag].data) for tag in outside)
    return b"".join(
        [head, struct.pack(f"{order}H", len(entries)), directory, bytes(4), values, *map(_even, pieces)]
    )


def _even(data: bytes) -> bytes:
    return data + b"\0" * (len(data) % 2)
