"""Jobs that work on a class while `fruits forget` takes it out of the store."""

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from spark_jobs import extract_features, project_to_csv
from spark_jobs.store.classes import FORGOTTEN, forget_classes, holdings
from spark_jobs.store.root import Root, open_root
from tests.conftest import CLASSES
from tests.jobs import extract, project

REMAINING = [label for label in CLASSES if label != "Kiwi"]


@pytest.fixture
def root(pipeline: str, store: str) -> Root:
    """A copy of a finished store."""
    shutil.copytree(pipeline, store)
    return open_root(store)


def forget_before(monkeypatch: pytest.MonkeyPatch, root: Root, module: Any, step: str) -> None:
    """Has `fruits forget Kiwi` run just before a job makes its results current."""
    make_current = getattr(module, step)

    def forget_first(*args: Any) -> Any:
        forget_classes(root, ["Kiwi"], "forget-1", timedelta(hours=24))
        return make_current(*args)

    monkeypatch.setattr(module, step, forget_first)


def test_features_of_a_class_that_is_forgotten_meanwhile_do_not_stay(
    spark: SparkSession, root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        forget_before(patch, root, extract_features, "change_classes")
        report = extract(spark, root.uri, CLASSES)
    assert report.failed == {"Kiwi": FORGOTTEN}
    assert list(report.classes) == list(holdings(root)) == REMAINING


def test_a_csv_of_a_class_that_is_forgotten_meanwhile_does_not_stay(
    spark: SparkSession, root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        forget_before(patch, root, project_to_csv, "publish")
        report = project(spark, root.uri, CLASSES)
    assert report.failed == {"Kiwi": FORGOTTEN}
    assert list(report.classes) == list(holdings(root)) == REMAINING
    assert not (Path(root.uri) / "pca_features_csv" / "Kiwi.csv").exists()
