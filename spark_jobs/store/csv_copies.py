"""The folder `pca_features_csv/`: a copy of the current CSV of each class, under the name of the class.

A pointer names the version of a CSV, as for every table, so the two can never disagree. The copy comes after
the pointer. A run that dies in between leaves an old copy, which the next run replaces.
"""

import hashlib
import posixpath
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from spark_jobs.store.root import IO_THREADS, Root
from spark_jobs.store.schemas import PCA_FEATURES_CSV
from spark_jobs.store.tables import Part, Pointer, class_key, current, new_directory, parse_pointer, publish


def csv_path(label: str) -> str:
    """The path of the copy for a class, relative to the store: `pca_features_csv/<class>.csv`.

    A file name has at most 255 bytes. A longer name is cut, and ends with 12 digits of the class's hash.
    """
    name = f"{label}.csv"
    if len(name.encode()) > 255:
        digits = class_key(label)[-12:]
        name = f"{label.encode()[:200].decode(errors='ignore')}~{digits}.csv"
    return f"{PCA_FEATURES_CSV}/{name}"


def stale_copies(store: Root, labels: Iterable[str] | None = None) -> dict[str, Pointer]:
    """The pointers of the classes whose copy is missing, or differs in size or SHA-256 from the version."""
    sizes = {info.path: info.size for info in store.list(PCA_FEATURES_CSV)}

    def is_stale(pointer: Pointer) -> bool:
        path = csv_path(str(pointer.label))
        return sizes.get(path) != pointer.bytes or sha256_of(store, path) != pointer.details["sha256"]

    pointers = current(store, PCA_FEATURES_CSV, labels)
    with ThreadPoolExecutor(IO_THREADS) as pool:
        stale = pool.map(is_stale, pointers.values())
        return {label: pointer for (label, pointer), old in zip(pointers.items(), stale, strict=True) if old}


def copy_csvs(store: Root) -> None:
    """Replaces each stale copy, as a whole. A version whose file was lost has no copy.

    Another run may publish a newer version meanwhile. So the copies are compared again afterwards, until each
    pointer that was found has been copied: the run that copies last finds the last pointer.
    """
    copied: dict[str, Pointer] = {}
    while stale := {
        label: pointer for label, pointer in stale_copies(store).items() if copied.get(label) != pointer
    }:
        versions = {label: pointer.parts[0].path for label, pointer in stale.items()}
        store.copy_many((path, csv_path(label)) for label, path in versions.items() if store.has(path))
        copied |= stale


def convert_csvs(store: Root) -> None:
    """Gives a version to each CSV of a store of release 0.1, where pointers named the CSVs themselves.

    A CSV whose size is not that of its pointer is left out: its class is projected again.
    """
    pointers = f"{PCA_FEATURES_CSV}/current"
    paths = [info.path for info in store.list(pointers) if info.path.endswith(".json")]
    if not paths:
        return
    sizes = {info.path: info.size for info in store.list(PCA_FEATURES_CSV)}
    known, directory = current(store, PCA_FEATURES_CSV), new_directory(PCA_FEATURES_CSV, "converted")
    converted = []
    for pointer in map(parse_pointer, store.read_many(paths)):
        label, old = str(pointer.label), pointer.parts[0]
        if label in known or sizes.get(old.path) != old.bytes:
            continue
        part = Part(f"{directory}/{class_key(label)}/part.csv", old.row_groups, old.bytes)
        store.copy(old.path, part.path)
        details = {"sha256": sha256_of(store, part.path)}
        version = posixpath.dirname(part.path)
        converted.append(replace(pointer, directory=version, parts=[part], details=details))
    publish(store, PCA_FEATURES_CSV, converted)
    store.remove(pointers)


def sha256_of(store: Root, path: str) -> str:
    """The SHA-256 of a file, in hexadecimal; of no file, an empty text."""
    try:
        return hashlib.sha256(store.read(path)).hexdigest()
    except FileNotFoundError:
        return ""
