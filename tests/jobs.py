"""The Spark jobs with the usual parameters of the tests, and the tables that they write."""

import uuid
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from resources.photo_folders import list_photos
from spark_jobs.extract_features import ExtractParams, ExtractReport, extract_features
from spark_jobs.fit_pca import FitParams, FitReport, fit_pca
from spark_jobs.ingest_images import IngestParams, IngestReport, ingest_images
from spark_jobs.project_to_csv import ProjectParams, ProjectReport, project_to_csv
from spark_jobs.store.pointers import current_one
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import FEATURE_EXTRACTOR, PCA_MODEL, SCHEMAS
from spark_jobs.store.tables import current
from spark_jobs.tasks import Progress
from tests.support import publish_extractor


def quiet(progress: Progress) -> None:
    """Ignores the progress of a job."""


def ingest(
    spark: SparkSession, images: Path | str, store: str, classes: Iterable[str], **changes: Any
) -> IngestReport:
    """Runs the job `ingest_images`; `changes` override its parameters."""
    listed = list_photos(str(images)).classes
    params = IngestParams(
        images=str(images),
        store=store,
        version=uuid.uuid4().hex,
        photos={label: listed[label] for label in classes},
        max_bytes=50_000_000,
        max_pixels=50_000_000,
        max_bad_share=0.1,
        keep_hours=24,
    )
    return ingest_images(spark, replace(params, **changes), quiet)


def extract(spark: SparkSession, store: str, classes: Iterable[str], **changes: Any) -> ExtractReport:
    """Runs the job `extract_features` with the current extractor; `changes` override its parameters."""
    extractor = current_one(open_root(store), FEATURE_EXTRACTOR)
    assert extractor is not None
    params = ExtractParams(
        store=store,
        version=uuid.uuid4().hex,
        classes=list(classes),
        extractor_directory=extractor.directory,
        extractor_sha256=extractor.details["ir_sha256"],
        extractor_version=extractor.data_version,
        keep_hours=24,
    )
    return extract_features(spark, replace(params, **changes), quiet)


def fit(spark: SparkSession, store: str, components: int = 15, variance: float | None = None) -> FitReport:
    """Runs the job `fit_pca`."""
    params = FitParams(
        store=store,
        version=uuid.uuid4().hex,
        components=components,
        variance=variance,
        keep_hours=24,
    )
    return fit_pca(spark, params, quiet)


def project(spark: SparkSession, store: str, classes: Iterable[str], **changes: Any) -> ProjectReport:
    """Runs the job `project_to_csv` with the current model; `changes` override its parameters."""
    model = current_one(open_root(store), PCA_MODEL)
    assert model is not None
    params = ProjectParams(
        store=store,
        version=uuid.uuid4().hex,
        classes=list(classes),
        model_directory=model.directory,
        model_version=model.data_version,
        keep_hours=24,
    )
    return project_to_csv(spark, replace(params, **changes), quiet)


def run_jobs(
    spark: SparkSession,
    images: Path,
    store: str,
    extractor: Path,
    classes: Iterable[str],
    max_bad_share: float = 0.1,
) -> None:
    """Runs every job once, from photos to CSVs, in a new store."""
    publish_extractor(store, extractor)
    ingest(spark, images, store, classes, max_bad_share=max_bad_share)
    extract(spark, store, classes)
    fit(spark, store)
    project(spark, store, classes)


def table(store: str, name: str, classes: Iterable[str] | None = None) -> pd.DataFrame:
    """The current rows of a table, of all classes or of some."""
    root = open_root(store)
    files = [part.path for version in current(root, name, classes).values() for part in version.parts]
    tables = [pq.read_table(path, filesystem=root.fs) for path in files]
    return pa.concat_tables([SCHEMAS[name].empty_table(), *tables]).to_pandas()
