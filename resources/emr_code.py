"""The code that travels to the nodes: byte for byte the files that run on one machine."""

import hashlib
import io
import zipfile
from pathlib import Path

import fruits_assets
from fruits_assets.store.root import Root

# The jobs and what they import.
SHIPPED = (
    "__init__.py",
    "images.py",
    "backbone/__init__.py",
    "backbone/inference.py",
    "jobs/*.py",
    "store/*.py",
)
ENTRY_POINT = Path(__file__).with_name("emr_step.py")


def upload_code(store: Root) -> tuple[str, str]:
    """Puts the archive and the entry point under names made of their content; returns their URIs."""
    uris = []
    for suffix, content in ((".zip", code_archive()), (".py", ENTRY_POINT.read_bytes())):
        path = f"emr/code/{hashlib.sha256(content).hexdigest()}{suffix}"
        if not store.has(path):
            store.write(path, content)
        uris.append(store.uri_of(path))
    return uris[0], uris[1]


def code_archive() -> bytes:
    """The shipped files as a zip: the same bytes for the same files."""
    package = Path(fruits_assets.__file__).parent
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for file in sorted(path for pattern in SHIPPED for path in package.glob(pattern)):
            # A fixed time, so that the archive's name depends on the files alone.
            info = zipfile.ZipInfo(f"fruits_assets/{file.relative_to(package)}", (1980, 1, 1, 0, 0, 0))
            archive.writestr(info, file.read_bytes(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
