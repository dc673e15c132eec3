"""Runs a measurement in a new process, with its time and its memory; describes the machine."""

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

Figures = dict[str, Any]

_REPOSITORY = Path(__file__).parents[1]
# A measured process does not inherit the user's settings, which would change its figures.
_SETTINGS = ("FRUITS_", "DAGSTER_", "SPARK_", "AWS_")


def available_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """The environment of a measured process: `given`, and this process's variables but for `_SETTINGS`."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
    return {**own, "PYTHONPATH": str(_REPOSITORY), **given}


def run(command: list[str], env: dict[str, str] | None = None, cores: int | None = None) -> Figures:
    """Runs a command to its end, in an empty folder, and returns its figures.

    The figures are the JSON object of its last line of output, if any; `wall` in seconds; and `peak_mb`, the
    peak memory in MB by kind of process.

    The command gets `environment(env)`. With `cores`, the command and its child processes may use only the
    first `cores` cores, on systems that support it.

    Raises `CalledProcessError`, with the command's stderr, for another exit status than 0. Kills the command
    if the calling thread is interrupted.
    """
    peaks: dict[str, float] = defaultdict(float)

    def confine() -> None:
        if cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])

    # Cleaning up may fail: a JVM that is ending still writes to the folder.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        begun = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=environment(env or {}),
            preexec_fn=confine,
            start_new_session=True,
        )
        watcher = threading.Thread(target=_watch_memory, args=(process, peaks))
        watcher.start()
        try:
            out, err = process.communicate()
        except BaseException:
            # Spark's workers have a process group of their own; they end with the JVM.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        finally:
            watcher.join()
        wall = time.perf_counter() - begun
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, out, err)
    lines = out.strip().splitlines()
    figures = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    return {**figures, "wall": wall, "peak_mb": dict(peaks)}


def run_module(
    name: str, *arguments: str | Path, cores: int, env: dict[str, str] | None = None, **options: Any
) -> Figures:
    """Runs a module of `benchmarks` as `run` does, with `options` as `--name value`."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *map(str, arguments), "--cores", str(cores)]
    command += [word for key, value in options.items() for word in (f"--{key}", str(value))]
    return run(command, env, cores)


def _watch_memory(process: "subprocess.Popen[str]", peaks: dict[str, float]) -> None:
    """Writes the peak resident memory in MB by kind of process to `peaks`, until the process ends."""
    while process.poll() is None:
        for pid in _descendants(process.pid):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            kind = "driver" if pid == process.pid else _kind(command)
            # VmHWM is the peak that Linux keeps for each process. The status of a zombie lacks it.
            resident = next((line for line in status.splitlines() if line.startswith("VmHWM")), "VmHWM: 0 kB")
            peaks[kind] = max(peaks[kind], int(resident.split()[1]) / 1024)
        time.sleep(0.2)


def _kind(command: bytes) -> str:
    """The kind of a process by its command line: `jvm`, `worker` (a Python worker of Spark) or `other`."""
    if b"java" in command.split(b"\0")[0]:
        return "jvm"
    return "worker" if b"pyspark.daemon" in command else "other"


def _descendants(pid: int) -> list[int]:
    """The ids of a process and of all its descendants."""
    found = [pid]
    for parent in found:  # the list grows in the loop
        with suppress(OSError):  # the process or the thread has ended
            for task in os.listdir(f"/proc/{parent}/task"):
                with suppress(OSError):
                    children = Path(f"/proc/{parent}/task/{task}/children").read_text()
                    found += [int(child) for child in children.split()]
    return found


def machine() -> Figures:
    """Describes this machine: processor, cores, memory, system, versions, commit, and load average."""
    info = Path("/proc/cpuinfo")
    models = [
        line.partition(":")[2].strip()
        for line in (info.read_text().splitlines() if info.exists() else [])
        if line.startswith("model name")
    ]
    packages = ("dagster", "pyspark", "pyarrow", "numpy", "openvino", "keras")
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": available_cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "commit": _commit(),
        # About 0 on an idle machine. A higher load makes the figures unreliable.
        "load_before": round(os.getloadavg()[0], 2),
    }


def _commit() -> str | None:
    """The current commit, with `-dirty` for uncommitted changes; None without git."""
    try:
        return subprocess.check_output(
            ["git", "describe", "--always", "--dirty"], cwd=_REPOSITORY, text=True, stderr=subprocess.DEVNULL
        ).strip()
    except (OSError, subprocess.CalledProcessError):
        return None
