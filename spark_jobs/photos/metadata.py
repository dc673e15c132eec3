"""Removes the metadata of a photo, without decoding its picture and encoding it anew.

Only what the picture needs is kept, so an unknown part of a file is removed. The orientation stays, in an
EXIF of one entry, and a colour profile stays. Second pictures, previews and all bytes after the end of the
picture go. A file that is not exactly as its format says cannot be cleaned with certainty, and is bad.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from spark_jobs.photos import jpeg
from spark_jobs.photos.exif import exif_of_orientation, has_position, orientation_of
from spark_jobs.photos.heif import main_picture
from spark_jobs.photos.images import BadImage
from spark_jobs.photos.profiles import is_profile
from spark_jobs.photos.tiff import first_picture

# A version of these rules. After a change, the next run removes metadata from the photos of the store.
METADATA_RULES = "2"

# A photo has some hundred chunks. Millions of them would take minutes.
_MOST_CHUNKS = 100_000
# A position in XMP, which is XML.
_POSITION_IN_XMP = b"GPSLatitude"

# How EXIF and XMP begin. The data of a picture have none of these bytes by chance. Where bytes of a file are
# lost, metadata can move to where the picture was.
_EXIF = (b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08")
_ORIENTATION = exif_of_orientation(1)[:-8]  # without the number
_XMP = (b"<x:xmpmeta", b"http://ns.adobe.com/xap/")


class Clean(NamedTuple):
    """A photo without metadata, and whether it had a position."""

    content: bytes
    had_position: bool


def without_metadata(content: bytes) -> Clean:
    """A photo without metadata, by the format that its first bytes tell.

    An end marker that is missing stays missing. Raises `BadImage` where metadata cannot be removed
    with certainty.
    """
    try:
        clean, exif = _cleaner(content)(content)
        had_position = has_position(exif)
    except ValueError as error:
        raise BadImage(f"its metadata cannot be removed with certainty: {error}") from error
    except (KeyError, struct.error, IndexError, OverflowError) as error:
        # Python's words for a number that leads out of the file help nobody.
        cause = "a part of the file is not where the file says"
        raise BadImage(f"its metadata cannot be removed with certainty: {cause}") from error
    allowed = clean.count(_ORIENTATION) + clean.startswith(_EXIF)
    if sum(map(clean.count, _EXIF)) > allowed or any(start in clean for start in _XMP):
        raise BadImage("its metadata cannot be removed with certainty: they are in the data of its picture")
    in_xmp = _POSITION_IN_XMP in content and _POSITION_IN_XMP not in clean
    return Clean(clean, had_position or in_xmp)


def _cleaner(content: bytes) -> Callable[[bytes], tuple[bytes, bytes]]:
    """The function that returns a file of a format without metadata, and the EXIF that it had."""
    if content[4:8] == b"ftyp":
        return main_picture
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return _webp
    for start, cleaner in _BY_START.items():
        if content.startswith(start):
            return cleaner
    raise ValueError("its format is unknown")


# JPEG, by ITU-T T.81, and JFIF by ITU-T T.871.

# Frames, tables, scans, numbers of lines, restart intervals, and the end.
_PICTURE = {*range(0xC0, 0xD0), 0xD9, 0xDA, 0xDB, 0xDC, 0xDD} - {0xC8}
_LINES = 0xDC
# The identifier of a colour profile; the number of the segment and that of all its segments follow.
_ICC = b"ICC_PROFILE\0"
_APP0, _APP1, _APP2, _APP14, _COMMENT = 0xE0, 0xE1, 0xE2, 0xEE, 0xFE


def _jpeg(content: bytes) -> tuple[bytes, bytes]:
    kept, exif, profile = [b"\xff\xd8"], b"", []
    segments = list(jpeg.segments(content))[1:]
    kinds = [segment.marker for segment in segments]
    if jpeg.SCAN not in kinds or kinds[-1] not in (jpeg.END, jpeg.SCAN):
        raise ValueError("a part of the JPEG is no segment")
    for marker, start, end in segments:
        data = content[start:end]
        payload = data.lstrip(b"\xff")[3:]
        if marker == _LINES and len(payload) != 2:
            # libjpeg checks the lengths of all other segments of a picture, and passes over this one.
            raise ValueError("the number of lines of the JPEG is no number")
        if marker in _PICTURE:
            kept.append(data)
            continue
        if marker == _APP1 and payload.startswith(b"Exif\0"):
            exif = exif or payload[6:]
        elif marker == _APP0 and payload.startswith(b"JFIF\0"):
            # Version, units and density of pixels; a thumbnail may follow.
            kept.append(_segment(_APP0, payload[:12].ljust(12, b"\0") + b"\0\0"))
        elif marker == _APP14 and payload.startswith(b"Adobe"):
            kept.append(_segment(_APP14, payload[:12]))
        elif marker == _APP2 and payload.startswith(_ICC):
            profile.append(payload)
            kept.append(_segment(_APP2, payload))
        elif not (0xE0 <= marker <= 0xEF or marker == _COMMENT):
            raise ValueError(f"the JPEG has a segment of the kind {marker:#x}")
    if not is_profile(b"".join(payload[len(_ICC) + 2 :] for payload in profile)):
        kept = [data for data in kept if not data.startswith(b"\xff\xe2")]
    orientation = orientation_of(exif)
    if orientation != 1:
        kept.insert(1, _segment(_APP1, b"Exif\0\0" + exif_of_orientation(orientation)))
    return b"".join(kept), exif


def _segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


# PNG, by https://www.w3.org/TR/png-3.

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = {
    *(b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB"),
    *(b"iCCP", b"sBIT", b"bKGD", b"pHYs", b"cICP", b"mDCV", b"cLLI"),
}


def _png(content: bytes) -> tuple[bytes, bytes]:
    chunks = list(_png_chunks(content))
    exif = next((whole[8:-4] for kind, whole in chunks if kind == b"eXIf"), b"")
    kept = [whole for kind, whole in chunks if kind in _PNG_KEPT]
    for whole in kept:
        _check_png_chunk(whole)
    kept = [whole for whole in kept if whole[4:8] != b"iCCP" or _is_packed_profile(whole[8:-4])]
    if (orientation := orientation_of(exif)) != 1:
        kept.insert(1, _png_chunk(b"eXIf", exif_of_orientation(orientation)))
    return _PNG_START + b"".join(kept), exif


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Each chunk up to the end, as its kind and all of its bytes."""
    position = len(_PNG_START)
    for _ in range(_MOST_CHUNKS):
        length, kind = struct.unpack_from(">I4s", content, position)
        end = position + 12 + length
        if end > len(content):
            raise ValueError("the PNG ends in a chunk")
        yield kind, content[position:end]
        if kind == b"IEND":
            return
        position = end
    raise ValueError(f"the PNG has more than {_MOST_CHUNKS:,} chunks")


# Chunks with texts, and with EXIF. A photo of 100 MB has such a name in its data by chance in 1 of 10 cases.
_PNG_TEXTS = re.compile(rb"tEXt|zTXt|iTXt|eXIf")
_MOST_PLACES = 10
# The bytes of chunks of numbers, at most.
_PNG_MOST_BYTES = {
    **{b"IHDR": 13, b"PLTE": 768, b"IEND": 0, b"tRNS": 256, b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"sBIT": 4},
    **{b"bKGD": 6, b"pHYs": 9, b"cICP": 4, b"mDCV": 24, b"cLLI": 8},
}
# The largest profiles, of printers, have some megabytes.
_MOST_PROFILE_BYTES = 16 << 20


def _check_png_chunk(whole: bytes) -> None:
    """Raises `ValueError` for a chunk with a wrong checksum or length, or with a chunk of texts in its data.

    Decoders of pictures look at none of these.
    """
    kind, length = whole[4:8], len(whole) - 12
    if length > _PNG_MOST_BYTES.get(kind, length):
        raise ValueError(f"the PNG has {length:,} bytes of {kind.decode()}")
    if whole[-4:] != _checksum(whole[4:-4]):
        raise ValueError("a checksum of the PNG is wrong")
    inside = (found.start() for found in _PNG_TEXTS.finditer(whole, 8))
    for place in islice(inside, _MOST_PLACES):
        end = place + 4 + int.from_bytes(whole[place - 4 : place], "big")
        right = end + 4 <= len(whole) and whole[end : end + 4] == _checksum(whole[place:end])
        if right or end == len(whole) - 4:
            raise ValueError("a part of the PNG is inside another")
    if next(inside, None) is not None:
        raise ValueError(f"a part of the PNG has more than {_MOST_PLACES} names of other parts")


def _is_packed_profile(data: bytes) -> bool:
    """Whether the data of a chunk are a name, a zero, the number of the compression, and a profile."""
    unpacking = zlib.decompressobj()
    _, _, packed = data.partition(b"\0")
    try:
        profile = unpacking.decompress(packed[1:], _MOST_PROFILE_BYTES)
    except zlib.error:
        return False
    return unpacking.eof and not unpacking.unused_data and is_profile(profile)


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + _checksum(kind + data)


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "big")


# WebP, by RFC 9649.

_WEBP_PICTURE = {b"ALPH", b"VP8 ", b"VP8L"}
# Bits of the flags in VP8X: EXIF and XMP.
_WEBP_EXIF, _WEBP_XMP = 0x08, 0x04


def _webp(content: bytes) -> tuple[bytes, bytes]:
    [size] = struct.unpack_from("<I", content, 4)
    kept: list[bytes] = []
    exif = b""
    for kind, data in _riff_chunks(content, 12, 8 + size):
        if kind == b"EXIF":
            exif = data.removeprefix(b"Exif\0\0")
        elif kind == b"ANMF":
            inner = _riff_chunks(data, 16, len(data))
            frame = [_riff_chunk(*chunk) for chunk in inner if chunk[0] in _WEBP_PICTURE]
            kept.append(_riff_chunk(kind, data[:16] + b"".join(frame)))
        elif kind in {b"VP8X", b"ANIM"} | _WEBP_PICTURE or (kind == b"ICCP" and is_profile(data)):
            kept.append(_riff_chunk(kind, data))
    orientation = orientation_of(exif)
    if kept and kept[0].startswith(b"VP8X"):
        flags = kept[0][8] & ~(_WEBP_EXIF | _WEBP_XMP) | (_WEBP_EXIF if orientation != 1 else 0)
        kept[0] = kept[0][:8] + bytes([flags]) + kept[0][9:]
        if orientation != 1:
            kept.append(_riff_chunk(b"EXIF", exif_of_orientation(orientation)))
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body, exif


def _riff_chunks(content: bytes, position: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    """The chunks between two positions, each as its kind and its data."""
    if end > len(content):
        raise ValueError("the WebP ends in a chunk")
    for _ in range(_MOST_CHUNKS):
        if position >= end:
            return
        kind, size = struct.unpack_from("<4sI", content, position)
        if position + 8 + size > end:
            raise ValueError("the WebP ends in a chunk")
        data = content[position + 8 : position + 8 + size]
        if kind in _WEBP_PICTURE:
            _check_no_chunk_in(data)
        yield kind, data
        position += 8 + size + size % 2
    raise ValueError(f"the WebP has more than {_MOST_CHUNKS:,} chunks")


def _check_no_chunk_in(data: bytes) -> None:
    """Raises `ValueError` where a picture's data end with a chunk of metadata, which a decoder ignores."""
    for kind in (b"EXIF", b"XMP "):
        place = data.find(kind)
        while place >= 0:
            size = int.from_bytes(data[place + 4 : place + 8], "little")
            if place + 8 + size in (len(data), len(data) - 1):
                raise ValueError("a part of the WebP is inside another")
            place = data.find(kind, place + 1)


def _riff_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack("<4sI", kind, len(data)) + data + b"\0" * (len(data) % 2)


# GIF, by https://www.w3.org/Graphics/GIF/spec-gif89a.txt.

_GIF_IMAGE, _GIF_EXTENSION, _GIF_END = 0x2C, 0x21, 0x3B
_GIF_CONTROL = 0xF9
_GIF_CONTROL_BYTES = 8  # with its marks, its length and the empty block


def _gif(content: bytes) -> tuple[bytes, bytes]:
    """Only the first picture counts, with the block that tells its transparency."""
    position = 13 + _colours(content[10])
    head, control = content[:position], b""
    while content[position] == _GIF_EXTENSION:
        end = _after_blocks(content, position + 2)
        if content[position + 1] == _GIF_CONTROL:
            control = content[position:end]
            if len(control) != _GIF_CONTROL_BYTES:
                raise ValueError("the GIF has a control block of another length than 4 bytes")
        position = end
    if content[position] != _GIF_IMAGE:
        raise ValueError("the GIF has no picture")
    end = _after_blocks(content, position + 10 + _colours(content[position + 9]) + 1)
    return head + control + content[position:end] + bytes([_GIF_END]), b""


def _colours(flags: int) -> int:
    """The bytes of a table of colours."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_blocks(content: bytes, position: int) -> int:
    """The position after a series of blocks, which ends with an empty block."""
    while size := content[position]:
        position += 1 + size
    return position + 1


# BMP, by the Windows header BITMAPINFOHEADER, its predecessor and its successors.

_BMP_OLD_HEADER, _BMP_HEADER, _BMP_LAST_HEADER = 12, 40, 124
_BMP_HEADERS = {_BMP_OLD_HEADER, _BMP_HEADER, 52, 56, 64, 108, _BMP_LAST_HEADER}
# Pixels without compression: as they are, or with masks of 3 or 4 colours, which follow the header.
_BMP_MASKS = {0: 0, 3: 12, 6: 16}


def _bmp(content: bytes) -> tuple[bytes, bytes]:
    start, header = struct.unpack_from("<II", content, 10)
    if header not in _BMP_HEADERS:
        raise ValueError(f"the BMP has a header of {header} bytes")
    if header == _BMP_OLD_HEADER:
        width, height, _, bits = struct.unpack_from("<HhHH", content, 18)
        compression, size, table = 0, 0, 3 << bits if bits <= 8 else 0
    else:
        width, height, _, bits, compression, size, _, _, used, _ = struct.unpack_from(
            "<iiHHIIiiII", content, 18
        )
        if used > 256:
            raise ValueError(f"the BMP has a table of {used:,} colours")
        table = 4 * ((used or 1 << bits) if bits <= 8 else used)
        table += _BMP_MASKS.get(compression, 0) if header == _BMP_HEADER else 0
    if compression in _BMP_MASKS:
        size = (width * bits + 31) // 32 * 4 * abs(height)
    elif not size:
        raise ValueError("the BMP does not say the size of its compressed picture")
    head = 14 + header + table
    if not (size > 0 and head <= start and start + size <= len(content)):
        raise ValueError("the BMP is shorter than its header says")
    kept = bytearray(content[14:head])
    if header == _BMP_LAST_HEADER:
        kept[112:124] = bytes(12)  # where a profile follows the picture
        kept[56:60] = b"BGRs"  # sRGB, as it stands in the file
    body = bytes(kept) + content[start : start + size]
    return struct.pack("<2sIHHI", b"BM", 14 + len(body), 0, 0, head) + body, b""


def _tiff(content: bytes) -> tuple[bytes, bytes]:
    return first_picture(content), content  # EXIF is a TIFF


_BY_START: dict[bytes, Callable[[bytes], tuple[bytes, bytes]]] = {
    b"\xff\xd8": _jpeg,
    _PNG_START: _png,
    b"GIF8": _gif,
    b"BM": _bmp,
    b"II": _tiff,
    b"MM": _tiff,
}
