"""Names and numbers in messages."""

import pytest

from spark_jobs.wording import named


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["Kiwi"], "Kiwi"),
        (["Kiwi", "Lemon"], "Kiwi, Lemon"),
        (["Kiwi", "Lemon", "Fig", "Plum"], "Kiwi, Lemon, and 2 more"),
    ],
)
def test_the_first_names_come_with_the_number_of_those_left_out(names: list[str], text: str) -> None:
    assert named(names, 2) == text
