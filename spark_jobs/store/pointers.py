"""Outputs that are no tables: the PCA model, the extractor, the CSVs and reports, with one pointer each.

A run writes the files of a version to a new directory, which no reader opens yet. The version becomes
current when the run writes one small JSON file, the pointer: `<folder>/current.json`, or
`<folder>/current/<class>.json` for an output by class. That is one atomic PUT on S3, one rename on disk.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, fields
from typing import Any

from spark_jobs.errors import FruitsError
from spark_jobs.store.root import Root
from spark_jobs.store.schemas import VERSION_FOLDERS
from spark_jobs.store.versions import Part, Version, class_key, is_name

# The SHA-256 of all else that a pointer says: a disk that flips a bit changes no figure unseen.
_SUM = "sha256"


def folder_of(output: str) -> str:
    """The folder, relative to the store, of the versions and pointers of an output."""
    return VERSION_FOLDERS.get(output, output)


def new_directory(output: str, run: str) -> str:
    """A new directory, relative to the store, for one attempt of a run to write an output."""
    return f"{folder_of(output)}/version={run}/{uuid.uuid4().hex[:8]}"


def pointer_path(output: str, label: str | None) -> str:
    folder = folder_of(output)
    return f"{folder}/current.json" if label is None else f"{folder}/current/{class_key(label)}.json"


def publish(store: Root, output: str, versions: Iterable[Version]) -> None:
    """Makes each version current in one step. All files of the versions must be complete and synced."""
    made_current = list(versions)
    store.sync_folders(part.path for version in made_current for part in version.parts)
    store.write_many(
        (pointer_path(output, version.label), _pointer(asdict(version))) for version in made_current
    )


def _pointer(said: dict[str, Any]) -> bytes:
    """The content of a pointer: what it says, and the SHA-256 of that."""
    return _encoded(said | {_SUM: hashlib.sha256(_encoded(said)).hexdigest()})


def _encoded(said: Any) -> bytes:
    return json.dumps(said, ensure_ascii=False).encode()


def withdraw(store: Root, output: str, labels: Iterable[str]) -> None:
    """Removes the pointers of classes, which then have no version. A class without a pointer is no error."""
    store.remove_files(pointer_path(output, label) for label in labels)


def current_by_class(store: Root, output: str, labels: Iterable[str] | None = None) -> dict[str, Version]:
    """The current version of every class of an output, or of each given class that has a version, by label.

    The result is sorted by label. A class whose pointer cannot be read is left out, as if it had none.
    """
    wanted = None if labels is None else {pointer_path(output, label) for label in labels}
    paths = [path for path in class_pointers(store, output) if wanted is None or path in wanted]
    versions: dict[str, Version] = {}
    for path, content in store.read_present(paths).items():
        with suppress(FruitsError):
            version = parse_pointer(path, content)
            versions[str(version.label)] = version
    return dict(sorted(versions.items()))


def current_one(store: Root, output: str) -> Version | None:
    """The current version of an output without classes, or None if no version was published.

    Raises `FruitsError` if its pointer cannot be read.
    """
    path = pointer_path(output, None)
    try:
        content = store.read(path)
    except FileNotFoundError:
        return None
    try:
        return parse_pointer(path, content)
    except FruitsError as error:
        raise FruitsError(f"{store.uri_of(path)}: {error}. Materialize {output} again.") from None


def class_pointers(store: Root, output: str) -> list[str]:
    """The paths, relative to the store, of the pointers of all classes of an output."""
    paths = (info.path for info in store.list(f"{folder_of(output)}/current"))
    return [path for path in paths if re.fullmatch(r"[^._/][^/]*\.json", path.rpartition("/")[2])]


def parse_pointer(path: str, content: bytes) -> Version:
    """The version in a pointer that is read from `path`. Fields that this release does not know are ignored.

    Raises `FruitsError` if the content is no pointer, or names a class or a file that is not its own.
    """
    try:
        said = json.loads(content)
        # A pointer of an earlier release has no sum.
        is_whole = _SUM not in said or content == _pointer(
            {name: value for name, value in said.items() if name != _SUM}
        )
        parts = [Part(**_known(Part, part)) for part in said["parts"]]
        version = Version(**_known(Version, said) | {"parts": parts})
        folder = path.partition("/")[0]
        name = "current.json" if version.label is None else f"current/{class_key(version.label)}.json"
        inside = all(
            file.startswith(f"{folder}/") and all(map(is_name, file.split("/")))
            for file in (version.directory, *(part.path for part in parts))
        )
        texts = [version.data_version, *version.inputs.values()]
        _encoded(said)  # refuses lone surrogates
        counts = [count for part in parts for count in (part.bytes, *part.row_groups)]
        right = (
            is_whole
            and path == f"{folder}/{name}"
            and inside
            and (version.label is None or is_name(version.label))
            and isinstance(version.details, dict)
            and all(isinstance(text, str) for text in texts)
            and all(type(count) is int and 0 <= count < 1 << 63 for count in counts)
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        right = False
    if not right:
        raise FruitsError(
            "the pointer is damaged, names a class or a file that is not its own, or is of a newer release"
        )
    return version


def _known(kind: type[Any], said: dict[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass, without fields that it does not have."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in said.items() if name in names}
