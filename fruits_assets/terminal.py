"""How each command behaves in a terminal: sentences for errors, signals, wrapped text."""

import os
import shutil
import signal
import socket
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from spark_jobs.errors import FruitsError
from spark_jobs.wording import visible

INTERRUPTED = 128 + signal.SIGINT  # the exit status that shells give to a command that SIGINT ends


# Spark cancels its tasks in seconds. On EMR, a cancelled step may take three minutes to end. Its cluster is
# terminated after that.
GRACE_OF_JOBS = 240.0


class Command(click.Command):
    """A command that ends with a sentence: status 1 for a `FruitsError`, status 130 for Ctrl-C."""

    grace = 3.0  # seconds that the command has for its end after a signal
    after_interruption = ""  # what holds then, as a sentence

    def invoke(self, ctx: click.Context) -> object:
        try:
            with _ended_by_signals(self.grace):
                return super().invoke(ctx)
        except FruitsError as error:
            _fail(ctx, str(error), 1)
        except (KeyboardInterrupt, click.Abort) as error:
            # A prompt turns Ctrl-C into an Abort; the answer "no" is an Abort too.
            if isinstance(error, click.Abort) and not isinstance(error.__context__, KeyboardInterrupt):
                raise
            _fail(ctx, f"interrupted. {self.after_interruption}".rstrip(), INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except Exception as error:
            if fault := _fault_of_storage(error):
                _fail(ctx, str(fault), 1)
            raise


class Group(click.Group):
    """Commands whose errors about arguments show no characters that a terminal obeys."""

    command_class = Command
    group_class = type

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _arguments_visible():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> object:
        with _arguments_visible():
            return super().invoke(ctx)


def _fault_of_storage(error: Exception) -> FruitsError | None:
    """The fault of S3 or of a disk that has caused an error, or None."""
    # Here, because they import pyarrow and pydantic.
    from fruits_assets.disk_errors import fault_of_disk
    from resources.settings import Settings, load_settings
    from spark_jobs.store.s3_errors import explained

    if isinstance(error, OSError) and (fault := explained(str(error))):
        return fault
    try:
        return fault_of_disk(load_settings(Settings), error)
    except (FruitsError, OSError):  # the command needs no photos, and none are set
        return fault_of_disk(None, error)


@contextmanager
def _arguments_visible() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        text = error.format_message()
        if visible(text) == text:
            raise
        raise click.UsageError(visible(text), error.ctx) from None


@contextmanager
def _ended_by_signals(grace: float) -> Iterator[None]:
    """Raises `KeyboardInterrupt` for SIGINT and SIGTERM, and ends the process where that is too slow.

    SIGTERM ends a container or a service, and a shell lets a script's background jobs ignore SIGINT. Python
    calls a handler only between two of its own instructions: where pyarrow waits for S3, that takes minutes.
    `set_wakeup_fd` reports a signal at once, so a thread waits `grace` seconds after it and ends the process.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    previous = signal.set_wakeup_fd(writer.fileno())

    def end_after_signal() -> None:
        with reader:
            while received := reader.recv(1):  # the number of a signal; nothing once the writer is closed
                if received[0] in (signal.SIGINT, signal.SIGTERM):
                    time.sleep(grace)
                    os._exit(INTERRUPTED)

    threading.Thread(target=end_after_signal, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        writer.close()


def _fail(ctx: click.Context, message: str, status: int) -> NoReturn:
    """Prints a message on stderr after the name of the command, and ends the process."""
    echo(message, err=True, head=f"{click.style(ctx.command_path, fg='red')}: ")
    sys.exit(status)


def echo(text: str, indent: str = "", err: bool = False, head: str = "") -> None:
    """Prints text after a head, which may be coloured. Characters that are not printable are escaped.

    On a terminal it wraps between words, and lines after the first begin with `indent`.
    """
    text = head + visible(text)
    if (sys.stderr if err else sys.stdout).isatty():
        width = shutil.get_terminal_size().columns
        text = textwrap.fill(
            text,
            width,
            subsequent_indent=indent,
            replace_whitespace=False,
            break_long_words=False,
            break_on_hyphens=False,
        )
    click.echo(text, err=err)


def echo_table(lines: Sequence[tuple[str, str]]) -> None:
    """Prints (name, value) lines, with the names in a column; failures are red on a terminal."""
    names = [visible(name).replace("\n", " ") for name, _ in lines]
    width = max(map(len, names))
    indent = " " * (width + 2)
    for name, (_, value) in zip(names, lines, strict=True):
        label = click.style(f"{name:>{width}}", fg="red" if name == "failed" else None)
        echo(value.replace("\n", f"\n{indent}"), indent, head=f"{label}  ")


def set_dagster_home() -> None:
    """Sets DAGSTER_HOME to ./.dagster where the environment names none, and makes the folder."""
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(Path(".dagster").absolute())))
    home.mkdir(parents=True, exist_ok=True)
