"""Decodes photos that are not plainly cheap in a child process with limits: a photo can hurt only itself.

A decoder that crashes, hangs or takes memory ends the child. The photo in its hands is bad, and the next
photo gets a new child. The child sends sizes, names and pixels as text and bytes, nothing to be executed.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any, BinaryIO

from PIL import Image

from spark_jobs.dimensions import IMAGE_SIDE
from spark_jobs.photos.images import BadImage, Decoded, decode, size_in_header
from spark_jobs.photos.jpeg import has_more_scans
from spark_jobs.photos.limits import Limits
from spark_jobs.photos.model_input import reduced

# A photo of at most this many pixels is decoded in the worker itself, in about 40 ms and 64 MB at most.
CHEAP_PIXELS = 4_000_000
CHEAP_SCANS = 20
# A pipe of 64 KB, the default of Linux, would change between the processes 30 times for a photo of 2 MB.
_PIPE_BYTES = 1 << 20
# A child that waits for a core of a busy machine has this many times the seconds of CPU time.
_PATIENCE = 3


def decode_guarded(content: bytes, max_pixels: int, limits: Limits, *, scaled: bool = False) -> Decoded:
    """`decode`, in a child process unless the photo is plainly cheap.

    A child returns the picture reduced to the input of the model. A Spark task that runs again decodes all of
    its photos in a child: a photo may have killed its worker before.

    Raises `BadImage`, also where the photo takes more than the limits, or its decoder crashes.
    """
    if is_cheap(content) and not _runs_again():
        return decode(content, max_pixels, scaled=scaled)
    return _child.decode(content, max_pixels, limits, scaled)


def is_cheap(content: bytes) -> bool:
    """Whether the header of a photo tells that its decoding takes little time and memory."""
    size = size_in_header(content)
    small = size is not None and size[0] * size[1] <= CHEAP_PIXELS
    return small and not has_more_scans(content, CHEAP_SCANS)


def _runs_again() -> bool:
    """Whether this process works on a Spark task that was lost before."""
    from pyspark import TaskContext

    task = TaskContext.get()
    return task is not None and task.attemptNumber() > 0


class _Child:
    """The child process of this worker, which starts with the first photo that needs it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._memory = 0

    def decode(self, content: bytes, max_pixels: int, limits: Limits, scaled: bool) -> Decoded:
        process = self._started(limits.memory)
        assert process.stdin is not None
        assert process.stdout is not None
        asked = {
            "bytes": len(content),
            "max_pixels": max_pixels,
            "seconds": limits.seconds,
            "scaled": scaled,
        }
        deadline = time.monotonic() + _PATIENCE * limits.seconds
        try:
            _send(process.stdin, asked, content, deadline)
            head = json.loads(_receive_line(process.stdout, deadline))
            if "bad" in head:
                raise BadImage(str(head["bad"]))
            pixels = _receive(process.stdout, 3 * IMAGE_SIDE * IMAGE_SIDE, deadline)
            return Decoded(
                Image.frombytes("RGB", (IMAGE_SIDE, IMAGE_SIDE), pixels),
                int(head["width"]),
                int(head["height"]),
                str(head["format"]),
            )
        except TimeoutError:
            self._end()
            raise BadImage(f"decoding it takes more than {_PATIENCE * limits.seconds:g} s") from None
        except (BrokenPipeError, EOFError):
            raise BadImage(_cause(self._end(), limits)) from None

    def _started(self, memory: int) -> "subprocess.Popen[bytes]":
        if self._process is None or self._process.poll() is not None or self._memory != memory:
            self._end()
            # On a node of a cluster, the modules of this project are in an archive on the path.
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                [sys.executable, "-m", "spark_jobs.photos.guarded", str(memory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                bufsize=0,
            )
            for pipe in (self._process.stdin, self._process.stdout):
                _enlarge(pipe)
            self._memory = memory
        return self._process

    def _end(self) -> int:
        """Ends the child; returns the number of the signal that had ended it before, or 0."""
        process, self._process = self._process, None
        if process is None:
            return 0
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)  # the pipes may break a moment before the process is gone
        code = process.poll()
        process.kill()
        process.communicate()
        return max(0, -(code or 0))


def _cause(number: int, limits: Limits) -> str:
    if number == signal.SIGXCPU:
        return f"decoding it takes more than {limits.seconds:g} s"
    if number == signal.SIGKILL:
        return "its decoder was killed, most often for lack of memory"
    return f"its decoder crashed: {f'signal {number}' if number else 'it ended without a result'}"


def _enlarge(pipe: Any) -> None:
    """Lets a pipe hold a photo, if the system has room: Linux allows 64 MB for all pipes of a user."""
    import fcntl

    with contextlib.suppress(OSError, AttributeError):  # macOS has no sizes of pipes
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _send(pipe: Any, head: dict[str, Any], content: bytes, deadline: float) -> None:
    """Raises `TimeoutError` at the deadline, and `BrokenPipeError` where the child has ended."""
    os.set_blocking(pipe.fileno(), False)
    view = memoryview(json.dumps(head).encode() + b"\n" + content)
    while view:
        _, ready, _ = select.select([], [pipe], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError
        with contextlib.suppress(BlockingIOError):
            view = view[os.write(pipe.fileno(), view) :]


def _receive_line(pipe: Any, deadline: float) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        line += _receive(pipe, 1, deadline)
    return line


def _receive(pipe: Any, size: int, deadline: float) -> bytes:
    """Raises `TimeoutError` at the deadline, and `EOFError` where the pipe ends before."""
    received = bytearray()
    while len(received) < size:
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError
        piece = os.read(pipe.fileno(), min(size - len(received), 1 << 20))
        if not piece:
            raise EOFError
        received += piece
    return bytes(received)


_child = _Child()


# The child.


def _serve(memory: int, asked: BinaryIO, answers: BinaryIO) -> None:
    """Decodes photos until the parent ends."""
    _limit_memory(memory)
    while line := asked.readline():
        head = json.loads(line)
        _limit_time(head["seconds"])
        answers.write(_answer(asked.read(head["bytes"]), head["max_pixels"], head["scaled"]))
        answers.flush()


def _answer(content: bytes, max_pixels: int, scaled: bool) -> bytes:
    """The answer for a photo. Its pixels are gone before the next photo comes."""
    try:
        decoded = decode(content, max_pixels, scaled=scaled)
        picture = reduced(decoded.image)
    except (BadImage, MemoryError) as error:
        return json.dumps({"bad": str(error) or "not enough memory to decode it"}).encode() + b"\n"
    found = {"width": decoded.width, "height": decoded.height, "format": decoded.format}
    return json.dumps(found).encode() + b"\n" + picture.tobytes()


def _limit_memory(memory: int) -> None:
    """Limits the address space to `memory` bytes beside what Python and its libraries have taken already."""
    import resource

    with contextlib.suppress(OSError, ValueError):  # macOS has neither /proc nor this limit
        with open("/proc/self/statm") as pages:
            taken = int(pages.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + memory, taken + memory))


def _limit_time(seconds: float) -> None:
    """Ends this process by SIGXCPU after `seconds` more of CPU time."""
    import resource

    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used + seconds) + 1, most))


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
