"""What commands print holds nothing that a terminal obeys, whoever chose the text."""

import re
import sys

import click
import pytest
from click.testing import CliRunner

from fruits_assets.cli import main
from fruits_assets.terminal import Command, echo, echo_table
from spark_jobs.errors import FruitsError

EVIL = "\x1b[2J\u202eKiwi\u200b"
SHOWN = r"\x1b[2J\u202eKiwi\u200b"


def test_lines_and_tables_escape_what_is_not_printable(capsys: pytest.CaptureFixture[str]) -> None:
    echo(f"{EVIL}: done")
    echo_table([(EVIL, "2 images"), ("failed", f"{EVIL}: broken\nfailed  Lemon: too")])
    width = len(SHOWN)
    assert capsys.readouterr().out.splitlines() == [
        f"{SHOWN}: done",
        f"{SHOWN}  2 images",
        f"{'failed':>{width}}  {SHOWN}: broken",
        # A further line cannot pass for a line of the table.
        f"{'':>{width}}  failed  Lemon: too",
    ]


def test_colours_of_the_commands_stay_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "400")
    echo_table([("failed", EVIL)])
    assert capsys.readouterr().out == f"\x1b[31mfailed\x1b[0m  {SHOWN}\n"


def test_the_error_of_a_command_is_escaped() -> None:
    @click.command(cls=Command)
    def fail() -> None:
        raise FruitsError(f"{EVIL} failed")

    result = CliRunner().invoke(fail)
    assert result.exit_code == 1
    assert f"{SHOWN} failed" in result.output and "\x1b" not in result.output


@pytest.mark.parametrize(
    "arguments", [[EVIL], [f"--{EVIL}"], ["run", f"--{EVIL}"], ["run", "--components", EVIL], ["emr", EVIL]]
)
def test_errors_about_arguments_are_escaped(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert re.findall(r"[^\n -~]", result.output) == []
    assert "Kiwi" in result.output


def test_other_errors_about_arguments_keep_their_hints() -> None:
    assert "Did you mean '--class'?" in CliRunner().invoke(main, ["run", "--clas", "x"]).output
