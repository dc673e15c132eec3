"""Disturbs the platform, and tells what did not hold: kills, full disks, errors of S3, power cuts, bad files.

    python -m benchmarks.faults [ROW ...] [--out .faults] [--page docs/reliability.md]

Each round is a line of JSON in `<out>/<row>.jsonl`. A call that was cut goes on after its last finished
round. The exit status is 1 if something did not hold in a round.
"""

import json
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from dataclasses import asdict
from pathlib import Path

from benchmarks.faults.findings import Finding
from benchmarks.faults.rows import ROWS
from benchmarks.faults.table import write_tables
from benchmarks.faults.workplace import Workplace


def main() -> None:
    parser = ArgumentParser(
        prog="python -m benchmarks.faults",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"by default all: {', '.join(ROWS)}")
    parser.add_argument("--out", type=Path, default=Path(".faults"), help="the folder of results and stores")
    parser.add_argument("--page", type=Path, help="a page of the documentation that gets the tables")
    arguments = parser.parse_args()
    if unknown := set(arguments.rows) - ROWS.keys():
        parser.error(f"There is no row {', '.join(unknown)}. The rows are {', '.join(ROWS)}.")
    out: Path = arguments.out.absolute()
    for name in arguments.rows or ROWS:
        place, row = Workplace(out / name), ROWS[name]
        for number in range(len(_finished(out, name)), row.rounds):
            finding = row.round(place, number)
            with (out / f"{name}.jsonl").open("a") as lines:
                lines.write(json.dumps(asdict(finding)) + "\n")
            said = "held" if not finding.faults else f"DID NOT HOLD: {'; '.join(finding.faults)}"
            print(f"{name} {number + 1}/{row.rounds}: {finding.fault}: {said}", flush=True)
    findings = {name: found for name in ROWS if (found := _finished(out, name))}
    if arguments.page:
        write_tables(arguments.page, {ROWS[name]: found for name, found in findings.items()}, out)
    wrong = sum(bool(finding.faults) for found in findings.values() for finding in found)
    rounds = sum(map(len, findings.values()))
    print(f"{rounds} rounds, of which {wrong} found something that did not hold: see {out}")
    sys.exit(1 if wrong else 0)


def _finished(out: Path, name: str) -> list[Finding]:
    """The findings of the finished rounds of a row."""
    file = out / f"{name}.jsonl"
    return [Finding(**json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


if __name__ == "__main__":
    main()
