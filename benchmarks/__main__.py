"""Compares the platform with the notebook that it replaces, and with the limits of the machine.

    python -m benchmarks [--full] [--photos DIR] [--weights embedded] [--cores 2] [--out FOLDER]

Each measurement runs in a new process, on the same photos and cores. `make bench-full` measures all classes.
It repeats the comparison of stages three times, reverses the order of the variants after each round, and
keeps the medians of the ratios: a single run on a shared machine proves little. `make bench` measures two
classes once, and there start-up takes most of the time.

Prints one table. Writes the rows, the single runs and a description of the machine as JSON. Exits with
status 1 if a section fails.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.bench import FULL, QUICK, Bench, Row
from benchmarks.photo_sets import find_photos
from benchmarks.processes import available_cores, machine
from benchmarks.sections import SECTIONS
from spark_jobs.errors import FruitsError


def add_rows(rows: list[Row], section: Callable[[Bench], Iterator[Row]], bench: Bench) -> str | None:
    """Appends the rows of a section to `rows`. Returns a message if the section fails before its end."""
    try:
        rows.extend(section(bench))
    except subprocess.CalledProcessError as error:
        print(error.stderr, file=sys.stderr, flush=True)
        return f"{section.__name__}: {' '.join(map(str, error.cmd[1:4]))} failed; its error is above"
    except FruitsError as error:
        return f"{section.__name__}: {error}"
    except Exception:  # an error in one section must not lose half an hour of other sections
        traceback.print_exc()
        return f"{section.__name__}: an error in the benchmark itself; its traceback is above"
    return None


def table(rows: list[Row], with_targets: bool) -> str:
    """The rows as a Markdown table. Consecutive rows of one measurement show its figure once."""
    head = ["measurement", "images", "figure", "ratio", "relative to", *(["target"] if with_targets else [])]
    lines = [head, ["---", "---:", "---:", "---:", "---", "---"][: len(head)]]
    before = ""
    for row in rows:
        figure = f"{row.figure:,.{1 if row.figure < 100 else 0}f} {row.unit}"
        repeated = row.measurement == before
        cells = ["", "", ""] if repeated else [row.measurement, f"{row.images:,}", figure]
        cells += [f"{row.ratio:.2f}", row.reference, row.target]
        lines.append(cells[: len(head)])
        before = row.measurement
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def command_line() -> ArgumentParser:
    """The parser of the command's options."""
    parser = ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--full", action="store_true", help="measure all classes, and every size")
    parser.add_argument(
        "--photos",
        type=Path,
        help="the root of the photos; by default Fruits-360, else the sample photos. --full holds all of "
        "them in memory, and four copies on disk",
    )
    parser.add_argument("--weights", default="embedded", help="a value of FRUITS_WEIGHTS")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(".bench"), help="the folder of the JSON file")
    return parser


def prepare(parser: ArgumentParser, arguments: Namespace, folder: Path) -> tuple[Bench, str]:
    """The benchmark with its photos and its extractor in `folder`, and a description of the photos.

    Ends the process with a usage error if the photos or the weights can't be read.
    """
    # The measured processes have working directories of their own, so a relative path must not reach them.
    weights, *pin = arguments.weights.partition("#")
    if Path(weights).is_file():
        weights = str(Path(weights).absolute())
    try:
        photos, description = find_photos(arguments.photos, folder / "found")
        bench = Bench(
            photos=photos,
            weights="".join([weights, *pin]),
            cores=arguments.cores,
            size=FULL if arguments.full else QUICK,
            folder=folder,
        )
        bench.convert()
    except FruitsError as error:
        parser.error(f"--photos, which sets FRUITS_IMAGES: {error}")
    except subprocess.CalledProcessError as error:
        parser.error(f"--weights {arguments.weights}: {error.stderr.strip()}")
    return bench, description


def main() -> None:
    parser = command_line()
    arguments = parser.parse_args()
    cores = available_cores()
    if not 1 <= arguments.cores <= cores:
        parser.error(f"--cores {arguments.cores}: this machine has {cores} cores. Choose 1 to {cores}.")
    # SIGTERM raises KeyboardInterrupt, which removes the folder and kills the child processes.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = time.monotonic()
    described = machine()
    rows: list[Row] = []
    failed: list[str] = []
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / ("full.json" if arguments.full else "bench.json")
    # Below --out, since /tmp may be in memory; and photos are hard links, which need the same disk.
    with tempfile.TemporaryDirectory(
        prefix="run-", dir=arguments.out.absolute(), ignore_cleanup_errors=True
    ) as name:
        bench, description = prepare(parser, arguments, Path(name))
        for section in SECTIONS:
            failure = add_rows(rows, section, bench)
            failed += [failure] if failure else []
            caption = (
                f"{description} ({bench.images:,} photos), {arguments.cores} cores of "
                f"{described['processor']}, {described['memory_gib']} GiB, load before the benchmark "
                f"{described['load_before']}; rounds: {bench.size.rounds}; "
                f"{datetime.now(UTC):%Y-%m-%d}, commit {described['commit']}; "
                f"{time.monotonic() - started:,.0f} s"
            )
            content = {
                "caption": caption,
                "machine": described,
                "rows": [asdict(row) for row in rows],
                "runs": bench.runs,
                "failed": failed,
            }
            # After each section: an interruption must not lose half an hour of measurements.
            file.write_text(json.dumps(content, indent=1))
    print(f"{caption}\n\n{table(rows, arguments.full)}\n\nThe single runs are in {os.path.relpath(file)}")
    if failed:
        sys.exit("Not measured: " + "; ".join(failed))


if __name__ == "__main__":
    main()
