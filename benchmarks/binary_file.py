"""The baseline of ingest: Spark's `binaryFile` reads the photos and discards them.

It is the first step of the notebook. It hashes, decodes and writes nothing. Prints one JSON object: the
number of images and the seconds.

    python -m benchmarks.binary_file --photos DIR_OR_S3_PREFIX --cores 2
"""

import json
import time
from argparse import ArgumentParser
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def read_photos(spark: "SparkSession", root: str) -> "DataFrame":
    """All files below a root, read in the same way as in the notebook."""
    return spark.read.format("binaryFile").option("recursiveFileLookup", "true").load(root)


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args()

    from pyspark.sql import Observation
    from pyspark.sql.functions import count, lit

    from resources.local.session import start_session
    from resources.settings import Settings

    settings = Settings(images=arguments.photos, store="/unused", spark_cores=arguments.cores)
    # The JVM does all of the work here, so its compilers stay on.
    spark = start_session(settings, java_options=())
    begun = time.perf_counter()
    seen = Observation()
    photos = read_photos(spark, arguments.photos).observe(seen, count(lit(1)).alias("images"))
    photos.write.format("noop").mode("overwrite").save()
    seconds = time.perf_counter() - begun
    print(json.dumps({"images": seen.get["images"], "ingest": seconds}))


if __name__ == "__main__":
    main()
