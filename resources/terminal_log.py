"""Dagster's log as a person reads it in a terminal: the time, the asset and the message."""

import logging
import re
import sys

import click
import dagster as dg

from spark_jobs.wording import visible

# A message that begins with the name of its asset.
_NAMED = re.compile(r"\w+: ")

_COLOURS = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}


class _BriefFormatter(logging.Formatter):
    """Leaves out the date, the job and the id of the run, which Dagster's own format puts into every line."""

    def __init__(self, coloured: bool) -> None:
        super().__init__()
        self._coloured = coloured

    def format(self, record: logging.LogRecord) -> str:
        metadata = getattr(record, "dagster_meta", {})
        step = metadata.get("step_key")
        # A message may come from a node of a cluster. Its further lines must not look like lines of the log.
        message = visible(str(metadata.get("orig_message", record.getMessage()))).replace("\n", "\n    ")
        level = "" if record.levelno <= logging.INFO else record.levelname
        if level and self._coloured:
            level = click.style(level, fg=_COLOURS.get(record.levelno))
        prefix = "" if not step or _NAMED.match(message) else f"{step}: "
        return f"{self.formatTime(record, '%H:%M:%S')} {level}{' ' if level else ''}{prefix}{message}"


@dg.logger(
    {"log_level": dg.Field(str, default_value="INFO", description="The lowest level that is shown.")},
    description="The time, the asset and the message. Dagster's UI has every event.",
)
def terminal_log(context: dg.InitLoggerContext) -> logging.Logger:
    """A logger that writes to stderr, with coloured levels where stderr is a terminal."""
    logger = logging.Logger("fruits", context.logger_config["log_level"].upper())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_BriefFormatter(coloured=sys.stderr.isatty()))
    # Dagster's events are for its UI. The command itself reports failures at its end.
    handler.addFilter(lambda record: getattr(record, "dagster_meta", {}).get("dagster_event") is None)
    logger.addHandler(handler)
    return logger
