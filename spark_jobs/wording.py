"""Numbers and remedies in messages."""

import shlex


def counted(number: int, singular: str, plural: str) -> str:
    """The number with the noun that agrees with it: `1 class`, `1,024 classes`."""
    return f"{number:,} {singular if number == 1 else plural}"


def recompute_hint(label: str) -> str:
    """The remedy for a damaged file of a class, whose photos no run computes again by itself."""
    return f"Compute the class again: fruits run --all --class {shlex.quote(label)}"
