"""The texts under which an erased photo may appear in records."""

from collections.abc import Collection


def found_in(content: bytes, texts: Collection[bytes]) -> bool:
    """Whether one of the texts is in some bytes."""
    return any(text in content for text in texts)


def blanked(content: bytes, texts: Collection[bytes]) -> bytes:
    """The bytes with a filler of the same length in the place of each text."""
    for text in sorted(texts, key=len, reverse=True):
        content = content.replace(text, b"x" * len(text))
    return content
