"""Starts the processes of the rehearsal, finds them by a mark, and ends all of them.

The mark is the value of the environment variable `FRUITS_REHEARSAL`, which child processes inherit. YARN's
containers inherit it too, although they leave the process group of their parent and survive its death. The
search reads /proc of Linux.
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
    """Starts a process in a new session, which a terminal's Ctrl-C does not reach.

    The process runs in the folder of `log`. It writes its output to `log`, and its stderr to `errors` if
    given. Its environment is `environment`, by default that of this process, and the mark.
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
    """The ids of the live processes with this mark, or with a mark that starts with `mark/`."""
    exact, below = f"{MARK}={mark}\0".encode(), f"{MARK}={mark}/".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = b"\0" + (process / "environ").read_bytes() + b"\0"
        except OSError:  # the process has ended, or belongs to another user
            continue
        # The environment of a zombie is empty, so a zombie is not found.
        if b"\0" + exact in environment or b"\0" + below in environment:
            found.append(int(process.name))
    return [pid for pid in found if pid != os.getpid()]


def kill_marked(mark: str) -> None:
    """Kills the processes with this mark until there are none, also those that start in the meantime."""
    while pids := marked_processes(mark):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)


@contextmanager
def killed_at_exit(mark: str) -> Iterator[None]:
    """Kills all processes with this mark when the context ends, or when this process dies.

    A keeper, a process without a mark, waits for the end of its input and then kills them. The operating
    system closes this input when this process dies, also by SIGKILL.
    """
    with ExitStack() as stack:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "rehearsal.processes", mark],
            stdin=subprocess.PIPE,
            # The keeper imports this package, which the caller's working directory may not contain.
            cwd=Path(__file__).parents[1],
            start_new_session=True,
        )
        stack.callback(keeper.wait)
        if keeper.stdin:
            stack.callback(keeper.stdin.close)
        stack.callback(kill_marked, mark)
        yield


@contextmanager
def reserved_ports(count: int) -> Iterator[list[int]]:
    """Different free ports of 127.0.0.1, which no other process receives by chance while the context lasts.

    A server takes such a port by its number: the socket that reserves the port does not listen, and both
    sockets have SO_REUSEADDR, as servers of Java, asyncio and Python's http.server have by default. Linux
    gives a bound port to no socket that asks for any port, and to no outgoing connection.
    """
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for reserving in sockets:
            reserving.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserving.bind(("127.0.0.1", 0))
        yield [reserving.getsockname()[1] for reserving in sockets]


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log file, for an error message."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError as error:
        return f"(no log: {error})"


if __name__ == "__main__":
    sys.stdin.buffer.read()
    kill_marked(sys.argv[1])
