"""Processes of the rehearsal: started in sessions of their own, found by a mark, none left behind.

Every process gets the variable `FRUITS_REHEARSAL`, and what it starts inherits it, YARN's containers too,
which leave their parent's process group and, when it dies, their parent. Needs Linux's /proc.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

MARK = "FRUITS_REHEARSAL"


def start_process(
    mark: str,
    command: list[str],
    log: Path,
    environment: Mapping[str, str] | None = None,
    errors: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a process in a session of its own, out of the reach of a terminal's Ctrl-C.

    It runs in the folder of `log`, to which its output goes; what it says on stderr goes to `errors` if
    given. Its environment is `environment`, else this process's, and the mark.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output, (errors or log).open("ab") as error_output:
        return subprocess.Popen(
            command,
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=error_output,
            env={**(os.environ if environment is None else environment), MARK: mark},
            start_new_session=True,
        )


def marked_processes(mark: str) -> list[int]:
    """The ids of the live processes with this mark, or with one below it (`mark/...`)."""
    exact, below = f"{MARK}={mark}\0".encode(), f"{MARK}={mark}/".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = b"\0" + (process / "environ").read_bytes() + b"\0"
        except OSError:  # gone, or another user's
            continue
        # A zombie's environment is empty: it is not alive.
        if b"\0" + exact in environment or b"\0" + below in environment:
            found.append(int(process.name))
    return [pid for pid in found if pid != os.getpid()]


def kill_marked(mark: str) -> None:
    """Kills the processes with this mark, and those that they start meanwhile."""
    while pids := marked_processes(mark):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)


@contextmanager
def nothing_left(mark: str) -> Iterator[None]:
    """Within the context, processes with this mark may run; none does after it, however it ends.

    A keeper, a process with no mark, waits for the end of its input, which comes when this process
    closes it or dies of anything: SIGTERM and SIGKILL need no handler here.
    """
    with ExitStack() as stack:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "rehearsal.processes", mark],
            stdin=subprocess.PIPE,
            # It must find this package wherever the caller has gone.
            cwd=Path(__file__).parents[1],
            start_new_session=True,
        )
        stack.callback(keeper.wait)
        if keeper.stdin:
            stack.callback(keeper.stdin.close)
        stack.callback(kill_marked, mark)
        yield


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nothing listens on now, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log file, for an error message."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError as error:
        return f"(no log: {error})"


if __name__ == "__main__":
    sys.stdin.buffer.read()
    kill_marked(sys.argv[1])
