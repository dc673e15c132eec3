"""Colour profiles, by ICC.1:2022, section 7.2."""

_HEADER_BYTES = 128


def is_profile(data: bytes) -> bool:
    """Whether data are a whole colour profile and nothing else, but for up to 3 bytes that fill them up."""
    size = int.from_bytes(data[:4], "big")
    return data[36:40] == b"acsp" and _HEADER_BYTES <= size <= len(data) < size + 4
