"""The log that a person reads in a terminal: the time, and what an asset says."""

import logging
import sys

import dagster as dg


class _Brief(logging.Formatter):
    """Dagster's own format has the date, the job and the run's id in front of every line."""

    def format(self, record: logging.LogRecord) -> str:
        about = getattr(record, "dagster_meta", {})
        step, message = about.get("step_key"), about.get("orig_message", record.getMessage())
        level = "" if record.levelno <= logging.INFO else f"{record.levelname} "
        says = "" if not step or message.startswith(f"{step}:") else f"{step}: "
        return f"{self.formatTime(record, '%H:%M:%S')} {level}{says}{message}"


@dg.logger(
    {"log_level": dg.Field(str, default_value="INFO", description="The least level that is shown.")},
    description="The time, and what an asset says. Dagster's UI has every event.",
)
def terminal_log(context: dg.InitLoggerContext) -> logging.Logger:
    logger = logging.Logger("fruits", context.logger_config["log_level"].upper())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Brief())
    # Dagster's events are for its UI; the command says at its end what has failed.
    handler.addFilter(lambda record: getattr(record, "dagster_meta", {}).get("dagster_event") is None)
    logger.addHandler(handler)
    return logger
