"""Ranges of bytes in a file."""

from bisect import bisect_right
from collections.abc import Iterable

Range = tuple[int, int]


def overlap(some: Iterable[Range], others: Iterable[Range]) -> bool:
    """Whether a byte is in ranges of both. A range is (start, end), without its end."""
    merged: list[Range] = []
    for start, end in sorted(found for found in others if found[0] < found[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    ends = [end for _, end in merged]
    for start, end in some:
        following = bisect_right(ends, start)  # the first range that ends after the start
        if start < end and following < len(merged) and merged[following][0] < end:
            return True
    return False
