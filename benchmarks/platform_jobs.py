"""The platform's Spark jobs without Dagster, in one new Spark session.

Prints one JSON object: the seconds of each stage. The photos may be on S3. `--ingest-only` ends after the
first job.

    python -m benchmarks.platform_jobs --photos DIR_OR_S3_PREFIX --ir DIR --out DIR --cores 2 --decode scaled
"""

# ruff: noqa: E402
import time

# Before the other imports: their time is part of the start-up.
STARTED = time.perf_counter()

import json
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from fruits_assets.model.quality import assess, read_sample
from resources.local.session import start_session
from resources.photo_folders import list_photos
from resources.settings import Settings
from spark_jobs.dimensions import DEFAULT_COMPONENTS
from spark_jobs.extract_features import ExtractParams, extract_features
from spark_jobs.fit_pca import FitParams, FitReport, fit_pca
from spark_jobs.inference import MODEL_BIN, MODEL_XML, sha256_of
from spark_jobs.ingest_images import IngestParams, ingest_images
from spark_jobs.project_to_csv import ProjectParams, project_to_csv
from spark_jobs.spark_model import read_components
from spark_jobs.store.photos import Photo
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import MOBILENET_FEATURES
from spark_jobs.store.tables import current
from spark_jobs.tasks import Progress

Seconds = dict[str, float]


@contextmanager
def timed(seconds: Seconds, stage: str) -> Iterator[None]:
    """Writes the seconds that the context takes to `seconds[stage]`."""
    begun = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - begun


def discard(progress: Progress) -> None:
    """Discards the progress that a job reports."""


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    for name in ("photos", "ir", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--ingest-only", action="store_true")
    parser.add_argument("--decode", choices=("exact", "scaled"), default="exact")
    arguments = parser.parse_args()

    settings = Settings(
        images=arguments.photos,
        store=arguments.out,
        spark_cores=arguments.cores,
        decode=arguments.decode,
    )
    ir = [(Path(arguments.ir) / name).read_bytes() for name in (MODEL_XML, MODEL_BIN)]
    store = open_root(settings.store)
    spark = start_session(settings, event_log=True)
    for name, content in zip((MODEL_XML, MODEL_BIN), ir, strict=True):
        store.write(f"ir/{name}", content)
    seconds = {"start": time.perf_counter() - STARTED}
    photos = list_photos(settings.images).classes
    labels = list(photos)
    images = ingest(spark, settings, photos, seconds)
    if arguments.ingest_only:
        print(json.dumps({"images": images, **seconds}))
        return
    # The parameters that all other jobs share.
    common = {
        "store": settings.store,
        "version": "benchmark",
        "keep_hours": settings.keep_hours,
    }
    model = extract_fit_project(spark, settings, common, labels, sha256_of(*ir), seconds)
    with timed(seconds, "quality"):
        assess(
            read_sample(store, current(store, MOBILENET_FEATURES)),
            read_components(settings.store, model.directory),
        )
    figures = {
        "images": images,
        **seconds,
        "read_features": seconds["ingest"] + seconds["features"],
        "pca_fit": model.fit_seconds,
        "pca_save": seconds["pca_fit"] - model.fit_seconds,
        "whole": time.perf_counter() - STARTED,
        "explained_variance": sum(model.explained_variance),
    }
    print(json.dumps(figures))


def ingest(spark: SparkSession, settings: Settings, photos: dict[str, list[Photo]], seconds: Seconds) -> int:
    """Runs the first job. Returns the number of images."""
    params = IngestParams(
        images=settings.images,
        store=settings.store,
        version="benchmark",
        photos=photos,
        max_bytes=settings.max_image_bytes,
        max_pixels=settings.max_image_pixels,
        max_bad_share=settings.max_bad_share,
        keep_hours=settings.keep_hours,
        scaled=settings.decodes_scaled,
    )
    with timed(seconds, "ingest"):
        report = ingest_images(spark, params, discard)
    return sum(figures.images for figures in report.classes.values())


def extract_fit_project(
    spark: SparkSession,
    settings: Settings,
    common: dict[str, Any],
    labels: list[str],
    ir_sha256: str,
    seconds: Seconds,
) -> FitReport:
    """Runs the other jobs with the parameters `common`. Returns the report of the fit."""
    extract = ExtractParams(
        **common,
        classes=labels,
        extractor_directory="ir",
        extractor_sha256=ir_sha256,
        extractor_version="1",
        scaled=settings.decodes_scaled,
    )
    with timed(seconds, "features"):
        extract_features(spark, extract, discard)
    with timed(seconds, "pca_fit"):
        model = fit_pca(spark, FitParams(**common, components=DEFAULT_COMPONENTS, variance=None), discard)
    project = ProjectParams(
        **common, classes=labels, model_directory=model.directory, model_version=model.data_version
    )
    with timed(seconds, "csv"):
        project_to_csv(spark, project, discard)
    return model


if __name__ == "__main__":
    main()
