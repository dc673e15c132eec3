"""The segments of a JPEG file, by ITU-T T.81, annex B."""

import re
from collections.abc import Iterator
from typing import NamedTuple

START, END, SCAN = 0xD8, 0xD9, 0xDA
# The markers of frames whose scans have all bits of their coefficients: baseline and extended sequential.
SEQUENTIAL = (0xC0, 0xC1)
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# In entropy-coded data, a zero or the number of a restart interval follows each 0xFF.
_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])", re.DOTALL)
# It begins with one fixed byte, for which `re` looks 10 times as fast: 2 MB in 1.4 ms.
_MARKER_AFTER_DATA = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)

# A photo has some hundred segments, and a depth map in its metadata some hundred more.
MOST_SEGMENTS = 100_000


class Segment(NamedTuple):
    """A segment: its marker, and where it begins and ends. A scan has its entropy-coded data."""

    marker: int
    start: int
    end: int


def segments(content: bytes) -> Iterator[Segment]:
    """The segments of a JPEG up to its end marker, or up to where the bytes are no JPEG any more.

    After 100,000 segments, they are no JPEG any more either.
    """
    if content[:2] != b"\xff\xd8":
        return
    yield Segment(START, 0, 2)
    position = 2
    for _ in range(MOST_SEGMENTS):
        found = _MARKER.match(content, position)
        if found is None:
            return
        marker, after = found[1][0], found.end()
        if marker == END:
            yield Segment(END, position, after)
            return
        end = after + int.from_bytes(content[after : after + 2], "big")
        if marker == SCAN:
            following = _MARKER_AFTER_DATA.search(content, end)
            end = following.start() if following else len(content)
        if end > len(content) or end < after + 2:
            return
        yield Segment(marker, position, end)
        position = end


def frame_size(content: bytes) -> tuple[int, int] | None:
    """The width and height in the header of the first frame, in pixels; None if there is no frame."""
    for segment in segments(content):
        if segment.marker in _FRAMES and segment.end - segment.start >= 9:
            height, width = (
                content[segment.start + 5 : segment.start + 7],
                content[segment.start + 7 : segment.start + 9],
            )
            return int.from_bytes(width, "big"), int.from_bytes(height, "big")
        if segment.marker == SCAN:
            return None
    return None


def scans(content: bytes) -> int:
    """The number of scans."""
    return sum(segment.marker == SCAN for segment in segments(content))


def has_more_scans(content: bytes, most: int) -> bool:
    """Whether there are more scans than `most`.

    A quick count, in which other data may look like scans, is enough for most photos.
    """
    return content.count(b"\xff\xda") > most and scans(content) > most


def has_too_many_segments(content: bytes) -> bool:
    """Whether there are 100,000 segments or more. Each has a marker, so most photos need no look at them."""
    return content.count(b"\xff") >= MOST_SEGMENTS <= sum(1 for _ in segments(content))


def lacks_its_end(content: bytes) -> bool:
    """Whether the data of the last scan go on to the end of the file, without an end marker.

    Most files end with the marker and need no look at their segments.
    """
    return not content.endswith(b"\xff\xd9") and [found.marker for found in segments(content)][-1:] == [SCAN]


def lacks_only_its_end(content: bytes) -> bool:
    """Whether a JPEG of one sequential scan of all components has no end marker after its data."""
    found = list(segments(content))
    frames = [segment for segment in found if segment.marker in SEQUENTIAL]
    if len(frames) != 1 or [segment.marker for segment in found[-1:]] != [SCAN]:
        return False
    one_scan = sum(segment.marker == SCAN for segment in found) == 1
    # The number of components is in byte 9 of the frame, and in byte 4 of the scan.
    return one_scan and content[frames[0].start + 9] == content[found[-1].start + 4]
