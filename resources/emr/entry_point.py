"""The program of a step: it runs one job, and reads the parameters and writes the report in one folder.

    ENTRY_POINT.py JOB FOLDER_URI SHA256_OF_PARAMETERS REGION WAIT_MINUTES PIPES_CONTEXT PIPES_MESSAGES

No other file on the nodes uses boto3. It uses it for Dagster Pipes only.
"""

import atexit
import hashlib
import os
import shutil
import sys
from importlib import import_module
from typing import get_type_hints

import boto3
from botocore.config import Config
from dagster_pipes import (
    PipesCliArgsParamsLoader,
    PipesS3ContextLoader,
    PipesS3MessageWriter,
    open_dagster_pipes,
)
from pyspark.sql import SparkSession

from spark_jobs.errors import FruitsError
from spark_jobs.executors import executors_awaited
from spark_jobs.store.root import open_root
from spark_jobs.wire import MEASURED, PARAMS, REPORT, from_json, run_measured, to_json

MESSAGE_SECONDS = 2


def main(job_name: str, folder_uri: str, params_sha256: str, region: str, wait_minutes: str) -> None:
    """Runs the job `module:function`, and reports its progress and any exception through Pipes.

    A job fails if its parameters are not those with the SHA-256, or if it has had no executor for
    `wait_minutes`.
    """
    os.environ["AWS_REGION"] = region  # for pyarrow; Spark's settings give it to executors
    retries = Config(retries={"mode": "adaptive", "max_attempts": 10})
    s3 = boto3.client("s3", region_name=region, config=retries)
    with open_dagster_pipes(
        context_loader=PipesS3ContextLoader(s3),
        message_writer=PipesS3MessageWriter(s3, interval=MESSAGE_SECONDS),
        params_loader=PipesCliArgsParamsLoader(),
    ) as pipes:
        try:
            module, _, function = job_name.partition(":")
            job = getattr(import_module(module), function)
            folder = open_root(folder_uri)
            content = folder.read(PARAMS)
            if hashlib.sha256(content).hexdigest() != params_sha256:
                raise FruitsError(
                    f"{folder.uri_of(PARAMS)} was changed after it was written. Start a new run."
                )
            params = from_json(get_type_hints(job)["params"], content)
            spark = SparkSession.builder.getOrCreate()
            with executors_awaited(spark, 60 * float(wait_minutes), pipes.log.warning):
                report, measured = run_measured(
                    spark, job, params, lambda progress: pipes.log.info(str(progress))
                )
            folder.write(REPORT, to_json(report))
            folder.write(MEASURED, to_json(measured))
        except Exception as error:
            kind = type(error)
            name = f"{kind.__module__}:{kind.__qualname__}"
            pipes.report_custom_message({"class": name, "message": str(error)})
            raise
        spark.stop()


if __name__ == "__main__":
    if folder := os.environ.get("FRUITS_CODE_FOLDER"):  # from the launcher, whose process is now spark-submit
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    main(*sys.argv[1:6])
