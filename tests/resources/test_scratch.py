"""Temporary files of a process are in one folder, which goes with the process, however it ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resources import scratch
from spark_jobs.errors import FruitsError
from tests.support import REPOSITORY, wait_for

# Uses a scratch folder, tells its name, and ends when a line comes.
USES = "from resources.scratch import *; import os, sys\nprint(use_scratch_folder(), flush=True)\n"
WAITS = USES + "sys.stdin.readline()\n"


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """A temporary folder with a name that a shell and a URI would misread."""
    folder = tmp_path / "a #1 temporary folder"
    folder.mkdir()
    return folder


@pytest.fixture
def start(temporary: Path) -> Callable[[str], "subprocess.Popen[str]"]:
    def start(program: str, **changed: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(temporary), **changed},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    return start


def told(process: "subprocess.Popen[str]") -> Path:
    """The next line of a process, as the name of a folder."""
    assert process.stdout is not None
    return Path(process.stdout.readline().rstrip("\n"))


Start = Callable[..., "subprocess.Popen[str]"]


def test_the_folder_is_the_users_alone_and_goes_with_a_process_that_ends(
    temporary: Path, start: Start
) -> None:
    process = start(WAITS)
    folder = told(process)
    assert folder.parent == temporary
    assert folder.stat().st_mode & 0o777 == 0o700
    process.communicate("")
    assert process.returncode == 0
    assert list(temporary.iterdir()) == []


def test_temporary_files_of_a_process_and_its_children_lie_in_the_folder(
    temporary: Path, start: Start
) -> None:
    shows = "import tempfile, subprocess\nprint(tempfile.mkdtemp())\n"
    child = "subprocess.run([sys.executable, '-c', 'import tempfile; print(tempfile.mkdtemp())'])\n"
    process = start(USES + shows + "sys.stdout.flush()\n" + child)
    folder, own, childs = told(process), told(process), told(process)
    assert own.parent == childs.parent == folder
    process.communicate("")
    assert list(temporary.iterdir()) == []


def test_the_folder_of_a_killed_process_goes_with_the_next_and_no_other_folder_does(
    temporary: Path, start: Start
) -> None:
    living, killed = start(WAITS), start(WAITS)
    kept, left = told(living), told(killed)
    (left / "spark-1").mkdir()
    (left / "spark-1" / "block").write_text("data")
    killed.kill()
    killed.communicate()
    others = [
        temporary / name for name in ("fruits-photos", f"fruits-{os.getuid()}-photos of mine", "spark-2")
    ]
    for other in others:
        other.mkdir()
    assert left.exists()
    start(USES).communicate()
    assert set(temporary.iterdir()) == {kept, *others}
    living.communicate("")


def test_a_folder_that_a_dying_program_makes_again_goes_too(temporary: Path, start: Start) -> None:
    (temporary / f"fruits-{os.getuid()}-abcd1234" / "spark-1").mkdir(parents=True)
    start(USES).communicate()
    assert list(temporary.iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to another user")
def test_a_folder_of_another_user_stays(temporary: Path, start: Start) -> None:
    foreign = temporary / f"fruits-{os.getuid()}-abcd1234"
    foreign.mkdir()
    os.chown(foreign, 12345, 12345)
    start(USES).communicate()
    assert list(temporary.iterdir()) == [foreign]


def test_a_link_is_not_followed(temporary: Path, start: Start, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "photo.jpg").touch()
    (temporary / f"fruits-{os.getuid()}-abcd1234").symlink_to(precious)
    left = temporary / f"fruits-{os.getuid()}-abcd5678"
    left.mkdir()
    (left / "photos").symlink_to(precious)
    # A lock that leads elsewhere would be created there.
    (temporary / f"fruits-{os.getuid()}-abcd9999").mkdir()
    (temporary / f"fruits-{os.getuid()}-abcd9999" / ".lock").symlink_to(precious / "lock")
    start(USES).communicate()
    assert [path.name for path in precious.iterdir()] == ["photo.jpg"]
    assert not left.exists()


def test_a_child_that_outlives_its_killed_parent_keeps_its_own_folder(temporary: Path, start: Start) -> None:
    child = f"import subprocess\nsubprocess.run([sys.executable, '-c', {WAITS!r}])\n"
    parent = start(USES + child)
    of_parent, of_child = told(parent), told(parent)
    assert of_child.parent == temporary  # not inside of the parent's folder, which may go before
    parent.kill()
    parent.wait()
    start(USES).communicate()
    assert not of_parent.exists()
    assert of_child.exists()
    parent.communicate("")  # the child ends
    wait_for(lambda: not of_child.exists())


def test_children_do_not_hold_the_lock_of_their_parent(temporary: Path, start: Start) -> None:
    child = "import subprocess\nprint(subprocess.Popen(['sleep', '600'], close_fds=False).pid, flush=True)\n"
    parent = start(USES + child + "sys.stdin.readline()\n")
    folder, pid = told(parent), int(str(told(parent)))
    try:
        parent.kill()
        parent.wait()
        start(USES).communicate()
        assert not folder.exists()
    finally:
        os.kill(pid, signal.SIGKILL)
        parent.communicate()


def test_a_program_that_replaces_the_process_keeps_the_folder(temporary: Path, start: Start) -> None:
    server = start(USES + "hand_over_locks()\nos.execv('/bin/cat', ['cat'])\n")
    folder = told(server)
    start(USES).communicate()
    assert folder.exists()
    server.communicate("")
    start(USES).communicate()
    assert list(temporary.iterdir()) == []


def test_a_fork_that_ends_removes_nothing_of_its_parent(start: Start) -> None:
    fork = "pid = os.fork()\nif not pid: sys.exit()\nos.waitpid(pid, 0)\n"
    process = start(USES + fork + "print(scratch_folder().exists())\n")
    told(process)
    assert str(told(process)) == "True"
    process.communicate()


def test_many_processes_at_once_have_a_folder_each_and_leave_none(temporary: Path, start: Start) -> None:
    for number in range(20):
        (temporary / f"fruits-{os.getuid()}-left{number:04}" / "spark-1").mkdir(parents=True)
    together = [start(WAITS) for _ in range(6)]
    folders = [told(process) for process in together]
    assert set(temporary.iterdir()) == set(folders)
    assert len(set(folders)) == 6
    for process in together:
        process.communicate("")
    assert list(temporary.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(FruitsError, match=rf"^{file} can't be used for temporary files: .*SPARK_LOCAL_DIRS"):
        scratch.scratch_folder(str(file))
