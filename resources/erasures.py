"""The photos that `fruits erase` has taken out: a list in the store that only its key can read.

The store holds keyed hashes (HMAC, RFC 2104, with SHA-256) of paths and contents. Without the key, which is a
file outside the store, nobody can tell whether a photo is in the list. Jobs never get the key.
"""

import hmac
import json
import os
import secrets
import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from spark_jobs.errors import FruitsError
from spark_jobs.store.erasures import ERASURES, ErasedPhotos, erasures_version
from spark_jobs.store.photos import Photo
from spark_jobs.store.root import Root

_KEY_BYTES = 32
_HASH_DIGITS = 32  # hexadecimal digits of a keyed hash: 128 bits


@dataclass(frozen=True)
class Erasures:
    """The list of erasures of a store, and its key."""

    version: str = ""
    key: bytes = b""
    hashes: frozenset[str] = field(default_factory=frozenset)

    def has_photo(self, photo: Photo) -> bool:
        """Whether a photo was erased. Another photo at its path has another state, and was not."""
        return bool(self.hashes) and _of_photo(self.key, photo) in self.hashes

    def has_content(self, sha256: str) -> bool:
        """Whether a photo of this content was erased, under any path."""
        return bool(self.hashes) and _of_content(self.key, sha256) in self.hashes

    def has_path(self, path: str) -> bool:
        """Whether a photo was erased that had this path."""
        return bool(self.hashes) and _of_path(self.key, path) in self.hashes


def read_erasures(store: Root, key_file: Path) -> Erasures:
    """The list of erasures of a store. Raises `FruitsError` where there is a list, and not its key."""
    version = erasures_version(store)
    if not version:
        return Erasures()
    lists = [info.path for info in store.list(ERASURES) if info.path.endswith(".json")]
    key = _key(key_file)
    hashes: set[str] = set()
    for path, content in store.read_present(lists).items():
        try:
            said = json.loads(content)
            of_this_key, own = said["key"] == _name(key), set(said["hashes"])
        except (ValueError, TypeError, KeyError, RecursionError):
            raise FruitsError(
                f"{store.uri_of(path)} is no list of erasures. Restore it from a copy: it keeps photos out."
            ) from None
        if not key or not of_this_key:
            raise FruitsError(_no_key(store, key_file, bool(key)))
        hashes |= own
    return Erasures(version, key, frozenset(hashes))


def add_erasures(store: Root, key_file: Path, photos: ErasedPhotos, states: Collection[Photo]) -> str:
    """Adds photos to the list of erasures, and returns the name of this erasure.

    `states` are the photos as folders and tables know them. The first erasure makes the key, which its owner
    alone can read. Raises the errors of `read_erasures`.
    """
    key = read_erasures(store, key_file).key or _key(key_file) or _new_key(key_file)
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex}"
    hashes = {
        *(_of_path(key, path) for path in photos.paths),
        *(_of_content(key, sha256) for sha256 in photos.hashes),
        *(_of_photo(key, photo) for photo in states),
    }
    store.write(f"{ERASURES}/{name}.json", json.dumps({"key": _name(key), "hashes": sorted(hashes)}).encode())
    return name


def end_erasure(store: Root, name: str) -> None:
    """Says that the photos of an erasure are in no table any more: a job that began before may not commit."""
    store.write(f"{ERASURES}/{name}.ended", b"")


def not_erased(photos: Iterable[Photo], erasures: Erasures) -> list[Photo]:
    """The photos that were not erased, in their order."""
    return [photo for photo in photos if not erasures.has_photo(photo)]


def _key(key_file: Path) -> bytes:
    """The key; empty where there is none."""
    try:
        text = key_file.read_text()
    except FileNotFoundError:
        return b""
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise FruitsError(f"{key_file} is no key of erasures. Restore it from a copy.")
    return key


def _new_key(key_file: Path) -> bytes:
    key = secrets.token_bytes(_KEY_BYTES)
    key_file.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(key.hex())
        file.flush()
        os.fsync(file.fileno())
    return key


def _no_key(store: Root, key_file: Path, another: bool) -> str:
    fault = "is another key than that of" if another else "does not exist, and it is the key of"
    return (
        f"{key_file} {fault} the list of erasures {store.uri_of(ERASURES)}. Without the key, erased photos "
        "whose files are still in FRUITS_IMAGES would come back. Copy the key from the machine that erased "
        "them, or name its file by FRUITS_ERASURE_KEY. If it is lost: remove the erased photos from "
        "FRUITS_IMAGES, and then that folder of the store."
    )


def _name(key: bytes) -> str:
    """A name of the key, from which nobody can find the key."""
    return _hash(key, "key", "")


def _of_path(key: bytes, path: str) -> str:
    return _hash(key, "path", path)


def _of_content(key: bytes, sha256: str) -> str:
    return _hash(key, "content", sha256)


def _of_photo(key: bytes, photo: Photo) -> str:
    size, state = photo.state
    return _hash(key, "photo", f"{photo.path}\0{size}\0{state}")


def _hash(key: bytes, kind: str, text: str) -> str:
    return hmac.digest(key, f"{kind}\0{text}".encode(), "sha256").hex()[:_HASH_DIGITS]
