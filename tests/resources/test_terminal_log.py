"""The log in a terminal."""

import io
import logging
import re
import sys

import dagster as dg
import pytest

from resources.terminal_log import terminal_log


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def logged(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, first: str = "raw_images: half done") -> str:
    """The text that the log writes to a stream for one message and one warning of an asset, without times."""
    monkeypatch.setattr(sys, "stderr", stream)
    logger = terminal_log(dg.build_init_logger_context())
    assert isinstance(logger, logging.Logger)
    logger.debug("below the level")
    for write, message in ((logger.info, first), (logger.warning, "slow")):
        write(message, extra={"dagster_meta": {"step_key": "raw_images", "orig_message": message}})
    return re.sub(r"^\d\d:\d\d:\d\d ", "", stream.getvalue(), flags=re.MULTILINE)


def test_a_line_names_the_asset_once_and_the_level_above_info(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = logged(io.StringIO(), monkeypatch).splitlines()
    assert lines == ["raw_images: half done", "WARNING raw_images: slow"]


def test_levels_are_coloured_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = logged(Terminal(), monkeypatch).splitlines()
    assert lines == ["raw_images: half done", "\x1b[33mWARNING\x1b[0m raw_images: slow"]


def test_a_message_of_a_node_neither_steers_the_terminal_nor_looks_like_a_line_of_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    message = "\x1b]0;pwned\x07\u202eone\n12:00:00 raw_images: all is well\u2028"
    assert logged(io.StringIO(), monkeypatch, message).splitlines() == [
        r"raw_images: \x1b]0;pwned\x07\u202eone",
        r"    12:00:00 raw_images: all is well\u2028",
        "WARNING raw_images: slow",
    ]
