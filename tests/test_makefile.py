"""`make` in folders of any name: nothing in the name is executed, and `.env` names the folder."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from dotenv import dotenv_values

from tests.support import REPOSITORY

NAMES = [
    "it's; touch PWNED; echo '",
    "$(touch PWNED) and `touch PWNED`",
    "$(shell touch PWNED)",
    "$HOME $$",
    "x & y | z",
    'a "quoted" name #1',
    "back\\slash",
    "percent % = +~*?[x]",
    "-n",
    "été",
]


def checkout(parent: Path, name: str) -> Path:
    """A folder with the files that `make .env` and `make demo` read, as if `make setup-run` had been run.

    Its program `fruits` writes the DAGSTER_HOME that each of its commands gets to a file.
    """
    folder = parent / name
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for file in ("Makefile", ".env.example"):
        shutil.copy(REPOSITORY / file, folder)
    (folder / ".dagster").mkdir()
    (folder / ".dagster" / "dagster.yaml").touch()
    for file in ("requirements.lock", "requirements-build.lock", "pyproject.toml", ".venv/run"):
        (folder / file).touch()
    (programs / "fruits").write_text('#!/bin/sh\nprintf %s "$DAGSTER_HOME" > "$1.home"\n')
    (programs / "fruits").chmod(0o755)
    return folder


def make(folder: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    own = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=own | variables, umask=0o022, capture_output=True, text=True
    )


@pytest.mark.parametrize("name", NAMES)
def test_make_names_its_folder_in_env_and_executes_nothing_of_the_name(tmp_path: Path, name: str) -> None:
    folder = checkout(tmp_path, name)
    made = make(folder, ".env")
    assert made.returncode == 0, made.stderr
    assert dotenv_values(folder / ".env")["DAGSTER_HOME"] == f"{folder}/.dagster"
    assert make(folder, "demo", "ui").returncode == 0
    assert (folder / "run.home").read_text() == f"{folder}/.demo/dagster"
    assert (folder / "ui.home").read_text() == f"{folder}/.demo/dagster"
    assert not list(tmp_path.rglob("PWNED"))


def test_env_and_the_dagster_home_are_for_their_owner_alone(tmp_path: Path) -> None:
    folder = checkout(tmp_path, "fruits")
    make(folder, "demo")
    make(folder, ".env")
    modes = {name: stat.S_IMODE((folder / name).stat().st_mode) for name in (".env", ".dagster", ".demo")}
    assert modes == {".env": 0o600, ".dagster": 0o700, ".demo": 0o700}


@pytest.mark.parametrize("name", ["a:b", "a}b"])
def test_make_refuses_a_folder_whose_name_env_cannot_hold(tmp_path: Path, name: str) -> None:
    folder = checkout(tmp_path, name)
    made = make(folder, ".env")
    assert made.returncode == 2
    assert f"The folder {folder} has a : or a }} in its name. Move it" in made.stderr
    assert not (folder / ".env").exists()


def test_a_failed_recipe_leaves_no_env_and_the_next_call_makes_it(tmp_path: Path) -> None:
    folder = checkout(tmp_path, "fruits")
    (folder / ".env.example").rename(folder / "away")
    assert make(folder, ".env").returncode == 2
    assert not (folder / ".env").exists()
    (folder / "away").rename(folder / ".env.example")
    assert make(folder, ".env").returncode == 0
    assert (folder / ".env").stat().st_size > 1000


@pytest.mark.parametrize("variable", ["FRUITS_IMAGES", "FRUITS_STORE", "PATH"])
def test_make_executes_nothing_in_a_variable(tmp_path: Path, variable: str) -> None:
    folder = checkout(tmp_path, "fruits")
    value = f"{os.environ['PATH']}:/$(shell touch PWNED)"
    assert make(folder, "ui", **{variable: value}).returncode == 0
    assert not (folder / "PWNED").exists()
