"""How the platform compares with the notebook it replaces, and with the limit of the machine.

    python -m benchmarks.ratios --photos DIR --weights FILE [--cores 2] [--repeat 1] [--memory]

Runs, in turn, each in fresh processes on the same photos and cores: the notebook way, the platform's
jobs, a bare loop of the same work, and `fruits run` as a user types it, from a cold start. Prints the
ratios of their times; single times say little on a shared machine. --memory adds a run on four times
the photos and compares the peaks of resident memory.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser
from collections import defaultdict
from pathlib import Path
from typing import Any

Figures = dict[str, Any]


def run(command: list[str], env: dict[str, str] | None = None) -> Figures:
    """Runs a command to its end. Its wall time, its peak memory by kind of process, and the JSON
    that it printed last, if any. Raises `CalledProcessError`."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    peaks: dict[str, float] = defaultdict(float)
    watcher = threading.Thread(target=_watch_memory, args=(process, peaks))
    watcher.start()
    out, err = process.communicate()
    watcher.join()
    if process.returncode:
        print(err[-3000:], file=sys.stderr)
        raise subprocess.CalledProcessError(process.returncode, command)
    lines = out.strip().splitlines()
    figures = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    return {**figures, "wall": time.perf_counter() - begun, "peak_mb": dict(peaks)}


def _watch_memory(process: "subprocess.Popen[str]", peaks: dict[str, float]) -> None:
    """Until the process ends: the largest resident memory of it, its JVM, and a Python worker, in MB."""
    while process.poll() is None:
        for pid in _descendants(process.pid):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            kind = "driver" if pid == process.pid else _kind(command)
            resident = next((line for line in status.splitlines() if line.startswith("VmRSS")), "VmRSS: 0 kB")
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
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                found += [int(child) for child in task.read_text().split()]
            except OSError:
                continue
    return found


def multiplied(photos: Path, times: int, folder: Path) -> Path:
    """The same photos `times` times under other names, as hard links or copies."""
    for file in sorted(photos.rglob("*")):
        if not file.is_file():
            continue
        target = folder / file.parent.name
        target.mkdir(parents=True, exist_ok=True)
        for number in range(times):
            copy = target / f"{number}-{file.name}"
            try:
                os.link(file, copy)
            except OSError:
                shutil.copyfile(file, copy)
    return folder


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--weights", required=True, type=Path, help="an .h5 file that Keras reads")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--memory", action="store_true")
    arguments = parser.parse_args()
    times: dict[str, list[Figures]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="fruits-benchmark-") as name:
        folder = Path(name)
        ir = folder / "ir"
        convert = [sys.executable, "-m", "fruits_assets.backbone.convert", "--out", str(ir)]
        subprocess.run([*convert, "--weights", str(arguments.weights)], check=True, capture_output=True)
        ways = {
            "notebook": _module("notebook_way", arguments, folder, weights=arguments.weights),
            "ours": _module("our_way", arguments, folder, ir=ir),
            "bare": _module("bare_loop", arguments, folder, out=False, ir=ir),
        }
        for number in range(arguments.repeat):
            for way in sorted(ways, reverse=bool(number % 2)):
                times[way].append(run(ways[way]))
                print(f"{way}: {times[way][-1]}", file=sys.stderr)
            times["fruits run"].append(_fruits_run(arguments.photos, arguments, folder / f"cold{number}"))
            print(f"fruits run: {times['fruits run'][-1]}", file=sys.stderr)
        if arguments.memory:
            more = multiplied(arguments.photos, 4, folder / "photos4")
            times["fruits run, 4 x the photos"].append(_fruits_run(more, arguments, folder / "times4"))
    print(json.dumps(times))
    print(report(times))


def _module(module: str, arguments: Any, folder: Path, out: bool = True, **options: Path) -> list[str]:
    command = [sys.executable, "-m", f"benchmarks.{module}", "--photos", str(arguments.photos)]
    command += ["--cores", str(arguments.cores)]
    if out:
        options["out"] = folder / module
    return command + [word for name, value in options.items() for word in (f"--{name}", str(value))]


def _fruits_run(photos: Path, arguments: Any, home: Path) -> Figures:
    (home / "dagster").mkdir(parents=True)
    env = {
        **os.environ,
        "FRUITS_IMAGES": str(photos),
        "FRUITS_STORE": str(home / "store"),
        "FRUITS_WEIGHTS": str(arguments.weights),
        "FRUITS_SPARK_CORES": str(arguments.cores),
        "DAGSTER_HOME": str(home / "dagster"),
    }
    figures = run([str(Path(sys.executable).with_name("fruits")), "run"], env)
    shutil.rmtree(home / "store")
    return figures


def report(times: dict[str, list[Figures]]) -> str:
    """The ratios as a table, medians over the repetitions."""

    def ratio(ours: str, theirs: str, our_stage: str, their_stage: str) -> float:
        pairs = zip(times[ours], times[theirs], strict=True)
        return statistics.median(their[their_stage] / our[our_stage] for our, their in pairs)

    lines = [
        (
            "feature extraction, times as fast as the notebook",
            ratio("ours", "notebook", "features", "features"),
        ),
        ("feature extraction, share of the bare loop's speed", ratio("ours", "bare", "features", "features")),
        ("PCA fit, times as fast as pyspark.ml", ratio("ours", "notebook", "pca_fit", "pca_fit")),
        ("fruits run from a cold start, times as fast", ratio("fruits run", "notebook", "wall", "wall")),
    ]
    table = "\n".join(f"{value:6.2f}  {name}" for name, value in lines)
    if "fruits run, 4 x the photos" in times:
        one, four = times["fruits run"][0]["peak_mb"], times["fruits run, 4 x the photos"][0]["peak_mb"]
        for kind in sorted(one):
            growth = four[kind] / one[kind]
            table += f"\n{growth:6.2f}  peak memory of the {kind} on 4 x the photos ({four[kind]:,.0f} MB)"
    return table


if __name__ == "__main__":
    main()
