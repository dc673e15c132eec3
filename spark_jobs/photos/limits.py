"""What decoding one photo may take."""

from typing import NamedTuple


class Limits(NamedTuple):
    """CPU time in seconds and memory in bytes, beside what Python and its libraries take."""

    seconds: float = 20.0
    memory: int = 1_100_000_000


DEFAULT_LIMITS = Limits()
