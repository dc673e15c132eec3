"""Disturbs the platform, and shows the losses: kills, two writers, power cuts, flipped bits.

    python -m benchmarks.faults [ROW ...] [--out .faults]

Each round is a line of JSON in `<out>/<row>.jsonl`. A call that was cut goes on after its last finished
round.
"""

import json
from argparse import ArgumentParser
from pathlib import Path

from benchmarks.faults.rows import ROWS
from benchmarks.faults.workplace import Workplace


def main() -> None:
    parser = ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"by default all: {', '.join(ROWS)}")
    parser.add_argument("--out", type=Path, default=Path(".faults"), help="the folder of results and stores")
    arguments = parser.parse_args()
    if unknown := set(arguments.rows) - ROWS.keys():
        parser.error(f"There is no row {', '.join(unknown)}. The rows are {', '.join(ROWS)}.")
    out = arguments.out.absolute()
    for name in arguments.rows or ROWS:
        row = ROWS[name]
        place = Workplace(out / name)
        file = out / f"{name}.jsonl"
        done = len(file.read_text().splitlines()) if file.exists() else 0
        for number in range(done, row.rounds):
            finding = {"round": number, **row.round(place, number)}
            with file.open("a") as lines:
                lines.write(json.dumps(finding) + "\n")
            print(name, json.dumps(finding), flush=True)


if __name__ == "__main__":
    main()
