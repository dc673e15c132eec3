"""A HEIF or AVIF of its main picture alone: everything else becomes zeros (ISO/IEC 14496-12 and 23008-12).

Nothing moves in the file, so that the places of the picture stay as they are.
"""

import struct
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from spark_jobs.photos.ranges import overlap

_ALPHA = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1")
_META = {b"hdlr", b"pitm", b"iinf", b"iref", b"iprp", b"iloc", b"idat"}
# Properties that a decoder needs: size, colours, codec, turning, cropping, kind of an auxiliary picture.
_PROPERTIES = {
    *(b"ispe", b"pixi", b"colr", b"hvcC", b"av1C", b"irot", b"imir", b"clap", b"pasp", b"auxC"),
    *(b"rref", b"clli", b"mdcv", b"cclv", b"a1op", b"a1lx", b"lsel"),
}
# A grid of tiles has some hundred items. A file with more parts beside each other is no photo, and may have
# been made to take hours.
_MOST = 10_000
_MOST_REFERENCE_BYTES = 1 << 20
# A handler's name follows, of which zeros are an empty name.
_HANDLER_BYTES = 24
# A picture may be made of a grid, and the grid of tiles.
_DEPTH = 4


class _Box(NamedTuple):
    """A box: its kind, where it begins, where its payload begins, and where it ends."""

    kind: bytes
    start: int
    payload: int
    end: int


def main_picture(content: bytes) -> tuple[bytes, bytes]:
    """The file of the main picture, and the EXIF that the file had.

    Raises `ValueError`, `IndexError` or `struct.error` where the file is not as the format says.
    """
    boxes = list(_boxes(content, 0, len(content), lenient=True))
    metas = [box for box in boxes if box.kind == b"meta"]
    if len(metas) != 1 or boxes[0].kind != b"ftyp":
        raise ValueError("the file has no picture, or several")
    [meta] = metas
    described = [box for box in _boxes(content, meta.payload + 4, meta.end) if box.kind in _META]
    children = {box.kind: box for box in described}
    if len(children) != len(described):
        raise ValueError("the file describes its picture twice")
    if not {b"pitm", b"iinf", b"iloc"} <= children.keys():
        raise ValueError("the file does not say where its picture is")
    kinds = _kinds(content, children[b"iinf"])
    places = _places(content, children)
    kept = _needed(content, children, _primary(content, children[b"pitm"]))
    if not kept <= places.keys():
        raise ValueError("the file does not say where a part of its picture is")
    removed = [extent for item in places.keys() - kept for extent in places[item]]
    if overlap((extent for item in kept for extent in places[item]), removed):
        raise ValueError("a part of the picture is also a part of its metadata")
    cleaned = bytearray(len(content))

    def keep(start: int, end: int) -> None:
        if not 0 <= start <= end <= len(content):
            raise ValueError("the file ends in its picture")
        cleaned[start:end] = content[start:end]

    last = meta.end
    keep(boxes[0].start, boxes[0].end)
    # A film would have the box of its frames, which goes.
    brands = slice(boxes[0].payload, boxes[0].end)
    cleaned[brands] = cleaned[brands].replace(b"avis", b"avif")
    for box in boxes[1:]:
        keep(box.start, box.payload)
        if box.kind not in (b"meta", b"mdat"):
            cleaned[box.start + 4 : box.start + 8] = b"free"
    keep(meta.payload, meta.payload + 4)
    for box in _boxes(content, meta.payload + 4, meta.end):
        keep(box.start, box.payload)
        if box.kind not in _META:
            cleaned[box.start + 4 : box.start + 8] = b"free"
        elif box.kind == b"hdlr":
            keep(box.payload, min(box.payload + _HANDLER_BYTES, box.end))
        elif box.kind != b"idat":
            keep(box.payload, box.end)
    _without_names(content, cleaned, children[b"iinf"], kept)
    if b"iprp" in children:
        _without_texts(content, cleaned, children[b"iprp"])
    for item in kept:
        for start, end in places[item]:
            keep(start, end)
            last = max(last, end)
    ends = [box.end for box in boxes if box.start < last]
    exif = b"".join(
        content[start:end]
        for item, kind in kinds.items()
        if kind == b"Exif"
        for start, end in places.get(item, ())
    )
    [skipped] = struct.unpack_from(">I", exif.ljust(4, b"\0"))
    return bytes(cleaned[: max(ends)]), exif[4 + skipped :]


def _boxes(content: bytes, position: int, end: int, *, lenient: bool = False) -> Iterator[_Box]:
    """The boxes between two positions. If `lenient`, bytes after the last box are no error."""
    number = 0
    while position + 8 <= end:
        if (number := number + 1) > _MOST:
            raise ValueError(f"the file has more than {_MOST:,} boxes")
        size, kind = struct.unpack_from(">I4s", content, position)
        payload = position + 8
        if size == 1:
            [size] = struct.unpack_from(">Q", content, payload)
            payload += 8
        elif size == 0:
            size = end - position
        if size < payload - position or position + size > end:
            if lenient:
                return
            raise ValueError("a box of the file is longer than the box around it")
        yield _Box(kind, position, payload, position + size)
        position += size
    if position != end and not lenient:
        raise ValueError("the file has a part that is no box")


def _primary(content: bytes, box: _Box) -> int:
    wide = content[box.payload] > 0
    return int(struct.unpack_from(">I" if wide else ">H", content, box.payload + 4)[0])


def _infos(content: bytes, box: _Box) -> Iterator[_Box]:
    start = box.payload + (6 if content[box.payload] == 0 else 8)
    yield from _boxes(content, start, box.end)


def _kinds(content: bytes, box: _Box) -> dict[int, bytes]:
    """The kind of each item."""
    kinds = {}
    for info in _infos(content, box):
        version = content[info.payload]
        if version < 2:
            raise ValueError("the file has an item of an old kind")
        form = ">H2x4s" if version == 2 else ">I2x4s"
        item, kind = struct.unpack_from(form, content, info.payload + 4)
        kinds[item] = kind
    return kinds


def _without_names(content: bytes, cleaned: bytearray, box: _Box, kept: set[int]) -> None:
    """Removes the names of items, and the kinds of those that have become zeros.

    A name stands after the kind. A decoder passes over an item of an unknown kind.
    """
    for info in _infos(content, box):
        wide = content[info.payload] > 2
        [item] = struct.unpack_from(">I" if wide else ">H", content, info.payload + 4)
        kind = info.payload + (10 if wide else 8)
        if kind + 4 > info.end:
            raise ValueError("the file has an item without a kind")
        cleaned[kind + 4 : info.end] = bytes(info.end - kind - 4)
        if item not in kept:
            cleaned[kind : kind + 4] = b"none"


def _without_texts(content: bytes, cleaned: bytearray, box: _Box) -> None:
    """Removes the properties that tell nothing about pixels, for example descriptions and times."""
    for container in _boxes(content, box.payload, box.end):
        if container.kind == b"ipco":
            for found in _boxes(content, container.payload, container.end):
                if found.kind not in _PROPERTIES:
                    cleaned[found.start + 4 : found.end] = b"free" + bytes(found.end - found.start - 8)


def _places(content: bytes, children: dict[bytes, _Box]) -> dict[int, list[tuple[int, int]]]:
    """Where the bytes of each item are, as (start, end)."""
    box = children[b"iloc"]
    version, sizes = content[box.payload], content[box.payload + 4 : box.payload + 6]
    (offset_size, length_size), (base_size, index_size) = ((size >> 4, size & 15) for size in sizes)
    position = box.payload + 6

    def number(size: int) -> int:
        nonlocal position
        if position + size > box.end:
            raise ValueError("the list of places ends too early")
        value = int.from_bytes(content[position : position + size], "big")
        position += size
        return value

    places: dict[int, list[tuple[int, int]]] = {}
    total = extents_in_all = 0
    for _ in range(number(2 if version < 2 else 4)):
        item = number(2 if version < 2 else 4)
        method = number(2) & 15 if version else 0
        if number(2):
            raise ValueError("the picture is in another file")
        base = number(base_size)
        if method == 1:
            base += children[b"idat"].payload
        elif method:
            raise ValueError("the file has an item that is made of other items in an unknown way")
        extents = []
        for _ in range(number(2)):
            if version:
                number(index_size)
            start = base + number(offset_size)
            length = number(length_size)
            end = start + length if length else len(content)
            total, extents_in_all = total + end - start, extents_in_all + 1
            if not start <= end <= len(content) or total > 2 * len(content) or extents_in_all > _MOST:
                raise ValueError("the items of the file lie outside of it, overlap, or are too many")
            extents.append((start, end))
        places[item] = extents
    return places


def _needed(content: bytes, children: dict[bytes, _Box], primary: int) -> set[int]:
    """The main item, its tiles, and its alpha."""
    references: dict[bytes, list[tuple[int, list[int]]]] = defaultdict(list)
    if box := children.get(b"iref"):
        if box.end - box.payload > _MOST_REFERENCE_BYTES:
            raise ValueError("the items of the file have too many references")
        wide = content[box.payload] > 0
        form, size = (">I", 4) if wide else (">H", 2)
        for found in _boxes(content, box.payload + 4, box.end):
            source, count = struct.unpack_from(f"{form}H", content, found.payload)
            targets = struct.unpack_from(f">{count}{form[1]}", content, found.payload + size + 2)
            references[found.kind].append((source, list(targets)))
    alphas = _with_alpha(content, children)
    needed = {primary}
    needed |= {source for source, targets in references[b"auxl"] if primary in targets and source in alphas}
    pending = set(needed)
    for _ in range(_DEPTH):
        pending = {
            target for source, targets in references[b"dimg"] if source in pending for target in targets
        } - needed
        needed |= pending
    return needed


def _with_alpha(content: bytes, children: dict[bytes, _Box]) -> set[int]:
    """The items that have the property of an alpha."""
    if b"iprp" not in children:
        return set()
    containers = list(_boxes(content, children[b"iprp"].payload, children[b"iprp"].end))
    properties = [
        content[found.start + 4 : found.end]
        for container in containers
        if container.kind == b"ipco"
        for found in _boxes(content, container.payload, container.end)
    ]
    items = set()
    for container in containers:
        if container.kind != b"ipma":
            continue
        version, flags = content[container.payload], content[container.payload + 3]
        position = container.payload + 4
        [entries] = struct.unpack_from(">I", content, position)
        if entries > _MOST:
            raise ValueError(f"the file has more than {_MOST:,} items")
        position += 4
        for _ in range(entries):
            size = 2 if version < 1 else 4
            item = int.from_bytes(content[position : position + size], "big")
            position += size
            count = content[position]
            position += 1
            for _ in range(count):
                wide = flags & 1
                mask = 0x7FFF if wide else 0x7F
                index = int.from_bytes(content[position : position + 1 + wide], "big") & mask
                position += 1 + wide
                named = properties[index - 1] if 0 < index <= len(properties) else b""
                if named[:4] == b"auxC" and named[8:].startswith(_ALPHA):
                    items.add(item)
    return items
