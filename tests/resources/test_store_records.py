"""Erasure of texts from the files of a store that are no data, on disk and on S3."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from fruits_assets.costs.run_records import read_records, record_path, write_record
from resources import store_records
from resources.emr.code import upload_code
from resources.store_records import erase_records, find_records, written_by
from spark_jobs.store.leases import LIFETIME
from spark_jobs.store.root import Root, open_root
from tests.s3_server import s3_bucket
from tests.support import RECORD

PHOTO = "Training/Kiwi/1.jpg"
TEXTS = [PHOTO]
EVENT = json.dumps({"Event": "SparkListenerJobStart", "Filter": f"path = {PHOTO}"}).encode()
OTHER_EVENT = json.dumps({"Event": "SparkListenerApplicationEnd"}).encode()


@pytest.fixture
def store(tmp_path: Path) -> Root:
    return open_root(str(tmp_path / "store"))


def age(store: Root, seconds: float = LIFETIME.total_seconds() + 60) -> None:
    """Makes all files of a store on disk older."""
    for info in store.list(""):
        then = time.time() - seconds
        os.utime(f"{store.uri}/{info.path}", (then, then))


def write_step(store: Root, run: str) -> None:
    for name in ("params.json", "report.json", "xyz/context.json", "messages/1.json"):
        store.write(f"emr/{run}/raw_images-12345678/{name}", PHOTO.encode())


def paths(store: Root, folder: str = "") -> list[str]:
    return sorted(info.path for info in store.list(folder))


def zstd(*events: bytes) -> bytes:
    return pa.compress(b"\n".join(events), "zstd", asbytes=True)


# Steps.


def test_the_files_of_steps_whose_runs_have_ended_go_and_the_code_of_steps_stays(store: Root) -> None:
    upload_code(store)
    code = paths(store, "emr/code")
    write_step(store, "ended")
    age(store)
    write_step(store, "living")
    age(store)
    assert find_records(store, TEXTS, ["living"]).files == {"emr": 4}
    erased = erase_records(store, TEXTS, ["living"])
    assert erased.files == {"emr": 4}
    assert len(erased.left) == 4 and all(path.startswith("emr/living/") for path in erased.left)
    assert paths(store) == sorted([*code, *erased.left])
    assert erase_records(store, TEXTS, []).files == {"emr": 4}
    assert paths(store) == code and len(code) == 2


def test_a_step_that_still_waits_for_the_cluster_keeps_its_parameters(store: Root) -> None:
    # Its run has no lease before the job starts.
    write_step(store, "waiting")
    assert erase_records(store, TEXTS, []).files == {}
    assert len(paths(store)) == 4


# Spark's event logs.


@pytest.mark.parametrize(
    ("name", "content", "removed"),
    [
        ("local-1.zstd", zstd(OTHER_EVENT, EVENT), True),
        ("local-1.zstd", zstd(OTHER_EVENT), False),
        ("local-1", OTHER_EVENT + b"\n" + EVENT, True),
        ("application_1_0001_1", OTHER_EVENT, False),
        ("eventlog_v2_local-1/events_1_local-1.zstd", zstd(EVENT), True),
        # A log whose end a killed process did not write, and one whose compression cannot be read.
        ("local-1.zstd.inprogress", zstd(*[os.urandom(9_000) for _ in range(9)])[:60_000], True),
        ("local-1.lz4", b"LZ4Block", True),
        (".keep", b"", False),
    ],
)
def test_an_event_log_that_names_a_photo_or_cannot_be_read_goes(
    store: Root, name: str, content: bytes, removed: bool
) -> None:
    store.write(f"spark-events/{name}", content)
    age(store)
    assert find_records(store, TEXTS, []).files == ({"spark-events": 1} if removed else {})
    assert store.has(f"spark-events/{name}")
    erase_records(store, TEXTS, [])
    assert store.has(f"spark-events/{name}") != removed


def test_a_text_across_two_pieces_of_a_large_log_is_found(
    store: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_records, "_CHUNK", 64)
    for start in range(40, 70):
        store.write("spark-events/local-1.zstd", zstd(b"." * start + PHOTO.encode() + b"." * 200))
        assert erase_records(store, TEXTS, []).files == {"spark-events": 1}, start


def test_an_event_log_that_spark_still_writes_is_left_and_named(store: Root) -> None:
    path = "spark-events/local-1.zstd.inprogress"
    store.write(path, zstd(EVENT)[:-4])
    assert erase_records(store, TEXTS, []) == ({}, [path])
    age(store)
    assert erase_records(store, TEXTS, []) == ({"spark-events": 1}, [])
    assert not store.has(path)


# Records of runs, and all other files.


def test_a_run_record_loses_the_text_and_stays_a_record(store: Root) -> None:
    write_record(store, replace(RECORD, engine=f"local, {PHOTO}"))
    write_record(store, replace(RECORD, run="run-2"))
    untouched = store.read(record_path("run-2", RECORD.stage))
    assert erase_records(store, TEXTS, []).files == {"run_records": 1}
    records, invalid = read_records(store)
    assert len(records) == 2 and not invalid
    assert not any(PHOTO.encode() in store.read(path) for path in paths(store))
    assert store.read(record_path("run-2", RECORD.stage)) == untouched
    assert find_records(store, TEXTS, []) == ({}, [])


def test_every_file_but_tables_csvs_models_and_weights_is_searched(store: Root) -> None:
    searched = ["in_hand/run/1", "feature_quality/current.json", "environment_comparison/a.md", "notes.txt"]
    others = ["raw_images/a", "mobilenet_features/a", "quarantined_images/a", "pca_model/a"]
    others += ["pca_features_csv/a", "pca_features_csv_versions/a", "feature_extractor/a"]
    store.write_many((path, f"a {PHOTO} b".encode()) for path in [*searched, *others])
    assert erase_records(store, TEXTS, []).files == {
        **{"environment_comparison": 1, "feature_quality": 1, "in_hand": 1, "notes.txt": 1}
    }
    assert [path for path in paths(store) if PHOTO.encode() in store.read(path)] == sorted(others)


def test_a_store_that_does_not_exist_has_no_records(store: Root) -> None:
    assert erase_records(store, TEXTS, []) == ({}, [])


# On S3.


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_bucket(tmp_path_factory.mktemp("s3")) as uri:
        yield uri


def test_records_on_s3_are_erased_too(bucket: str) -> None:
    store = open_root(f"{bucket}/deep/store")
    upload_code(store)
    write_step(store, "living")
    store.write("spark-events/local-1.zstd", zstd(EVENT))
    store.write("in_hand/run/1", PHOTO.encode())
    store.write("raw_images/a", PHOTO.encode())
    erased = erase_records(store, TEXTS, ["living"])
    assert erased.files == {"in_hand": 1, "spark-events": 1} and len(erased.left) == 4
    naming = [path for path in paths(store) if PHOTO.encode() in store.read(path)]
    assert naming == [*sorted(erased.left), "raw_images/a"]
    assert len(paths(store, "emr/code")) == 2


def test_files_of_living_runs_are_known_by_their_paths() -> None:
    writes = written_by(["run-1"])
    assert writes("raw_images/run-1/part-0.parquet")
    assert writes("pca_features_csv_versions/version=run-1/1234/a.csv")
    assert writes("spark-events/application_1_0001")
    assert not writes("raw_images/run-2/part-0.parquet")
    assert not written_by([])("spark-events/application_1_0001")
