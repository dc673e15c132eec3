"""The folder `pca_features_csv/`: a copy of the current CSV of each class, under the name of the class.

A pointer names the version of a CSV, as for every output, so the two can never disagree. The copy comes after
the pointer. A run that dies in between leaves an old copy, which the next run replaces.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping

from spark_jobs.store.pointers import current_by_class
from spark_jobs.store.root import Root, concurrently, is_unfinished
from spark_jobs.store.schemas import PCA_FEATURES_CSV
from spark_jobs.store.versions import Version, class_key

# The length of a file name that Linux allows, in bytes.
_NAME_BYTES = 255


def csv_paths(labels: Iterable[str]) -> dict[str, str]:
    """The path of the copy of each of all classes, relative to the store: `pca_features_csv/<class>.csv`.

    Names that differ only in case or in Unicode's normal form are the same file on macOS and Windows. Such
    names, and names that are too long, end with `~` and 12 digits of the class's hash; a class whose name
    looks like that too.
    """
    wanted = list(labels)
    alike = Counter(map(_folded, wanted))

    def name(label: str) -> str:
        digits = f"~{class_key(label)[-12:]}"
        if len(f"{label}.csv".encode()) > _NAME_BYTES:
            return f"{label.encode()[:200].decode(errors='ignore')}{digits}.csv"
        if alike[_folded(label)] > 1 or re.search(r"~[0-9a-f]{12}$", _folded(label)):
            return f"{label.encode()[:230].decode(errors='ignore')}{digits}.csv"
        return f"{label}.csv"

    return {label: f"{PCA_FEATURES_CSV}/{name(label)}" for label in wanted}


def _folded(label: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", label).casefold())


def stale_copies(store: Root) -> list[str]:
    """The classes whose copy is missing, or differs in size or SHA-256 from the current version."""
    versions = current_by_class(store, PCA_FEATURES_CSV)
    return list(_stale(store, versions, csv_paths(versions)))


def _stale(store: Root, versions: Mapping[str, Version], paths: Mapping[str, str]) -> dict[str, Version]:
    """The versions, of the given versions, whose copy at the path of the class may be another file."""
    sizes = {info.path: info.size for info in store.list(PCA_FEATURES_CSV)}

    def is_stale(label: str) -> bool:
        path, version = paths[label], versions[label]
        return sizes.get(path) != version.bytes or sha256_of(store, path) != version.details.get("sha256")

    stale = concurrently(is_stale, versions)
    return {label: versions[label] for label, old in zip(versions, stale, strict=True) if old}


def copy_csvs(store: Root) -> dict[str, str]:
    """Replaces each stale copy as a whole, and removes other files of the folder. Returns the paths by class.

    A version whose file was lost has no copy. Another run may publish a newer version meanwhile. So the
    pointers are read again afterwards, until none has changed: the run that copies last finds the last
    pointer.
    """
    found = [info.path for info in store.list(PCA_FEATURES_CSV) if not is_unfinished(info.path)]
    copied: dict[str, Version] = {}
    while (versions := current_by_class(store, PCA_FEATURES_CSV)) != copied:
        paths = csv_paths(versions)
        changed = {label: version for label, version in versions.items() if copied.get(label) != version}
        copies = [
            (version.parts[0].path, paths[label])
            for label, version in _stale(store, changed, paths).items()
            if version.parts
        ]
        there = concurrently(lambda copy: store.has(copy[0]), copies)
        store.copy_many(copy for copy, is_there in zip(copies, there, strict=True) if is_there)
        copied = versions
    paths = csv_paths(copied)
    store.remove_files(set(found) - set(paths.values()))
    return paths


def sha256_of(store: Root, path: str) -> str:
    """The SHA-256 of a file, in hexadecimal; of no file, an empty text."""
    try:
        return hashlib.sha256(store.read(path)).hexdigest()
    except FileNotFoundError:
        return ""
