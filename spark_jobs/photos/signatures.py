"""What a file is that was saved under a photo's name and is none, by its first bytes."""

import re
from typing import NamedTuple


class _Kind(NamedTuple):
    """A kind of file: how its first bytes look, its name, and what a person can do."""

    start: bytes  # a regular expression
    name: str
    remedy: str


_CONVERT = "Convert it to JPEG"
_DOWNLOAD = "Download the photo itself"
_UNPACK = "Unpack it"
_LEAVE_OUT = "Take it out of the folder"

_KINDS = (
    _Kind(rb"version https://git-lfs", "a pointer of Git LFS", "Fetch the photo: git lfs pull"),
    _Kind(rb"\s*(<!doctype html|<html|<head|<body|<script)", "a web page", _DOWNLOAD),
    _Kind(rb"\s*(<\?xml[^>]*>\s*)?(<!doctype svg[^>]*>\s*)?<svg", "an SVG drawing", _CONVERT),
    _Kind(rb"\s*<\?xml|\s*<!--|\s*<[a-z]+>", "an XML text", _LEAVE_OUT),
    _Kind(rb"\s*[\[{][\s\"\[{\]}0-9]", "a JSON text", _DOWNLOAD),
    _Kind(rb"%PDF-", "a PDF", "Save its picture as JPEG"),
    _Kind(rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript drawing", _CONVERT),
    _Kind(rb"PK(\x03\x04|\x05\x06)", "a ZIP archive", _UNPACK),
    _Kind(rb"Rar!\x1a\x07|7z\xbc\xaf|\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd", "an archive", _UNPACK),
    _Kind(rb".{257}ustar", "a tar archive", _UNPACK),
    _Kind(
        rb"....ftypcrx |....ftypcr3 |II\*\0.{4}CR|FUJIFILMCCD-RAW|IIRO|IIU\0",
        "a raw file of a camera",
        _CONVERT,
    ),
    _Kind(rb"....ftyp(qt  |isom|iso[2-9]|mp4|M4V|avc1|3g|MSNV|f4v)", "a film", _LEAVE_OUT),
    _Kind(
        rb"....(moov|mdat|wide|free|skip)|\x1aE\xdf\xa3|RIFF....AVI |\0\0\x01[\xb3\xba]", "a film", _LEAVE_OUT
    ),
    _Kind(rb"RIFF....WAVE|ID3|OggS|fLaC|....ftypM4A", "a sound", _LEAVE_OUT),
    _Kind(rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL", _CONVERT),
    _Kind(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000", _CONVERT),
    _Kind(rb"8BPS", "a Photoshop file", _CONVERT),
    _Kind(rb"\0\0[\x01\x02]\0[^\0]", "an icon", _LEAVE_OUT),
    _Kind(rb"\x89HDF|\x93NUMPY|\x80[\x02-\x05]", "a file of data", _LEAVE_OUT),
    _Kind(rb"SQLite format 3", "a database", _LEAVE_OUT),
    _Kind(rb"MZ|\x7fELF|#!", "a program", _LEAVE_OUT),
    _Kind(rb"\xd0\xcf\x11\xe0", "a file of Microsoft Office, or Thumbs.db", _LEAVE_OUT),
    _Kind(rb"\0{64}", "a file of zeros, as an interrupted copy leaves it", "Copy it again"),
    _Kind(rb"[\t\n\r\x20-\x7e\x80-\xff]{16,}$", "a text", _DOWNLOAD),
)
_PATTERNS = [(re.compile(kind.start, re.DOTALL | re.IGNORECASE), kind) for kind in _KINDS]


def signature(content: bytes) -> str:
    """What a file is that is no photo, and what to do, as a phrase; empty for an unknown kind."""
    start = content[:512]
    for pattern, kind in _PATTERNS:
        if pattern.match(start):
            return f"{kind.name}. {kind.remedy}"
    return ""
