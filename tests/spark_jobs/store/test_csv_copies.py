"""The copies of the current CSVs: they follow the pointers, whatever is killed and whoever writes."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from spark_jobs.store.csv_copies import copy_csvs, csv_path, stale_copies
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_FEATURES_CSV
from spark_jobs.store.tables import class_key, current, files
from tests.conftest import CLASSES
from tests.jobs import fit, project


@pytest.fixture
def copied(pipeline: str, store: str) -> str:
    """A store in which all jobs have run, which the test may change."""
    return str(shutil.copytree(pipeline, store))


def copies(store: str) -> dict[str, bytes]:
    return {label: (Path(store) / csv_path(label)).read_bytes() for label in CLASSES}


def versions(store: str) -> dict[str, bytes]:
    found = files(store, PCA_FEATURES_CSV)
    return {label: Path(file).read_bytes() for label, file in zip(CLASSES, found, strict=True)}


class KilledError(Exception):
    pass


def killed(*_: Any) -> None:
    raise KilledError


def test_a_run_killed_before_the_copies_leaves_whole_csvs_and_the_next_run_mends_them(
    spark: SparkSession, copied: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = copies(copied)
    fit(spark, copied, CLASSES, components=3)
    with monkeypatch.context() as patch:
        patch.setattr(Root, "copy_many", killed)
        with pytest.raises(KilledError):
            project(spark, copied, CLASSES)
    assert copies(copied) == before
    for label, pointer in current(open_root(copied), PCA_FEATURES_CSV).items():
        content = versions(copied)[label]
        assert content.splitlines()[0] == b'"path","label","pc1","pc2","pc3"'
        assert len(content) == pointer.bytes
    assert stale_copies(open_root(copied)).keys() == set(CLASSES)
    project(spark, copied, ["Kiwi"])
    assert copies(copied) == versions(copied)


def test_a_run_killed_before_the_pointers_changes_nothing(
    spark: SparkSession, copied: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = copies(copied)
    fit(spark, copied, CLASSES, components=3)
    monkeypatch.setattr("spark_jobs.project_to_csv.publish", killed)
    with pytest.raises(KilledError):
        project(spark, copied, CLASSES)
    assert copies(copied) == versions(copied) == before


def test_of_two_runs_at_once_the_copies_are_those_of_the_last_pointers(
    spark: SparkSession, copied: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run publishes and copies between the comparison and the copies of the first run."""
    copy_many, second = Root.copy_many, iter([True])

    def after_the_second_run(root: Root, chosen: Any) -> None:
        chosen = list(chosen)
        if next(second, False):
            fit(spark, copied, CLASSES, components=2)
            project(spark, copied, CLASSES)
        copy_many(root, chosen)

    fit(spark, copied, CLASSES, components=3)
    monkeypatch.setattr(Root, "copy_many", after_the_second_run)
    project(spark, copied, CLASSES)
    assert copies(copied) == versions(copied)
    assert {content.splitlines()[0] for content in copies(copied).values()} == {b'"path","label","pc1","pc2"'}


@pytest.mark.parametrize("change", ["removed", "same size", "longer"])
def test_a_copy_that_was_changed_is_stale_and_replaced(copied: str, change: str) -> None:
    copy = Path(copied) / csv_path("Kiwi")
    content = copy.read_bytes()
    if change == "removed":
        copy.unlink()
    else:
        copy.write_bytes(content[:-2] + b"9\n" if change == "same size" else content + b"x\n")
    assert list(stale_copies(open_root(copied))) == ["Kiwi"]
    copy_csvs(open_root(copied))
    assert copy.read_bytes() == content


def test_a_lost_version_leaves_its_copy_stale_and_does_not_stop_the_others(copied: str) -> None:
    [kiwi, banana] = (Path(copied) / csv_path(label) for label in ("Kiwi", "Banana"))
    Path(files(copied, PCA_FEATURES_CSV, ["Kiwi"])[0]).unlink()
    kiwi.unlink()
    banana.unlink()
    copy_csvs(open_root(copied))
    assert banana.exists()
    assert list(stale_copies(open_root(copied))) == ["Kiwi"]


def to_release_0_1(store: str) -> None:
    """Makes the CSVs of a store as release 0.1 wrote them: pointers beside the CSVs, which they name."""
    root = open_root(store)
    for label, pointer in current(root, PCA_FEATURES_CSV).items():
        [part] = pointer.parts
        fields = asdict(pointer) | {
            "directory": f"pca_features_csv/version=run/1234abcd/{class_key(label)}",
            "parts": [asdict(part) | {"path": csv_path(label)}],
            "details": {},
        }
        root.write(f"pca_features_csv/current/{class_key(label)}.json", json.dumps(fields).encode())
    shutil.rmtree(Path(store) / "pca_features_csv_versions")


def test_the_csvs_of_an_older_store_get_a_version_and_none_is_computed_again(
    spark: SparkSession, copied: str
) -> None:
    before = current(open_root(copied), PCA_FEATURES_CSV)
    contents = copies(copied)
    to_release_0_1(copied)
    torn = Path(copied) / csv_path("Banana")
    torn.write_bytes(torn.read_bytes() + b"x\n")
    shutil.rmtree(Path(copied) / MOBILENET_FEATURES / "current")  # nothing can be projected
    project(spark, copied, [])
    after = current(open_root(copied), PCA_FEATURES_CSV)
    assert after.keys() == set(CLASSES) - {"Banana"}
    for label, pointer in after.items():
        assert (pointer.data_version, pointer.inputs) == (before[label].data_version, before[label].inputs)
        assert Path(files(copied, PCA_FEATURES_CSV, [label])[0]).read_bytes() == contents[label]
    assert not (Path(copied) / "pca_features_csv" / "current").exists()
    assert stale_copies(open_root(copied)) == {}
