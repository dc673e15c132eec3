"""Downloads the Python packages of EMR's nodes as wheels, for the processors of the nodes."""

import re
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

from resources.instance_types import Architecture
from spark_jobs.errors import FruitsError

# Amazon Linux 2023, the system of EMR 7, has glibc 2.34 (https://docs.aws.amazon.com/linux/al2023/ug/core-glibc.html)
# and, since its release 2023.7, the libstdc++ of GCC 14 (https://github.com/amazonlinux/container-images/issues/132).
_GLIBC = 34
_NEWEST = {"GLIBC_2": _GLIBC, "GLIBCXX_3.4": 33}


def download_wheels(lock: Path, folder: Path, architecture: Architecture) -> None:
    """Downloads the wheels of a lock for nodes of one architecture; pip checks the hash of each.

    The wheels fit EMR's nodes on any machine: CPython 3.11, and the libraries of Amazon Linux 2023. A wheel
    named after the next glibc, manylinux_2_35, is renamed to manylinux_2_34, so that pip on a node takes it,
    if its libraries need no newer ones than a node has. OpenVINO's wheel for aarch64 has the name of the
    system on which it was built, and needs less.

    Raises `FruitsError` with the last 1,500 characters of pip's errors, or for a wheel that needs newer
    libraries.
    """
    versions = ["2014", *(f"_2_{minor}" for minor in range(17, _GLIBC + 2))]
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--require-hashes", "--no-deps", "--only-binary", ":all:"),
        *("--python-version", "3.11", "--implementation", "cp"),
        *(part for version in versions for part in ("--platform", f"manylinux{version}_{architecture}")),
        *("--dest", str(folder), "--requirement", str(lock)),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise FruitsError(f"pip could not download the nodes' packages:\n{done.stderr[-1500:]}")
    for wheel in folder.glob(f"*-manylinux_2_{_GLIBC + 1}_{architecture}.whl"):
        _check_libraries(wheel)
        wheel.rename(wheel.with_name(wheel.name.replace(f"_2_{_GLIBC + 1}_", f"_2_{_GLIBC}_")))


def _check_libraries(wheel: Path) -> None:
    """Raises `FruitsError` where a library of a wheel needs newer system libraries than those of a node.

    A library contains the names of the versions that it needs, such as GLIBC_2.34.
    """
    with ZipFile(wheel) as archive:
        for name in archive.namelist():
            if ".so" not in Path(name).suffixes:
                continue
            content = archive.read(name)
            for version, newest in _NEWEST.items():
                needed = max(
                    map(int, re.findall(rf"{re.escape(version)}\.(\d+)".encode(), content)), default=0
                )
                if needed > newest:
                    raise FruitsError(
                        f"{name} in {wheel.name} needs {version}.{needed}, and Amazon Linux 2023 has "
                        f"{version}.{newest}. Pin a version of the package with wheels for manylinux_2_"
                        f"{_GLIBC} in emr_bootstrap/requirements.in, and run `make lock`."
                    )
