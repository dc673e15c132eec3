"""Names and numbers in messages."""

import pytest

from spark_jobs.wording import named, visible


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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        # Sets the title of a terminal, and clears it:
        # https://invisible-island.net/xterm/ctlseqs/ctlseqs.html
        ("\x1b]0;pwned\x07\x1b[2J", r"\x1b]0;pwned\x07\x1b[2J"),
        ("\x9b2J\x7f\b\r", r"\x9b2J\x7f\x08\r"),
        # Bidirectional and invisible characters: https://unicode.org/reports/tr36/
        ("\u202egpj.iwiK", r"\u202egpj.iwiK"),
        ("Ki\u200bwi\u2066\ufeff\xad\u2028fake", r"Ki\u200bwi\u2066\ufeff\xad\u2028fake"),
        ("\udcff\U000e0041", r"\udcff\U000e0041"),
        ("Ki\u200dwi \u200c", r"Ki\u200dwi \u200c"),
    ],
)
def test_characters_that_a_terminal_obeys_or_nobody_sees_are_escaped(text: str, shown: str) -> None:
    assert visible(text) == shown and shown.isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "Kiwi",
        "Crème brûlée",
        "\u0645\u06cc\u0648\u0647\u200c\u0647\u0627",
        "\U0001f468\u200d\U0001f373",
        "two\n\tlines",
        "西瓜",
    ],
)
def test_text_of_any_language_stays_as_it_is(text: str) -> None:
    assert visible(text) == text
