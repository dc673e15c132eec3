"""Fixtures that several tests of the jobs share."""

import json
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from spark_jobs.spark_model import read_components
from tests.conftest import CLASSES
from tests.jobs import fit, project, run_jobs
from tests.spark_jobs.support import Fitted, made_up_features
from tests.support import publish_features


@pytest.fixture(scope="session")
def pipeline(
    spark: SparkSession, sample_photos: Path, extractor: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A store in which all jobs have run on `sample_photos`, and which no test may change."""
    store = str(tmp_path_factory.mktemp("pipeline") / "store")
    run_jobs(spark, sample_photos, store, extractor, CLASSES)
    return store


@pytest.fixture(scope="session")
def fitted(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    store = str(tmp_path_factory.mktemp("pca") / "store")
    features = made_up_features()
    publish_features(store, features, group=30)
    report = fit(spark, store)
    project(spark, store, CLASSES)
    description = json.loads((Path(store) / report.directory / "model.json").read_text())
    return Fitted(
        store=store,
        features=features,
        report=report,
        components=read_components(store, report.directory),
        description=description,
    )
