"""Spark's `binaryFile` reading the photos and throwing them away: the peer of ingestion.

It is the least that the notebook does with each photo: nothing is hashed, decoded or written.

    python -m benchmarks.binary_file --photos DIR_OR_S3_PREFIX --cores 2
"""

import json
import os
import sys
import time
from argparse import ArgumentParser


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args()

    from pyspark.sql import SparkSession

    from resources.java import java_home
    from resources.local_spark import QUICK_JVM, local_spark_config
    from resources.settings import Settings

    os.environ |= {"JAVA_HOME": str(java_home()), "PYSPARK_PYTHON": sys.executable}
    settings = Settings(images=arguments.photos, store="/unused", spark_cores=arguments.cores)
    config = local_spark_config(settings)
    # The JVM does all of this work, so it may compile as it likes.
    config["spark.driver.extraJavaOptions"] = config["spark.driver.extraJavaOptions"].replace(QUICK_JVM, "")
    spark = SparkSession.builder.config(map=config).getOrCreate()
    begun = time.perf_counter()
    photos = (
        spark.read.format("binaryFile")
        .option("pathGlobFilter", "*.jpg")
        .option("recursiveFileLookup", "true")
        .load(arguments.photos)
    )
    photos.write.format("noop").mode("overwrite").save()
    print(json.dumps({"ingest": time.perf_counter() - begun}))


if __name__ == "__main__":
    main()
