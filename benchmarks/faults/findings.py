"""A finding: what a round disturbed, what followed, and what did not hold. A row consists of rounds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.faults.workplace import Workplace


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The finding of one round.

    `fault` names the disturbance, in equal words for equal disturbances, because the table counts them.
    `status` and `sentence` are the exit status and the last message of the disturbed command, if it ended by
    itself. `looks` counts how often a reader read the whole store, and `torn` has the faults that it saw.
    `rerun` has the differences between the store after another run and that of an undisturbed run; it is None
    where no run followed. `wrong` has everything else that did not hold. `figures` are measurements by name,
    with their unit in the name.
    """

    fault: str
    status: int | None = None
    sentence: str = ""
    looks: int = 1
    torn: Sequence[str] = ()
    rerun: Sequence[str] | None = None
    wrong: Sequence[str] = ()
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def faults(self) -> list[str]:
        """Everything that did not hold: the round is good if there is nothing."""
        return [*self.torn, *(self.rerun or ()), *self.wrong]


class FaultRow(NamedTuple):
    """A row of the table: its text, the number of rounds, and the function that runs a round by its number.

    A round prepares what it needs in its workplace, where later rounds find it. Equal numbers give equal
    disturbances.
    """

    fault: str
    holds: str
    rounds: int
    round: Callable[[Workplace, int], Finding]
