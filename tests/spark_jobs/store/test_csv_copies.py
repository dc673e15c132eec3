"""The copies of the current CSVs: they follow the pointers, whatever is killed and whoever writes."""

import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from spark_jobs.store.csv_copies import copy_csvs, csv_paths, stale_copies
from spark_jobs.store.pointers import pointer_path
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import PCA_FEATURES_CSV
from spark_jobs.store.versions import class_key
from tests.conftest import CLASSES
from tests.jobs import fit, project
from tests.support import current_files, current_versions


@pytest.fixture
def copied(pipeline: str, store: str) -> str:
    """A store in which all jobs have run, which the test may change."""
    return str(shutil.copytree(pipeline, store))


def copies(store: str) -> dict[str, bytes]:
    return {label: (Path(store) / f"pca_features_csv/{label}.csv").read_bytes() for label in CLASSES}


def versions(store: str) -> dict[str, bytes]:
    found = current_files(store, PCA_FEATURES_CSV)
    return {label: Path(file).read_bytes() for label, file in zip(CLASSES, found, strict=True)}


class KilledError(Exception):
    pass


def killed(*_: Any) -> None:
    raise KilledError


def test_a_run_killed_before_the_copies_leaves_whole_csvs_and_the_next_run_mends_them(
    spark: SparkSession, copied: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = copies(copied)
    fit(spark, copied, components=3)
    with monkeypatch.context() as patch:
        patch.setattr(Root, "copy_many", killed)
        with pytest.raises(KilledError):
            project(spark, copied, CLASSES)
    assert copies(copied) == before
    for label, pointer in current_versions(open_root(copied), PCA_FEATURES_CSV).items():
        content = versions(copied)[label]
        assert content.splitlines()[0] == b'"path","label","pc1","pc2","pc3"'
        assert len(content) == pointer.bytes
    assert stale_copies(open_root(copied)) == CLASSES
    project(spark, copied, ["Kiwi"])
    assert copies(copied) == versions(copied)


def test_a_run_killed_before_the_pointers_changes_nothing(
    spark: SparkSession, copied: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = copies(copied)
    fit(spark, copied, components=3)
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
            fit(spark, copied, components=2)
            project(spark, copied, CLASSES)
        copy_many(root, chosen)

    fit(spark, copied, components=3)
    monkeypatch.setattr(Root, "copy_many", after_the_second_run)
    project(spark, copied, CLASSES)
    assert copies(copied) == versions(copied)
    assert {content.splitlines()[0] for content in copies(copied).values()} == {b'"path","label","pc1","pc2"'}


@pytest.mark.parametrize("change", ["removed", "same size", "longer"])
def test_a_copy_that_was_changed_is_stale_and_replaced(copied: str, change: str) -> None:
    copy = Path(copied) / "pca_features_csv/Kiwi.csv"
    content = copy.read_bytes()
    if change == "removed":
        copy.unlink()
    else:
        copy.write_bytes(content[:-2] + b"9\n" if change == "same size" else content + b"x\n")
    assert stale_copies(open_root(copied)) == ["Kiwi"]
    copy_csvs(open_root(copied))
    assert copy.read_bytes() == content


def test_a_lost_version_leaves_its_copy_stale_and_does_not_stop_the_others(copied: str) -> None:
    [kiwi, banana] = (Path(copied) / f"pca_features_csv/{label}.csv" for label in ("Kiwi", "Banana"))
    Path(current_files(copied, PCA_FEATURES_CSV, ["Kiwi"])[0]).unlink()
    kiwi.unlink()
    banana.unlink()
    copy_csvs(open_root(copied))
    assert banana.exists()
    assert stale_copies(open_root(copied)) == ["Kiwi"]


@pytest.mark.parametrize("changes", [{"details": {}}, {"details": {"sha256": 5}}, {"parts": []}], ids=str)
def test_a_pointer_that_does_not_tell_its_csv_does_not_stop_the_others(
    copied: str, changes: dict[str, Any]
) -> None:
    root, path = open_root(copied), pointer_path(PCA_FEATURES_CSV, "Kiwi")
    said = json.loads(root.read(path))
    del said["sha256"]  # as an earlier release wrote it
    root.write(path, json.dumps(said | changes).encode())
    before = copies(copied)
    root.remove_file("pca_features_csv/Banana.csv")
    copy_csvs(root)
    assert copies(copied) == before
    assert stale_copies(root) == ["Kiwi"]


def test_a_file_that_another_run_is_writing_beside_the_copies_stays(copied: str) -> None:
    writing = Path(copied) / PCA_FEATURES_CSV / f".{'ab' * 16}"
    writing.touch()
    copy_csvs(open_root(copied))
    assert writing.exists()


def test_other_files_in_the_folder_of_copies_are_removed(copied: str) -> None:
    root = open_root(copied)
    root.write("pca_features_csv/Gone.csv", b"of a class that is gone")
    root.write("pca_features_csv/version=1/2/Kiwi/part.csv", b"of release 0.1")
    copy_csvs(root)
    assert sorted(path.name for path in (Path(copied) / PCA_FEATURES_CSV).iterdir()) == [
        f"{label}.csv" for label in CLASSES
    ]


@pytest.mark.parametrize(
    "labels",
    [
        ["Kiwi", "kiwi", "KIWI"],
        ["Cr\u00e8me", "Cre\u0300me", "CR\u00c8ME"],
        ["Stra\u00dfe", "STRASSE"],
        ["a" * 252, "a" * 251 + "A", "a" * 253],
        ["a" * 252, "a" * 200 + "~" + class_key("a" * 252)[-12:]],
        ["Kiwi", f"Kiwi~{class_key('Kiwi')[-12:]}", "kiwi"],
        ["\N{GRINNING FACE}" * 63, "\N{GRINNING FACE}" * 62],
    ],
    ids=lambda labels: labels[0][:10],
)
def test_no_two_classes_share_a_name_after_normalization_and_case_folding(labels: list[str]) -> None:
    names = [path.removeprefix("pca_features_csv/") for path in csv_paths(labels).values()]
    assert len({unicodedata.normalize("NFC", name).casefold() for name in names}) == len(labels)
    assert all(len(name.encode()) <= 255 and name.endswith(".csv") for name in names)


def test_a_name_that_no_other_class_has_is_that_of_the_class() -> None:
    assert csv_paths(["Kiwi", "Cr\u00e8me"]) == {
        "Kiwi": "pca_features_csv/Kiwi.csv",
        "Cr\u00e8me": "pca_features_csv/Cr\u00e8me.csv",
    }
