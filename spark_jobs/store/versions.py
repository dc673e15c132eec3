"""What is current in a table: the files of a class, and the data version that identifies their content."""

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Part:
    """One finished file: path relative to the store, rows of each Parquet row group, size in bytes.

    A file of a table also says what is in it. `first` is the path of its first photo. `digest` is a sum of
    hashes of its photos (64 hexadecimal digits): the sum over the files of a class depends on the photos
    alone. `made_with` holds the versions of what made the rows, apart from the photos. `counts` adds up over
    the files of a class. `rules` is the version of the rules by which its photos were accepted or refused,
    and `metadata` that of the rules by which metadata was removed; it is empty for photos as they came.
    """

    path: str
    row_groups: list[int]
    bytes: int
    first: str = ""
    digest: str = ""
    made_with: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    rules: str = ""
    metadata: str = ""

    @property
    def rows(self) -> int:
        return sum(self.row_groups)


@dataclass(frozen=True, kw_only=True)
class Version:
    """The current content of a class in a table, or of an output without classes.

    `data_version` identifies the content: equal versions hold equal data. `inputs` holds the data version of
    each input by its table. `details` holds further figures. `directory` holds the files of an output that
    is no table, relative to the store. `damage` is the reason why the files cannot be used; it is empty for
    a version that is whole.
    """

    label: str | None
    data_version: str
    directory: str = ""
    parts: list[Part] = field(default_factory=list)
    inputs: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    damage: str = ""

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)


def classes_behind(
    results: Mapping[str, Version],
    sources: Mapping[str, Version],
    *,
    source: str,
    other_inputs: Mapping[str, str] | None = None,
) -> list[str]:
    """The classes whose result is missing, damaged, out of date, without a source, or has other rows.

    A result is up to date if it was made from the current version of its class in the table `source`, and
    from `other_inputs` as {asset: data version}.
    """
    shared = (other_inputs or {}).items()
    return [
        label
        for label in sorted({*sources, *results})
        if label not in results
        or label not in sources
        or results[label].rows != sources[label].rows
        or results[label].inputs.get(source) != sources[label].data_version
        or not shared <= results[label].inputs.items()
    ]


def photo_digest(path: str, sha256: str | None) -> int:
    """The hash of one photo in the digest of a file."""
    return int.from_bytes(hashlib.sha256(f"{path}\0{sha256}".encode()).digest())


def digest_text(total: int) -> str:
    """The sum of the hashes of photos as 64 hexadecimal digits."""
    return f"{total % (1 << 256):064x}"


def photos_version(parts: list[Part]) -> str:
    """A data version of the photos in the files: the same for the same photos in any order and any files."""
    return digest_text(sum(int(part.digest, 16) for part in parts))[:16]


def is_name(text: str) -> bool:
    """Whether a text can be the name of one file or folder."""
    return bool(text) and text not in (".", "..") and not re.search(r"[/\0\ud800-\udfff]", text)


def class_key(label: str) -> str:
    """A name for a class without characters that file systems, Spark or globs treat specially.

    It joins the ASCII letters and digits of the label and 12 hexadecimal digits of the label's SHA-256,
    which keep the names of different classes different.
    """
    ascii_label = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode()
    legible = re.sub(r"[^A-Za-z0-9]+", "-", ascii_label).strip("-")[:48]
    return f"{legible}-{hashlib.sha256(label.encode()).hexdigest()[:12]}".lstrip("-")


def combined_version(*parts: str) -> str:
    """A data version from other versions, in their order: 16 hexadecimal digits of a SHA-256."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
