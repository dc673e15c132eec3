"""The platform's Spark jobs in a process that is to be disturbed.

    python -m benchmarks.faults.jobs --photos DIR --ir DIR --store DIR [--repeat-csv]

Runs each job once. After each job it prints a line of JSON: the job, and the data version of each class of
each output; then it waits for a line of input. With `--repeat-csv` it fits models of 15 and of 30 components
in turn, and projects all classes, without end.
"""

import json
import uuid
from argparse import ArgumentParser
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from benchmarks.platform_jobs import discard, ingest
from resources.local.session import start_session
from resources.photo_folders import list_photos
from resources.settings import Settings
from spark_jobs.dimensions import DEFAULT_COMPONENTS
from spark_jobs.extract_features import ExtractParams, extract_features
from spark_jobs.fit_pca import FitParams, fit_pca
from spark_jobs.inference import MODEL_BIN, MODEL_XML, sha256_of
from spark_jobs.project_to_csv import ProjectParams, project_to_csv
from spark_jobs.store.pointers import current_by_class, current_one
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import PCA_FEATURES_CSV, PCA_MODEL, SCHEMAS
from spark_jobs.store.tables import current

Versions = dict[str, dict[str, str]]


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    for name in ("photos", "ir", "store"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--repeat-csv", action="store_true")
    arguments = parser.parse_args()
    settings = Settings(images=arguments.photos, store=arguments.store, spark_cores=2)
    spark = start_session(settings)
    photos = list_photos(settings.images).classes
    labels = list(photos)
    if arguments.repeat_csv:
        for components in cycle((30, DEFAULT_COMPONENTS)):
            fit(spark, settings, components)
            project(spark, settings, labels)
    jobs: dict[str, Callable[[], object]] = {
        "ingest": lambda: ingest(spark, settings, photos, {}),
        "features": lambda: extract(spark, settings, labels, Path(arguments.ir)),
        "fit": lambda: fit(spark, settings, DEFAULT_COMPONENTS),
        "CSV": lambda: project(spark, settings, labels),
    }
    for name, job in jobs.items():
        job()
        print(json.dumps({"job": name, "versions": versions(settings.store)}), flush=True)
        input()


def extract(spark: SparkSession, settings: Settings, labels: list[str], ir: Path) -> None:
    """Extracts features with the extractor in the folder `ir`."""
    content = {name: (ir / name).read_bytes() for name in (MODEL_XML, MODEL_BIN)}
    open_root(settings.store).write_many((f"ir/{name}", file) for name, file in content.items())
    params = ExtractParams(
        **common(settings),
        classes=labels,
        extractor_directory="ir",
        extractor_sha256=sha256_of(*content.values()),
        extractor_version="1",
    )
    extract_features(spark, params, discard)


def fit(spark: SparkSession, settings: Settings, components: int) -> None:
    fit_pca(spark, FitParams(**common(settings), components=components, variance=None), discard)


def project(spark: SparkSession, settings: Settings, labels: list[str]) -> None:
    model = current_one(open_root(settings.store), PCA_MODEL)
    assert model is not None
    params = ProjectParams(
        **common(settings),
        classes=labels,
        model_directory=model.directory,
        model_version=model.data_version,
    )
    project_to_csv(spark, params, discard)


def common(settings: Settings) -> dict[str, Any]:
    """The parameters that all jobs share."""
    return {"store": settings.store, "version": uuid.uuid4().hex, "keep_hours": settings.keep_hours}


def versions(uri: str) -> Versions:
    """The data version of each class of each output; of the model, under an empty name."""
    store = open_root(uri)
    found = {
        table: {label: v.data_version for label, v in current(store, table).items()} for table in SCHEMAS
    }
    csvs, model = current_by_class(store, PCA_FEATURES_CSV), current_one(store, PCA_MODEL)
    found[PCA_FEATURES_CSV] = {label: version.data_version for label, version in csvs.items()}
    found[PCA_MODEL] = {"": model.data_version} if model else {}
    return found


if __name__ == "__main__":
    main()
