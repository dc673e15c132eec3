"""The code that a step runs on the nodes: byte for byte the files that run on one machine."""

import hashlib
import io
import zipfile
from pathlib import Path

import spark_jobs
from spark_jobs.store.root import Root

# The folder, in the store, of the files of steps, and that of their code, which is no run's.
STEPS = "emr"
CODE = f"{STEPS}/code"

ENTRY_POINT = Path(__file__).with_name("entry_point.py")
LAUNCHER = Path(__file__).with_name("launcher.py")


def upload_code(store: Root) -> tuple[str, str]:
    """Uploads the archive and the entry point under the SHA-256 of their content; returns both URIs.

    A file that is there already is written again: its content may have been changed.
    """
    uris = []
    for suffix, content in ((".zip", code_archive()), (".py", ENTRY_POINT.read_bytes())):
        path = f"{CODE}/{hashlib.sha256(content).hexdigest()}{suffix}"
        store.write(path, content)
        uris.append(store.uri_of(path))
    return uris[0], uris[1]


def code_archive() -> bytes:
    """The package `spark_jobs` as a zip file. Equal source files give equal bytes."""
    package = Path(spark_jobs.__file__).parent
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for file in sorted(package.rglob("*.py")):
            # With a fixed time, the archive's name depends on the content of the files alone.
            info = zipfile.ZipInfo(f"spark_jobs/{file.relative_to(package)}", (1980, 1, 1, 0, 0, 0))
            archive.writestr(info, file.read_bytes(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
