"""Which `.env` is read, and which of its lines: the folder may be a stranger's."""

import logging
import os
import stat
from pathlib import Path

import pytest

from resources.env_file import read_env_file
from resources.settings import AccountSettings, load_settings
from spark_jobs.errors import FruitsError

# A line for each way in which a variable makes a program run or loads code.
PROGRAMS = [
    "JAVA_HOME",
    "PATH",
    "LD_PRELOAD",
    "DYLD_INSERT_LIBRARIES",
    "PYTHONPATH",
    "PYSPARK_SUBMIT_ARGS",
    "SPARK_CONF_DIR",
    "SPARK_SUBMIT_OPTS",
    "JAVA_TOOL_OPTIONS",
    "HADOOP_CONF_DIR",
    "BASH_ENV",
    # Its credential_process is a program:
    # https://docs.aws.amazon.com/cli/latest/userguide/cli-configure-sourcing-external.html
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
]


def write(text: str, mode: int = 0o600) -> Path:
    path = Path(".env")
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o400])
def test_a_file_that_its_owner_alone_can_write_is_read(mode: int) -> None:
    write("FRUITS_STORE=/a\nAWS_PROFILE=fruits\nDAGSTER_HOME=/b\nhttps_proxy=http://proxy:1\n", mode)
    assert read_env_file() == {
        "FRUITS_STORE": "/a",
        "AWS_PROFILE": "fruits",
        "DAGSTER_HOME": "/b",
        "https_proxy": "http://proxy:1",
    }


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_variable_that_can_start_a_program_is_left_out_with_a_warning(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = os.environ.get(name)
    write(f"{name}=/strange\nFRUITS_REGION=eu-north-1\n")
    assert load_settings(AccountSettings).region == "eu-north-1"
    assert os.environ.get(name) == before
    [warning] = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert f".env: the lines of {name} are left out" in warning
    assert "Export them" in warning
    assert "/strange" not in warning.replace(str(Path.cwd()), "")


def test_a_variable_that_the_shell_exports_with_the_same_value_is_no_reason_for_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("JAVA_HOME", "/jdk")
    write("JAVA_HOME=${JAVA_HOME:-/other}\n")
    assert read_env_file() == {}
    assert not caplog.records


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o664, 0o666])
def test_a_file_that_other_users_can_write_is_refused_with_the_remedy(mode: int) -> None:
    path = write("FRUITS_STORE=/a\n", mode)
    with pytest.raises(
        FruitsError, match=rf"^{path.absolute()} can be written .*mode {mode:o}.*chmod go-w .env"
    ):
        load_settings(AccountSettings)


def test_a_file_of_another_user_is_refused_and_one_of_root_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("FRUITS_STORE=/a\n")
    status, owner = os.stat(path), os.stat(path).st_uid

    def owned_by(uid: int) -> None:
        changed = os.stat_result((status.st_mode, *status[1:4], uid, *status[5:]))
        monkeypatch.setattr("os.fstat", lambda _: changed)

    monkeypatch.setattr("os.geteuid", lambda: owner + 1000)
    owned_by(owner + 2000)
    with pytest.raises(FruitsError, match=rf"belongs to another user \(uid {owner + 2000}\).*chown"):
        read_env_file()
    owned_by(0)
    assert read_env_file() == {"FRUITS_STORE": "/a"}


def test_a_link_is_judged_by_the_file_that_it_names(tmp_path: Path) -> None:
    strange = tmp_path / "strange"
    strange.write_text("FRUITS_STORE=/a\n")
    strange.chmod(0o666)
    Path(".env").symlink_to(strange)
    assert stat.S_ISLNK(Path(".env").lstat().st_mode)
    with pytest.raises(FruitsError, match="can be written by other users"):
        read_env_file()


def test_a_file_that_is_no_text_is_refused_with_a_sentence() -> None:
    Path(".env").write_bytes(b"FRUITS_STORE=\xff\xfe\n")
    with pytest.raises(FruitsError, match=r"can't be read: .*Correct it or remove it"):
        read_env_file()


def test_without_the_file_there_are_no_settings() -> None:
    assert read_env_file() == {}
