"""The bootstrap action of EMR's nodes, run on this machine with a package index and with a wheelhouse."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

from resources.emr.account import BOOTSTRAP, FOLDER, LOCK, NODE_PYTHON, TEMPLATE
from resources.emr.wheels import download_wheels
from resources.instance_types import Architecture
from spark_jobs.errors import FruitsError
from tests.support import REPOSITORY

# The wheels of x86-64 nodes fit this platform alone.
ON_NODE_PLATFORM = (
    sys.platform == "linux" and os.uname().machine == "x86_64" and sys.version_info[:2] == (3, 11)
)

# Replaces the one command of the AWS CLI that the script calls: buckets are folders.
AWS = """#!/usr/bin/env bash
set -euo pipefail
[[ "$1 $2 $3" == "s3 cp --only-show-errors" ]]
shift 3
if [[ $1 == --recursive ]]; then
    cp -r "$BUCKETS/${2#s3://}" "$3"
else
    cp "$BUCKETS/${1#s3://}" "$2"
fi
"""

# This Python under the name that the script calls.
PYTHON = f"""#!/usr/bin/env bash
set -euo pipefail
"{sys.executable}" "$@"
"""

# The environments that Amazon Linux 2023's python3.11 makes have this pip:
# https://docs.aws.amazon.com/linux/al2023/release-notes/all-packages-AL2023.7.html
PIP_OF_NODES = "22.3.1"

# `sudo dnf` of a node that reaches Amazon Linux's repository: it installs the program `python3.11`.
SUDO = """#!/usr/bin/env bash
set -euo pipefail
[[ "$*" == "dnf install -y -q python3.11" ]]
echo "$*" >> "$BUCKETS/installed"
mv "$BUCKETS/python3.11" "$(dirname "$0")"
"""


class Node:
    """A simulated node: a folder with S3's buckets, and the folder of the Python environment."""

    def __init__(self, folder: Path) -> None:
        self.venv = folder / "opt" / "venv"
        self.bucket = folder / "buckets" / "bucket"
        self.bucket.mkdir(parents=True)
        programs = folder / "bin"
        programs.mkdir()
        for name, text in {
            "aws": AWS,
            "python3.11": PYTHON,
            "sudo": "#!/usr/bin/env bash\nexit 1\n",
        }.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        self.environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if name.startswith(("PIP_", "HOME", "SSL", "REQ"))
            },
            "PATH": f"{programs}:/usr/bin:/bin",
            "BUCKETS": str(folder / "buckets"),
            "FRUITS_VENV": str(self.venv),
        }

    def bootstrap(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BOOTSTRAP), *arguments],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=600,
        )

    def replace_pip(self, version: str) -> None:
        """Lets each new environment have this version of pip."""
        wheel = self.bucket.parent / "pip"
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheel)]
        subprocess.run([*download, f"pip=={version}"], check=True)
        install = '"${@: -1}/bin/python" -m pip install --quiet --no-index'
        program = self.bucket.parents[1] / "bin" / "python3.11"
        program.write_text(f'{PYTHON}[[ "$1 $2" != "-m venv" ]] || {install} "{wheel}"/*.whl\n')

    def lose_python(self) -> Path:
        """Takes python3.11 from the PATH, which keeps only the tools of the script; returns the program."""
        programs = self.bucket.parents[1] / "bin"
        self.environment["PATH"] = str(programs)
        for tool in (
            "bash",
            "env",
            "mktemp",
            "sha256sum",
            "cut",
            "cp",
            "rm",
            "mv",
            "dirname",
            "mkdir",
            "touch",
        ):
            found = subprocess.run(["which", tool], capture_output=True, text=True, check=True).stdout.strip()
            (programs / tool).symlink_to(found)
        return (programs / "python3.11").rename(self.bucket.parent / "python3.11")

    def put_lock(self, text: str) -> str:
        """Uploads a lock with this text. Returns its URI."""
        (self.bucket / "requirements.lock").write_text(text)
        return "s3://bucket/requirements.lock"

    def packages(self) -> dict[str, str]:
        """The versions of the installed packages, without pip and setuptools, which every environment has."""
        command = [str(self.venv / "bin/python"), "-m", "pip", "list", "--format", "freeze"]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return {name: version for name, version in pins(listed).items() if name not in ("pip", "setuptools")}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheels of the lock for x86-64 nodes, downloaded as a deployment does."""
    folder = tmp_path_factory.mktemp("wheels")
    download_wheels(LOCK, folder, "x86_64")
    return folder


@pytest.fixture(scope="module")
def aarch64_wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheels of the lock for nodes with Graviton processors, downloaded as a deployment does."""
    folder = tmp_path_factory.mktemp("wheels")
    download_wheels(LOCK, folder, "aarch64")
    return folder


def pins(lock: str) -> dict[str, str]:
    """The versions by package of the lines `name==version`."""
    return dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", lock.lower().replace("_", "-"), re.MULTILINE))


def only(lock: str, *packages: str) -> str:
    """The entries of a lock for these packages, with their hashes."""
    entries = re.split(r"\n(?=\S)", lock)
    return "\n".join(entry for entry in entries if entry.partition("==")[0] in packages) + "\n"


# Small packages without dependencies.
SMALL = ("dagster-pipes", "six")


@pytest.mark.skipif(not ON_NODE_PLATFORM, reason="the nodes' wheels are for Linux, x86-64 and Python 3.11")
def test_a_node_without_internet_installs_all_from_the_wheelhouse(node: Node, wheels: Path) -> None:
    (node.bucket / "wheelhouse").symlink_to(wheels)
    node.replace_pip(PIP_OF_NODES)
    lock = node.put_lock(LOCK.read_text())
    # An index that does not answer: pip must not need it.
    no_index = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
    done = node.bootstrap(lock, "s3://bucket/wheelhouse/", **no_index)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"fruits bootstrap: ready: {node.venv} has Python 3.11.")
    assert node.packages() == pins(LOCK.read_text())
    version = subprocess.run([str(node.venv / "bin/pip"), "--version"], capture_output=True, text=True).stdout
    assert version.startswith(f"pip {PIP_OF_NODES} ")
    program = "import boto3, dagster_pipes, numpy, openvino, PIL, pyarrow.fs"
    subprocess.run([str(node.venv / "bin/python"), "-c", program], check=True)


def test_a_node_with_internet_installs_from_the_index(node: Node) -> None:
    lock = node.put_lock(only(LOCK.read_text(), *SMALL))
    done = node.bootstrap(lock)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("fruits bootstrap: ready: ")
    assert set(node.packages()) == set(SMALL)


def test_an_environment_is_kept_for_its_lock_and_replaced_for_another(node: Node, wheels: Path) -> None:
    (node.bucket / "wheelhouse").symlink_to(wheels)
    arguments = (node.put_lock(only(LOCK.read_text(), *SMALL)), "s3://bucket/wheelhouse/")
    assert node.bootstrap(*arguments).returncode == 0
    trace = node.venv / "trace"
    trace.touch()
    again = node.bootstrap(*arguments)
    assert again.returncode == 0 and "ready" in again.stdout
    assert trace.exists()
    node.put_lock(only(LOCK.read_text(), SMALL[0]))
    assert node.bootstrap(*arguments).returncode == 0
    assert not trace.exists()
    assert list(node.packages()) == [SMALL[0]]


def test_an_unfinished_environment_is_replaced(node: Node, wheels: Path) -> None:
    (node.bucket / "wheelhouse").symlink_to(wheels)
    (node.venv / "lib").mkdir(parents=True)
    unfinished = node.venv / "lib" / "unfinished"
    unfinished.touch()
    lock = node.put_lock(only(LOCK.read_text(), *SMALL))
    assert node.bootstrap(lock, "s3://bucket/wheelhouse/").returncode == 0
    assert not unfinished.exists()
    assert set(node.packages()) == set(SMALL)


def failed(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of the stderr of a bootstrap, which must have failed."""
    assert done.returncode != 0
    assert "ready" not in done.stdout
    line = done.stderr.splitlines()[-1]
    assert line.startswith("fruits bootstrap: FAILED: ")
    return line


def test_a_package_with_another_hash_is_refused(node: Node, wheels: Path) -> None:
    (node.bucket / "wheelhouse").symlink_to(wheels)
    lock = re.sub("sha256:[0-9a-f]{64}", f"sha256:{'0' * 64}", only(LOCK.read_text(), *SMALL))
    arguments = (node.put_lock(lock), "s3://bucket/wheelhouse/")
    for _ in range(2):  # the second attempt must not accept the unfinished environment of the first
        done = node.bootstrap(*arguments)
        assert "pip could not install s3://bucket/requirements.lock from s3://bucket/wheelhouse/" in failed(
            done
        )
        assert "HASHES" in done.stderr
    assert node.packages() == {}


def test_a_wheelhouse_without_a_package_fails(node: Node) -> None:
    (node.bucket / "wheelhouse").mkdir()
    lock = node.put_lock(only(LOCK.read_text(), *SMALL))
    done = node.bootstrap(lock, "s3://bucket/wheelhouse/")
    assert "pip could not install" in failed(done)
    assert "No matching distribution found" in done.stderr


def test_a_lock_without_hashes_is_refused(node: Node) -> None:
    done = node.bootstrap(node.put_lock("six==1.17.0\n"))
    assert "pip could not install" in failed(done)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "usage: bootstrap.sh"),
        (("s3://bucket/a", "s3://bucket/b", "c"), "usage: bootstrap.sh"),
        (
            ("s3://bucket/none.lock",),
            "s3://bucket/none.lock cannot be read; upload it with: fruits emr deploy",
        ),
        (("s3://bucket/requirements.lock", "s3://bucket/none/"), "s3://bucket/none/ cannot be read"),
    ],
)
def test_a_missing_argument_or_file_is_named(node: Node, arguments: tuple[str, ...], reason: str) -> None:
    node.put_lock(only(LOCK.read_text(), *SMALL))
    assert reason in failed(node.bootstrap(*arguments))


def test_a_node_without_python_3_11_installs_it_once(node: Node) -> None:
    # EMR installs applications, Python 3.11 among them, after bootstrap actions:
    # https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-plan-bootstrap.html
    node.lose_python()
    (node.bucket.parents[1] / "bin" / "sudo").write_text(SUDO)
    lock = node.put_lock(only(LOCK.read_text(), *SMALL))
    for _ in range(2):
        done = node.bootstrap(lock)
        assert done.returncode == 0, done.stderr
        assert "ready" in done.stdout
    assert set(node.packages()) == set(SMALL)
    assert (node.bucket.parent / "installed").read_text() == "dnf install -y -q python3.11\n"


def test_a_node_that_cannot_install_python_3_11_names_the_remedy(node: Node) -> None:
    node.lose_python()
    lock = node.put_lock(only(LOCK.read_text(), *SMALL))
    assert "this node has no python3.11, and dnf could not install it" in failed(node.bootstrap(lock))


def test_an_unwritable_folder_fails_with_a_message(node: Node) -> None:
    lock = node.put_lock(only(LOCK.read_text(), *SMALL))
    assert "FAILED" in failed(node.bootstrap(lock, FRUITS_VENV="/proc/no/such/venv"))


# Nodes with Graviton processors (aarch64). Their packages can not run here.


def wheel_names(folder: Path) -> set[str]:
    """The packages and versions of the wheels in a folder, as in a lock."""
    return {"==".join(wheel.name.split("-")[:2]).lower().replace("_", "-") for wheel in folder.iterdir()}


def test_the_lock_has_a_wheel_for_nodes_of_each_architecture(wheels: Path, aarch64_wheels: Path) -> None:
    locked = {f"{name}=={version}" for name, version in pins(LOCK.read_text()).items()}
    for architecture, folder in (("x86_64", wheels), ("aarch64", aarch64_wheels)):
        assert wheel_names(folder) == locked
        endings = (f"_{architecture}.whl", "-none-any.whl")
        assert [wheel.name for wheel in folder.iterdir() if not wheel.name.endswith(endings)] == []


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_the_lock_has_all_that_its_wheels_need_on_each_architecture(
    architecture: str, wheels: Path, aarch64_wheels: Path
) -> None:
    platform = {
        "python_version": "3.11",
        "python_full_version": "3.11.14",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": architecture,
        "extra": "",
    }
    locked = pins(LOCK.read_text())
    for wheel in (wheels if architecture == "x86_64" else aarch64_wheels).iterdir():
        with ZipFile(wheel) as archive:
            [metadata] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
            text = archive.read(metadata).decode()
        for line in re.findall(r"^Requires-Dist: (.*)$", text, re.MULTILINE):
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate(platform):
                version = locked[needed.name.lower().replace("_", "-")]
                assert needed.specifier.contains(version), f"{wheel.name} needs {line}"


def test_pip_on_a_graviton_node_takes_every_wheel_of_the_wheelhouse(aarch64_wheels: Path) -> None:
    # pip accepts wheels for the glibc of its system and for older ones (https://peps.python.org/pep-0600/).
    # That of Amazon Linux 2023 is 2.34 (https://docs.aws.amazon.com/linux/al2023/ug/core-glibc.html).
    platforms = ["manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in range(17, 35))]
    command = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--target", "unused", "--no-index"),
        *("--find-links", str(aarch64_wheels), "--only-binary", ":all:", "--require-hashes", "--no-deps"),
        *("--python-version", "3.11", "--implementation", "cp", "--requirement", str(LOCK)),
        *(part for platform in platforms for part in ("--platform", platform)),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_openvinos_library_for_graviton_nodes_is_one_for_aarch64(aarch64_wheels: Path) -> None:
    [wheel] = aarch64_wheels.glob("openvino-*.whl")
    with ZipFile(wheel) as archive:
        header = archive.read("openvino/libs/libopenvino_arm_cpu_plugin.so")[:20]
    assert header[:4] == b"\x7fELF" and header[18] == 183  # e_machine: EM_AARCH64


def test_a_wheel_whose_libraries_need_a_newer_glibc_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        folder = Path(command[command.index("--dest") + 1])
        with ZipFile(folder / "fast-1.0-cp311-cp311-manylinux_2_35_aarch64.whl", "w") as wheel:
            wheel.writestr("fast/libfast.so.1", b"\x7fELF GLIBC_2.17 GLIBC_2.35 GLIBCXX_3.4.30")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr("resources.emr.wheels.subprocess.run", download)
    with pytest.raises(
        FruitsError, match=r"libfast\.so\.1 in fast-1\.0.* needs GLIBC_2\.35.* has GLIBC_2\.34"
    ):
        download_wheels(LOCK, tmp_path, "aarch64")


# The files that a deployment ships.


@pytest.mark.parametrize("architecture", get_args(Architecture))
def test_the_lock_of_the_nodes_has_the_versions_of_the_projects_lock(architecture: Architecture) -> None:
    nodes = pins(LOCK.read_text())
    lines = (FOLDER / "requirements.in").read_text().splitlines()
    required = {line for line in lines if line and not line.startswith("#")}
    assert required >= {"boto3", "dagster-pipes", "numpy", "openvino", "pillow", "pyarrow"}
    assert required <= set(nodes)
    assert not set(nodes) & {"dagster", "tensorflow", "tensorflow-cpu", "pyspark"}
    platform = {
        "python_version": "3.11",
        "python_full_version": "3.11.14",
        "sys_platform": "linux",
        "platform_machine": architecture,
    }
    lines = re.findall(r"^([a-z].*?) ?\\$", (REPOSITORY / "requirements.lock").read_text(), re.MULTILINE)
    requirements = [Requirement(line) for line in lines]
    project = {
        requirement.name: str(requirement.specifier).removeprefix("==")
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate(platform)
    }
    assert nodes == {name: project[name] for name in nodes}


def test_steps_use_the_python_that_the_script_installs() -> None:
    [venv] = re.findall(r"^VENV=\$\{FRUITS_VENV:-(.*)\}$", BOOTSTRAP.read_text(), re.MULTILINE)
    assert f"{venv}/bin/python" == NODE_PYTHON


def test_every_package_in_the_lock_of_the_nodes_has_a_hash() -> None:
    entries = re.split(r"\n(?=[a-z])", LOCK.read_text().strip())
    assert len(entries) == len(pins(LOCK.read_text()))
    assert all("--hash=sha256:" in entry for entry in entries)


@pytest.mark.parametrize(
    "command",
    [["shellcheck", str(BOOTSTRAP)], ["cfn-lint", "--regions", "eu-west-3", "--", str(TEMPLATE)]],
)
def test_the_linters_accept_the_shipped_files(command: list[str]) -> None:
    program = Path(sys.executable).with_name(command[0])
    done = subprocess.run([str(program), *command[1:]], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
