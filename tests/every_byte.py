"""Every byte that files hold, also in what they compress or encode, to search it for photos."""

import base64
import binascii
import gzip
import json
import re
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

_BASE64 = re.compile(rb"[A-Za-z0-9+/]{40,}={0,2}")
_DEEPEST = 4


def every_byte(files: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """The contents of files, and what is inside: columns of Parquet, rows of SQLite, gzip, zstd, base64."""
    for place, content in files:
        yield from _inside(place, content, 0)


def files_below(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(folder)), path.read_bytes()


def _inside(place: str, content: bytes, depth: int) -> Iterator[tuple[str, bytes]]:
    yield place, content
    if depth == _DEEPEST:
        return
    for inner in _parts(content):
        yield from _inside(place, inner, depth + 1)


def _parts(content: bytes) -> Iterator[bytes]:
    if content.startswith(b"PAR1"):
        for column in pq.read_table(pa.BufferReader(content)).columns:
            values = column.to_pylist()
            yield b"\0".join(value if isinstance(value, bytes) else str(value).encode() for value in values)
            if pa.types.is_list(column.type):
                yield column.combine_chunks().flatten().to_numpy().tobytes()
    elif content.startswith(b"\x1f\x8b"):
        yield gzip.decompress(content)
    elif content.startswith(b"\x28\xb5\x2f\xfd"):
        with suppress(OSError):  # the end of a log that is still being written
            yield pa.input_stream(pa.BufferReader(content), compression="zstd").read()
    elif content.startswith(b"SQLite format 3\0"):
        yield from _rows(content)
    elif content[:1] == b"\x78":
        with suppress(zlib.error):
            yield zlib.decompress(content)
    else:
        yield from _encoded(content)


def _rows(content: bytes) -> Iterator[bytes]:
    """The values of all tables of an SQLite database, without what is in its WAL."""
    database = sqlite3.connect(":memory:")
    # A database in memory has no WAL: these bytes of the header say that (https://sqlite.org/fileformat.html).
    database.deserialize(content[:18] + b"\x01\x01" + content[20:])
    for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        for row in database.execute(f'SELECT * FROM "{name}"'):
            yield from (
                value if isinstance(value, bytes) else str(value).encode()
                for value in row
                if isinstance(value, bytes | str)
            )


def _encoded(content: bytes) -> Iterator[bytes]:
    for text in _BASE64.findall(content):
        with suppress(binascii.Error):
            yield base64.b64decode(text, validate=True)
    if b'""' in content:  # CSV
        yield content.replace(b'""', b'"')
    if b"\\" in content:
        # JSON inside JSON, and the escapes of characters that are not ASCII.
        with suppress(ValueError):
            parsed = json.loads(content)
            yield from _texts(parsed)
            return
        yield re.sub(rb"\\u[0-9a-f]{4}", lambda found: _character(found[0]), content)


def _character(escape: bytes) -> bytes:
    return chr(int(escape[2:], 16)).encode("utf-8", "surrogatepass")


def _texts(value: object) -> Iterator[bytes]:
    if isinstance(value, str):
        yield value.encode("utf-8", "surrogatepass")
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(name)
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
