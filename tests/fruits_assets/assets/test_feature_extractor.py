"""The current extractor is used again as long as it is whole."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from fruits_assets.assets.feature_extractor import feature_extractor, whole_extractor
from resources.settings import Settings
from spark_jobs.inference import MODEL_BIN, MODEL_XML
from spark_jobs.store.pointers import current_one
from spark_jobs.store.root import Root
from spark_jobs.store.schemas import FEATURE_EXTRACTOR
from tests.fruits_assets.dagster_platform import Platform

POINTER = f"{FEATURE_EXTRACTOR}/current.json"


def directory(store: Root) -> str:
    version = current_one(store, FEATURE_EXTRACTOR)
    assert version
    return version.directory


def flip_a_bit_of_the_weights(store: Root) -> None:
    path = f"{directory(store)}/{MODEL_BIN}"
    content = bytearray(store.read(path))
    content[len(content) // 2] ^= 1
    store.write(path, bytes(content))


def lose_the_topology(store: Root) -> None:
    store.remove_files([f"{directory(store)}/{MODEL_XML}"])


def cut_the_pointer(store: Root) -> None:
    store.write(POINTER, store.read(POINTER)[:-10])


def lose_a_detail(store: Root) -> None:
    pointer = json.loads(store.read(POINTER))
    del pointer["details"]["trained"]
    store.write(POINTER, json.dumps(pointer).encode())


DAMAGES = [flip_a_bit_of_the_weights, lose_the_topology, cut_the_pointer, lose_a_detail]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_extractor_is_not_used_again(untouched: Platform, damage: Callable[[Root], None]) -> None:
    assert whole_extractor(untouched.store)
    damage(untouched.store)
    assert whole_extractor(untouched.store) is None


def test_a_run_converts_a_damaged_extractor_again_and_leaves_no_temporary_files(
    untouched: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)  # Python reads TMPDIR once
    flip_a_bit_of_the_weights(untouched.store)
    assert untouched.run(["feature_extractor"]).success
    assert whole_extractor(untouched.store)
    [scratch] = temporary.iterdir()  # of this process, which goes on
    assert [path.name for path in scratch.iterdir()] == [".lock"]


def test_a_disk_that_becomes_full_in_the_conversion_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for setting in ("DAGSTER_HOME", "SPARK_LOCAL_DIRS"):
        monkeypatch.setenv(setting, str(tmp_path / setting))
    monkeypatch.setattr("fruits_assets.disk_errors.disk", lambda path: (0, 0))
    failing = tmp_path / "python"
    failing.write_text("#!/bin/sh\necho 'OSError: [Errno 28] No space left on device' >&2\nexit 1\n")
    failing.chmod(0o700)
    monkeypatch.setattr("sys.executable", str(failing))
    context = dg.build_asset_context(run_tags={})
    settings = Settings(images="/photos", store=str(tmp_path / "store"), weights="random")
    with pytest.raises(dg.Failure) as raised:
        feature_extractor(context, settings=settings)
    assert str(raised.value.description).startswith(f"DAGSTER_HOME={tmp_path / 'DAGSTER_HOME'} is full: ")
