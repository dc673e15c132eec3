"""Numbers and remedies in messages."""

import shlex
from collections.abc import Sequence


def counted(number: int, singular: str, plural: str) -> str:
    """The number with the noun that agrees with it: `1 class`, `1,024 classes`."""
    return f"{number:,} {singular if number == 1 else plural}"


def named(names: Sequence[str], most: int) -> str:
    """The first names, at most this many, and the number of those left out: `Kiwi, Lemon, and 3 more`."""
    more = f", and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def recompute_hint(label: str) -> str:
    """The remedy for a damaged file of a class, whose photos no run computes again by itself."""
    return f"Compute the class again: fruits run --all --class {shlex.quote(label)}"
