"""What a power failure leaves on a disk: files that were not synced may be cut, empty, or zeros."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from deltalake import DeltaTable

from spark_jobs.store.pointers import publish
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import PCA_FEATURES_CSV
from spark_jobs.store.tables import CHECKPOINT_INTERVAL, log_entry, open_table
from spark_jobs.store.versions import Version, class_key
from tests.spark_jobs.store.written import TABLE, commit_class, rows_of, write_part


@pytest.fixture
def root(store: str) -> Root:
    return open_root(store)


def last_entry(root: Root) -> Path:
    opened = open_table(root, TABLE)
    assert opened is not None
    return Path(root.uri) / log_entry(TABLE, opened.version())


def without_last_line(entry: bytes) -> bytes:
    return b"\n".join(entry.splitlines()[:-1])


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda entry: b"", id="empty"),
        pytest.param(lambda entry: entry[: len(entry) // 2], id="cut"),
        pytest.param(without_last_line, id="cut between two lines"),
        pytest.param(lambda entry: bytes(len(entry)), id="zeros"),
        pytest.param(lambda entry: entry[:100] + bytes(len(entry) - 100), id="zeros at its end"),
    ],
)
def test_a_torn_last_entry_of_the_log_is_set_aside(root: Root, damage: Callable[[bytes], bytes]) -> None:
    commit_class(root, "Kiwi", ["a", "b"])
    commit_class(root, "Kiwi", ["a", "b", "c"])
    entry = last_entry(root)
    torn = damage(entry.read_bytes())
    entry.write_bytes(torn)
    assert rows_of(root) == {"Kiwi": 2}
    assert entry.with_name(f"{entry.name}.torn").read_bytes() == torn
    commit_class(root, "Kiwi", ["a", "b", "c", "d"])
    assert last_entry(root) == entry
    assert DeltaTable(root.uri_of(TABLE)).to_pyarrow_table().num_rows == 4


def test_an_entry_of_another_writer_is_not_taken_for_torn(root: Root) -> None:
    commit_class(root, "Kiwi", ["a", "b"])
    table = DeltaTable(root.uri_of(TABLE))
    table.alter.set_table_description("bad photos")
    assert rows_of(root) == {"Kiwi": 2}
    reopened = open_table(root, TABLE)
    assert reopened is not None
    assert reopened.metadata().description == "bad photos"


def test_a_torn_checkpoint_is_set_aside(root: Root) -> None:
    for number in range(CHECKPOINT_INTERVAL):
        commit_class(root, "Kiwi", [f"{number}"] * (number + 1))
    [checkpoint] = (Path(root.uri) / TABLE / "_delta_log").glob("*.checkpoint.parquet")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    assert rows_of(root) == {"Kiwi": CHECKPOINT_INTERVAL}
    assert not checkpoint.exists()


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files and folders that are synced, in order."""
    paths: list[str] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    return paths


def test_data_is_synced_before_its_commit_and_the_commit_before_the_run_is_done(
    root: Root, synced: list[str]
) -> None:
    commit_class(root, "Kiwi", ["a"])
    synced.clear()
    part = commit_class(root, "Kiwi", ["a", "b"], "second")
    entry = str(last_entry(root))
    expected = [
        root.uri_of(part.path),
        root.uri_of(f"{TABLE}/second"),
        entry,
        os.path.dirname(entry),
    ]
    assert [path for path in synced if path in expected][-4:] == expected
    assert root.uri_of(TABLE) in synced
    assert root.uri in synced


def test_a_commit_syncs_the_entry_on_which_it_builds(root: Root, synced: list[str]) -> None:
    commit_class(root, "Kiwi", ["a"])
    before = str(last_entry(root))
    synced.clear()
    commit_class(root, "Lemon", ["a"])
    assert synced.index(before) < synced.index(str(last_entry(root)))


def test_a_checkpoint_is_synced(root: Root, synced: list[str]) -> None:
    for number in range(CHECKPOINT_INTERVAL):
        commit_class(root, "Kiwi", [str(number)])
    log = Path(root.uri) / TABLE / "_delta_log"
    [checkpoint] = log.glob("*.checkpoint.parquet")
    assert {str(checkpoint), str(log / "_last_checkpoint")} <= set(synced)
    assert json.loads((log / "_last_checkpoint").read_bytes())["version"] == CHECKPOINT_INTERVAL


def test_a_pointer_is_synced_after_the_folders_of_its_files(root: Root, synced: list[str]) -> None:
    part = write_part(root, "Kiwi", ["a"], "run")
    version = Version(label="Kiwi", directory=os.path.dirname(part.path), data_version="v", parts=[part])
    synced.clear()
    publish(root, PCA_FEATURES_CSV, [version])
    folder = root.uri_of("pca_features_csv_versions/current")
    assert root.has(f"pca_features_csv_versions/current/{class_key('Kiwi')}.json")
    assert synced.index(root.uri_of(f"{TABLE}/run")) < synced.index(folder)
