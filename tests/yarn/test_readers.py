"""Readers with packages of their own: Delta Lake's connector for Spark, and a Python without this project."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from resources.local.java import java_home, trust_options
from tests.conftest import CLASSES, IMAGES_PER_CLASS
from tests.jobs import run_jobs
from tests.support import REPOSITORY

COUNTS = dict.fromkeys(CLASSES, IMAGES_PER_CLASS)

WITHOUT_THE_PROJECT = """
import json, os, sys
import polars as pl
from deltalake import DeltaTable
counts = {}
for table in ("raw_images", "quarantined_images", "mobilenet_features"):
    uri = f"{sys.argv[1]}/{table}"
    by_polars = dict(pl.read_delta(uri).group_by("label").len().iter_rows())
    by_pandas = DeltaTable(uri).to_pandas().groupby("label").size().to_dict()
    by_arrow = DeltaTable(uri).to_pyarrow_table().group_by("label").aggregate([([], "count_all")]).to_pylist()
    counts[table] = [by_polars, by_pandas, {row["label"]: row["count_all"] for row in by_arrow}]
print(json.dumps(counts), flush=True)
os._exit(0)  # pyarrow can abort an exit (https://github.com/apache/arrow/issues/34314)
"""

WITH_DELTA_SPARK = """
import json, sys
from pyspark.sql import SparkSession
spark = (
    SparkSession.builder.master("local[2]")
    .config("spark.ui.enabled", "false")
    .config("spark.jars.packages", "io.delta:delta-spark_2.12:3.3.2")
    .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
    .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
    .getOrCreate()
)
features = spark.read.format("delta").load(f"{sys.argv[1]}/mobilenet_features")
counts = {row["label"]: row["count"] for row in features.groupBy("label").count().collect()}
print(json.dumps({"counts": counts, "length": len(features.first()["features"])}))
"""


@pytest.fixture(scope="module")
def finished(
    spark: SparkSession, sample_photos: Path, extractor: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    store = str(tmp_path_factory.mktemp("readers") / "store")
    run_jobs(spark, sample_photos, store, extractor, CLASSES)
    return store


def test_a_python_with_four_packages_reads_the_tables(finished: str, tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    packages = ["polars", "deltalake", "pyarrow", "pandas"]
    lock = ["--constraint", str(REPOSITORY / "requirements-dev.lock")]
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    subprocess.run(["uv", "pip", "install", "--quiet", "--python", python, *lock, *packages], check=True)
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")
    }
    read = subprocess.run(
        [python, "-c", WITHOUT_THE_PROJECT, finished], env=environment, check=True, capture_output=True
    )
    counts = json.loads(read.stdout)
    assert counts == {
        "raw_images": [COUNTS] * 3,
        "quarantined_images": [{}] * 3,
        "mobilenet_features": [COUNTS] * 3,
    }


def test_delta_lakes_connector_for_spark_reads_a_table(finished: str) -> None:
    read = subprocess.run(
        [sys.executable, "-c", WITH_DELTA_SPARK, finished],
        env={
            **os.environ,
            "JAVA_HOME": str(java_home()),
            "PYSPARK_PYTHON": sys.executable,
            "SPARK_SUBMIT_OPTS": shlex.join(trust_options()),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if re.search("(unresolved dependency|download failed): io.delta#", read.stderr):
        pytest.skip("Delta Lake's jars are not in ~/.ivy2 and cannot be downloaded from Maven Central")
    assert read.returncode == 0, read.stderr
    assert json.loads(read.stdout.splitlines()[-1]) == {"counts": COUNTS, "length": 1280}
