"""The platform's work with no Dagster, timed stage by stage in one fresh Spark session.

Prints one JSON object: seconds of each stage. The photos may lie on S3; `--ingest-only` ends after the
first job.

    python -m benchmarks.our_way --photos DIR_OR_S3_PREFIX --ir DIR --out DIR --cores 2
"""

import json
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    for name in ("photos", "ir", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--ingest-only", action="store_true")
    arguments = parser.parse_args()

    from pyspark.sql import SparkSession

    from fruits_assets.model.quality import assess, read_sample
    from resources.event_logs import event_log_config, make_event_log_folder
    from resources.local.session import local_spark_config, set_environment
    from resources.settings import Settings
    from spark_jobs.dimensions import DEFAULT_COMPONENTS
    from spark_jobs.extract_features import ExtractParams, extract_features
    from spark_jobs.fit_pca import FitParams, fit_pca
    from spark_jobs.inference import MODEL_BIN, MODEL_XML, sha256_of
    from spark_jobs.ingest_images import IngestParams, ingest_images
    from spark_jobs.project_to_csv import ProjectParams, project_to_csv
    from spark_jobs.spark_model import read_components
    from spark_jobs.store.photos import list_photos
    from spark_jobs.store.root import open_root
    from spark_jobs.store.schemas import MOBILENET_FEATURES
    from spark_jobs.store.tables import current
    from spark_jobs.tasks import Progress

    settings = Settings(images=arguments.photos, store=arguments.out, spark_cores=arguments.cores)
    set_environment()
    xml, weights = ((Path(arguments.ir) / name).read_bytes() for name in (MODEL_XML, MODEL_BIN))
    store = open_root(settings.store)
    make_event_log_folder(store)
    config = local_spark_config(settings) | event_log_config(settings.store)
    spark = SparkSession.builder.config(map=config).getOrCreate()
    store.write(f"ir/{MODEL_XML}", xml)
    store.write(f"ir/{MODEL_BIN}", weights)
    seconds = {"start": time.perf_counter() - STARTED}

    def quiet(progress: Progress) -> None:
        pass

    def timed(name: str, job: Any, params: Any) -> Any:
        begun = time.perf_counter()
        report = job(spark, params, quiet)
        seconds[name] = time.perf_counter() - begun
        return report

    labels = list(list_photos(settings.images).classes)
    version, keep = "benchmark", settings.keep_hours
    ingested = timed(
        "ingest",
        ingest_images,
        IngestParams(
            images=settings.images,
            store=settings.store,
            version=version,
            classes=labels,
            max_bytes=settings.max_image_bytes,
            max_pixels=settings.max_image_pixels,
            max_bad_share=settings.max_bad_share,
            keep_hours=keep,
        ),
    )
    images = sum(figures.images for figures in ingested.classes.values())
    if arguments.ingest_only:
        print(json.dumps({"images": images, **seconds}))
        return
    timed(
        "features",
        extract_features,
        ExtractParams(
            store=settings.store,
            version=version,
            classes=labels,
            extractor_directory="ir",
            extractor_sha256=sha256_of(xml, weights),
            extractor_version="1",
            keep_hours=keep,
        ),
    )
    model = timed(
        "pca_fit",
        fit_pca,
        FitParams(
            store=settings.store,
            version=version,
            classes=labels,
            components=DEFAULT_COMPONENTS,
            variance=None,
            keep_hours=keep,
        ),
    )
    timed(
        "csv",
        project_to_csv,
        ProjectParams(
            store=settings.store,
            version=version,
            classes=labels,
            model_directory=model.directory,
            model_version=model.data_version,
            keep_hours=keep,
        ),
    )
    begun = time.perf_counter()
    assess(
        read_sample(store, current(store, MOBILENET_FEATURES)),
        read_components(settings.store, model.directory),
    )
    seconds["quality"] = time.perf_counter() - begun
    print(
        json.dumps(
            {
                "images": images,
                **seconds,
                "read_features": seconds["ingest"] + seconds["features"],
                "pca_fit": model.fit_seconds,
                "pca_save": seconds["pca_fit"] - model.fit_seconds,
                "whole": time.perf_counter() - STARTED,
                "explained_variance": sum(model.explained_variance),
            }
        )
    )


if __name__ == "__main__":
    main()
