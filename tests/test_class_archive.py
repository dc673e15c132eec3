"""The archive of the classes that Spark's JVM loads."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from resources.class_archive import archive_options, make_archive


def runs(*java_options: str) -> bool:
    """Whether a session runs a job with these options."""
    program = [sys.executable, "-m", "resources.class_archive", *java_options]
    return subprocess.run(program, capture_output=True).returncode == 0


def test_sparks_jvm_uses_the_archive_and_starts_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = tmp_path / "an environment"
    environment.mkdir()
    monkeypatch.setattr(sys, "prefix", str(environment))
    assert archive_options() == ""
    archive = make_archive()
    used, *quietly = shlex.split(archive_options())
    assert used == f"-XX:SharedArchiveFile={archive}"
    # With -Xshare:on, a JVM that can't use it does not start.
    assert runs(used, "-Xshare:on")
    archive.chmod(0o644)
    archive.write_bytes(b"no archive")
    assert not runs(used, "-Xshare:on")
    assert runs(used, *quietly)
