"""The tables of findings in the documentation."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from benchmarks.faults.findings import FaultRow, Finding

BEGIN, END = "<!-- begin of the tables of `make faults` -->", "<!-- end of the tables of `make faults` -->"

_SENTENCE = 300  # the length of a message in the table


def write_tables(page: Path, findings: Mapping[FaultRow, Sequence[Finding]], out: Path) -> None:
    """Replaces the tables of a page. `out` is the folder of the rounds, which no message in a table shows."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text("".join([before, BEGIN, "\n\n", *_tables(findings, out), "\n", END, after]))


def _tables(findings: Mapping[FaultRow, Sequence[Finding]], out: Path) -> Iterable[str]:
    yield _line(
        "fault",
        "must hold",
        "rounds",
        "the disturbed commands",
        "readers",
        "a run afterwards",
        "did not hold",
    )
    yield _line(*["---"] * 7)
    for row, found in findings.items():
        wrong = sum(bool(finding.faults) for finding in found)
        rounds = f"{len(found)}" if len(found) == row.rounds else f"{len(found)} of {row.rounds}"
        yield _line(row.fault, row.holds, rounds, _ends(found), _views(found), _reruns(found), f"{wrong}")
    yield "\n### Each disturbance\n\n"
    yield _line("disturbance", "rounds", "the disturbed commands", "figures", "a message that was shown")
    yield _line(*["---"] * 5)
    for found in findings.values():
        for fault, group in groupby(
            sorted(found, key=lambda finding: finding.fault), lambda finding: finding.fault
        ):
            alike = list(group)
            sentence = next((finding.sentence for finding in alike if finding.sentence), "")
            yield _line(fault, f"{len(alike)}", _ends(alike), _figures(alike), _shown(sentence, out))


def _line(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |\n"


def _ends(found: Sequence[Finding]) -> str:
    """How commands ended, with their numbers."""
    ends = Counter(
        "killed" if finding.status < 0 else "failed with a message" if finding.status else "succeeded"
        for finding in found
        if finding.status is not None
    )
    return ", ".join(f"{number} {end}" for end, number in ends.most_common())


def _views(found: Sequence[Finding]) -> str:
    looks, torn = sum(finding.looks for finding in found), sum(bool(finding.torn) for finding in found)
    return f"{torn} torn in {looks:,} views" if looks else ""


def _reruns(found: Sequence[Finding]) -> str:
    reruns = [finding.rerun for finding in found if finding.rerun is not None]
    return f"{sum(not differences for differences in reruns)} of {len(reruns)} right" if reruns else ""


def _figures(found: Sequence[Finding]) -> str:
    """The range of each figure."""
    names = dict.fromkeys(name for finding in found for name in finding.figures)
    ranges = []
    for name in names:
        values = [finding.figures[name] for finding in found if name in finding.figures]
        low, high = f"{min(values):,.4g}", f"{max(values):,.4g}"
        ranges.append(f"{name} {low}" if low == high else f"{name} {low} to {high}")
    return "; ".join(ranges)


def _shown(sentence: str, out: Path) -> str:
    """A message without the folders of the rounds, on one line."""
    text = re.sub(r"\s+", " ", sentence.replace(f"{out}/", "").replace(str(out), ""))
    text = re.sub(r"([*_`<>])", r"\\\1", text)
    return text if len(text) <= _SENTENCE else f"{text[:_SENTENCE]} ..."
