"""The orientation and the position in EXIF 2.32, and an EXIF with an orientation alone."""

import struct

_ORIENTATION, _GPS = 0x0112, 0x8825
# The positions of latitude and longitude in the directory of GPS.
_PLACES = (0x0002, 0x0004)


def orientation_of(exif: bytes) -> int:
    """The orientation, 1 to 8; 1 if there is none or the EXIF is broken."""
    value = _entries(exif).get(_ORIENTATION, 1)
    return value if 1 <= value <= 8 else 1


def has_position(exif: bytes) -> bool:
    """Whether there is a latitude or a longitude."""
    gps = _entries(exif).get(_GPS)
    return gps is not None and not _entries(exif, gps).keys().isdisjoint(_PLACES)


def exif_of_orientation(orientation: int) -> bytes:
    """A TIFF structure with one directory of one entry."""
    return struct.pack(">2sHIHHHIHxxI", b"MM", 42, 8, 1, _ORIENTATION, 3, 1, orientation, 0)


def _entries(exif: bytes, directory: int | None = None) -> dict[int, int]:
    """The values of a directory, by default the first, that are numbers; empty where it is broken."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return {}
    try:
        [start] = struct.unpack_from(f"{order}I", exif, 4) if directory is None else [directory]
        [count] = struct.unpack_from(f"{order}H", exif, start)
        entries = {}
        for number in range(min(count, 1000)):
            tag, kind, _, value = struct.unpack_from(f"{order}HHI4s", exif, start + 2 + 12 * number)
            code = "H" if kind == 3 else "I"
            entries[tag] = struct.unpack_from(f"{order}{code}", value)[0]
        return entries
    except struct.error:
        return {}
