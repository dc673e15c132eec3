"""Numbers, remedies and strange characters in messages."""

import re
import shlex
from collections.abc import Sequence

# Two invisible characters join or separate letters of Persian and of scripts of India, and parts of an emoji.
_JOINED = re.compile("(?<=[^\0-\x7f])[\u200c\u200d](?=[^\0-\x7f])")


def visible(text: str) -> str:
    """Text for a terminal: what is not printable is escaped, as `\\x1b`, except line breaks and tabs.

    That are control characters, which a terminal obeys, and characters that are invisible or turn the
    direction of text. https://unicode.org/reports/tr36/#Bidirectional_Text_Spoofing
    """
    if text.isprintable():
        return text
    joined = {found.start() for found in _JOINED.finditer(text)}
    return "".join(
        character
        if character.isprintable() or character in "\n\t" or index in joined
        else character.encode("unicode_escape").decode()
        for index, character in enumerate(text)
    )


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
