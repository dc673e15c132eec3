"""Running what is measured in a process of its own, with its time and memory; the machine it ran on."""

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
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

Figures = dict[str, Any]

_REPOSITORY = Path(__file__).parents[1]
# What a user has set for their own runs, which would make the figures of another thing.
_SETTINGS = ("FRUITS_", "DAGSTER_", "SPARK_", "AWS_")


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(command: list[str], env: dict[str, str] | None = None, cores: int | None = None) -> Figures:
    """Runs a command to its end, in an empty folder. Its wall time, its peak memory by kind of process, and
    the JSON that it printed last, if any.

    It has `env`, and of this process's environment what sets neither the platform nor Spark nor AWS. With
    `cores`, it and what it starts have the first so many cores alone, where the system can do that.

    Raises `CalledProcessError`, with what it wrote to stderr. Where the calling thread is interrupted, it is
    killed.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
    peaks: dict[str, float] = defaultdict(float)

    def confine() -> None:
        if cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])

    # A JVM that is ending still writes to it.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        begun = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**own, "PYTHONPATH": str(_REPOSITORY), **(env or {})},
            preexec_fn=confine,
            start_new_session=True,
        )
        watcher = threading.Thread(target=_watch_memory, args=(process, peaks))
        watcher.start()
        try:
            out, err = process.communicate()
        except BaseException:
            # Spark's workers are in a group of their own, and end when its JVM does.
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
    name: str, *words: str | Path, cores: int, env: dict[str, str] | None = None, **options: Any
) -> Figures:
    """`run` for a module of `benchmarks`, on so many cores, with `options` as `--name value`."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *map(str, words), "--cores", str(cores)]
    command += [word for key, value in options.items() for word in (f"--{key}", str(value))]
    return run(command, env, cores)


def _watch_memory(process: "subprocess.Popen[str]", peaks: dict[str, float]) -> None:
    """Until the process ends: the peak resident memory of it, its JVM, and a Python worker, in MB."""
    while process.poll() is None:
        for pid in _descendants(process.pid):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            kind = "driver" if pid == process.pid else _kind(command)
            # Linux keeps the peak itself; a zombie has none.
            resident = next((line for line in status.splitlines() if line.startswith("VmHWM")), "VmHWM: 0 kB")
            peaks[kind] = max(peaks[kind], int(resident.split()[1]) / 1024)
        time.sleep(0.2)


def _kind(command: bytes) -> str:
    """What a process is, by its command line: Spark's JVM, one of its Python workers, or another."""
    if b"java" in command.split(b"\0")[0]:
        return "jvm"
    return "worker" if b"pyspark.daemon" in command else "other"


def _descendants(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        with suppress(OSError):  # a process or a thread that has ended since
            for task in os.listdir(f"/proc/{one}/task"):
                with suppress(OSError):
                    children = Path(f"/proc/{one}/task/{task}/children").read_text()
                    found += [int(child) for child in children.split()]
    return found


def machine() -> Figures:
    """What a figure depends on: processor, cores, memory, system, versions, and how busy it was."""
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
        # About 0 where nothing else was computing; else the figures are of a shared machine.
        "load_before": round(os.getloadavg()[0], 2),
    }


def _commit() -> str | None:
    """The commit that is measured, `-dirty` where something was changed; None without git."""
    try:
        return subprocess.check_output(
            ["git", "describe", "--always", "--dirty"], cwd=_REPOSITORY, text=True, stderr=subprocess.DEVNULL
        ).strip()
    except (OSError, subprocess.CalledProcessError):
        return None
