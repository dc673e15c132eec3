"""The texts under which an erased photo appears in logs and records, and how they are blanked.

A filler has as many bytes as the text that it replaces, so a log can be overwritten in place while a process
appends to it. It never breaks an escape sequence of JSON.
"""

import base64
import gzip
import html
import json
import os
import re
import shlex
import shutil
import tempfile
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Union
from urllib.parse import quote, quote_plus

# Texts, or a search for them: who looks into many contents makes the search once, by `search_for`.
Texts = Union[Sequence[str], "TextSearch"]

# A string of JSON may hold JSON, and this again: Dagster's tags hold JSON, and stand in the body of a run.
_JSON_LEVELS = 3

# The longest text in bytes: a path of Linux has 4,096, and each may become 16 by three levels of JSON.
_LONGEST = 1 << 16

# The bytes before a text that tell whether an escape sequence, such as \u00e9, ends in it.
_ESCAPE = 6

# Bytes of a file that are searched at once.
_CHUNK = 1 << 23

_GZIP = b"\x1f\x8b"

# Characters that Java's java.net.URI leaves as they are in a path, as in the names of files in Spark's logs.
_JAVA_SAFE = "/!$&'()*+,;=:@"


def texts_of(paths: Iterable[str], hashes: Iterable[str]) -> list[str]:
    """All texts under which photos may appear, the longest first.

    `paths` are relative to FRUITS_IMAGES, and `hashes` are SHA-256, each 64 hexadecimal digits. Paths are
    also as Python's repr, JSON up to three levels deep, a shell, HTML and URLs write them. A SHA-256 is also
    in base64 without its padding, and as its 32 bytes. `text.encode("utf-8", "surrogateescape")` gives the
    bytes of a text.
    """
    texts: set[str] = set()
    for path in paths:
        texts |= _forms_of_path(path)
    for digest in hashes:
        texts |= _forms_of_hash(digest)
    return sorted(texts - {""}, key=lambda text: (-len(_encoded(text)), text))


class TextSearch:
    """Finds texts in bytes, in one pass however many texts there are: half a million for 5,000 photos.

    Python's `re` tries such a number of alternatives one after the other at each byte.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        from ahocorasick_rs import BytesAhoCorasick

        self._search = BytesAhoCorasick({content for text in texts if (content := _encoded(text))})

    def places(self, content: bytes) -> list[tuple[int, int]]:
        """The first byte and the end of each place with texts, in order; overlapping texts are one place."""
        merged: list[tuple[int, int]] = []
        found = self._search.find_matches_as_indexes(content, overlapping=True)
        for start, end in sorted((start, end) for _, start, end in found):
            if merged and start < merged[-1][1]:
                start, before = merged.pop()
                end = max(before, end)
            merged.append((start, end))
        return merged

    def found_in(self, content: bytes) -> bool:
        return bool(self._search.find_matches_as_indexes(content))


def search_for(texts: Texts) -> TextSearch:
    return texts if isinstance(texts, TextSearch) else _search(tuple(texts))


@lru_cache(maxsize=2)
def _search(texts: tuple[str, ...]) -> TextSearch:
    return TextSearch(texts)


def found_in(content: bytes, texts: Texts) -> bool:
    return search_for(texts).found_in(content)


def blanked(content: bytes, texts: Texts) -> bytes:
    """The content with fillers of the same length in place of the texts."""
    parts, done = [], 0
    for start, end in search_for(texts).places(content):
        parts += [content[done:start], _filler(content, start, end)]
        done = end
    return b"".join([*parts, content[done:]])


def blank_file(path: Path, texts: Texts, *, write: bool = True) -> bool:
    """Blanks the texts in a file, and returns whether it held one. Without `write`, it only looks.

    The file is overwritten in place, so it may grow meanwhile. A file in gzip, to which no process appends,
    is replaced; a broken one that holds a text is removed.
    """
    search = search_for(texts)
    with path.open("rb") as file:
        if file.read(len(_GZIP)) == _GZIP:
            return _blank_gzip(path, search, write)
        file.seek(0)
        fillers = _fillers(file, search)
        first = next(fillers, None)
        if first is not None and write:
            with path.open("r+b", buffering=0) as written:
                for offset, filler in chain([first], fillers):
                    os.pwrite(written.fileno(), filler, offset)
                os.fsync(written.fileno())
    return first is not None


def _forms_of_path(path: str) -> set[str]:
    # A class has the composed form (NFC) of its folder's name, and macOS lists names in the other form.
    spellings = {path, *(unicodedata.normalize(form, path) for form in ("NFC", "NFD"))}
    forms: set[str] = set()
    for text in spellings:
        forms |= {text, *_in_python(text), *_in_urls(text)}
        forms |= {html.escape(text), html.escape(text, quote=False), shlex.quote(f"{text} ")[1:-2]}
    for _ in range(_JSON_LEVELS):
        forms |= {json.dumps(text, ensure_ascii=ascii)[1:-1] for text in forms for ascii in (True, False)}
    return forms


def _in_python(text: str) -> Iterator[str]:
    """The text in the repr of itself, and of a longer text, which may hold the other quotation mark."""
    yield repr(_encoded(text))[2:-1]
    for written in (repr, ascii):
        yield written(text)[1:-1]
        yield written(text + '"')[1:-2]


def _in_urls(text: str) -> Iterator[str]:
    for safe in ("/", "", _JAVA_SAFE):
        encoded = quote(text, safe=safe, errors="surrogateescape")
        yield encoded
        yield re.sub("%..", lambda match: match[0].lower(), encoded)
    yield quote_plus(text, safe="/", errors="surrogateescape")
    # Java leaves letters outside of ASCII in a URI.
    yield "".join(quote(each, safe=_JAVA_SAFE) if each.isascii() else each for each in text)


def _forms_of_hash(digest: str) -> set[str]:
    raw = bytes.fromhex(digest)
    in_base64 = base64.b64encode(raw).decode().rstrip("=")
    return {
        digest.lower(),
        digest.upper(),
        raw.decode("utf-8", "surrogateescape"),
        in_base64,
        quote(in_base64, safe=""),
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
    }


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _filler(content: bytes, start: int, end: int) -> bytes:
    """Stars; after a backslash zeros, which can end each escape sequence of JSON that begins before.

    In the text "\\nectarine/1.jpg", "nectarine/1.jpg" begins with the letter of an escape sequence. This
    letter stays.
    """
    before = content[max(0, start - _ESCAPE) : start]
    if b"\\" not in before:
        return b"*" * (end - start)
    first = content[start : start + 1] if before.endswith(b"\\") else b"0"
    return first + b"0" * (end - start - 1)


def _fillers(file: BinaryIO, search: TextSearch) -> Iterator[tuple[int, bytes]]:
    """The offset of each place with texts in a file, in bytes, and its filler."""
    content, offset = b"", 0
    while chunk := file.read(_CHUNK):
        content += chunk
        for start, end in search.places(content):
            yield offset + start, _filler(content, start, end)
        # A text at the end may continue in the next chunk. A text that was found is found again, and longer.
        kept = max(0, len(content) - _LONGEST - _ESCAPE)
        content, offset = content[kept:], offset + kept


def _blank_gzip(path: Path, search: TextSearch, write: bool) -> bool:
    content, whole = bytearray(), True
    try:
        with gzip.open(path) as file:
            while chunk := file.read1(_CHUNK):
                content += chunk
    except (OSError, EOFError, zlib.error):
        whole = False
    if not (found := found_in(bytes(content), search)) or not write:
        return found
    if not whole:
        path.unlink()
        return True
    handle, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as copy:
            copy.write(gzip.compress(blanked(bytes(content), search)))
            copy.flush()
            os.fsync(copy.fileno())
        shutil.copymode(path, name)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return True
