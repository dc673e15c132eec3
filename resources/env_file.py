"""The file `.env` of the working directory, from which commands take settings."""

import logging
import os
import stat
from pathlib import Path

from dotenv import dotenv_values

from spark_jobs.errors import FruitsError

# The variables that `.env` may set. The folder may have come from somebody else, as an archive or a clone.
# Other variables start programs or load code: JAVA_HOME, PATH, LD_PRELOAD, PYTHONPATH, SPARK_CONF_DIR, ...
_PREFIXES = ("FRUITS_", "AWS_", "DAGSTER_")
_NAMES = {"KERAS_HOME", "XDG_CACHE_HOME", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}
# Files that can name a program, `credential_process`:
# https://docs.aws.amazon.com/cli/latest/userguide/cli-configure-sourcing-external.html
_PROGRAMS = {"AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"}


def read_env_file(path: Path = Path(".env")) -> dict[str, str]:
    """The settings in a file: `FRUITS_*`, `AWS_*`, `DAGSTER_*` and a few others; none without the file.

    A warning names the lines that are left out and have a value that the environment has not.

    Raises `FruitsError` where another user owns the file or can write to it, or where it cannot be read.
    """
    try:
        with path.open(encoding="utf-8") as file:
            _check_owner(path, os.fstat(file.fileno()))
            lines = {name: value for name, value in dotenv_values(stream=file).items() if value}
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise FruitsError(f"{path.absolute()} can't be read: {error}. Correct it or remove it.") from None
    settings = {name: value for name, value in lines.items() if _is_setting(name)}
    left_out = [name for name in lines.keys() - settings.keys() if os.environ.get(name) != lines[name]]
    if left_out:
        names = ", ".join(sorted(left_out))
        logging.getLogger("fruits").warning(
            f"{path.absolute()}: the lines of {names} are left out, because they are no settings of this "
            "platform. Export them in your shell instead."
        )
    return settings


def _is_setting(name: str) -> bool:
    return (name.startswith(_PREFIXES) or name.upper() in _NAMES) and name not in _PROGRAMS


def _check_owner(path: Path, found: os.stat_result) -> None:
    if found.st_uid not in (os.geteuid(), 0):
        raise FruitsError(
            f"{path.absolute()} belongs to another user (uid {found.st_uid}), whose settings are not read. "
            "Start the command in a folder of your own, or take the file over: sudo chown $USER .env"
        )
    if stat.S_ISREG(found.st_mode) and found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise FruitsError(
            f"{path.absolute()} can be written by other users (mode {stat.S_IMODE(found.st_mode):o}), so "
            "it is not read. Look at its lines, then: chmod go-w .env"
        )
