"""The way of the notebook that this platform replaces, as the peer to measure against.

`binaryFile`, Keras weights broadcast to a SCALAR_ITER pandas UDF that calls `model.predict`, Parquet,
`pyspark.ml`'s PCA, CSV. With `--udf predict_batch` the better peer: the same model in Spark's own
`predict_batch_udf`, which builds it once a worker. Prints one JSON object: seconds of each stage; features
are all from `binaryFile` to Parquet, in one job.

    python -m benchmarks.notebook_way --photos DIR --weights embedded --out DIR --cores 2
"""

import io
import json
import os
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras

STARTED = time.perf_counter()


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    for name in ("photos", "weights", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--udf", choices=("pandas", "predict_batch"), default="pandas")
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["PYSPARK_PYTHON"] = sys.executable

    import pandas as pd
    from pyspark.ml.feature import PCA
    from pyspark.ml.functions import array_to_vector, predict_batch_udf, vector_to_array
    from pyspark.sql import SparkSession
    from pyspark.sql.functions import col, element_at, pandas_udf, split
    from pyspark.sql.types import ArrayType, FloatType

    from benchmarks.binary_file import read_photos
    from fruits_assets.model.convert import load_model
    from fruits_assets.model.weights import find_weights
    from resources.local.java import java_home

    os.environ["JAVA_HOME"] = str(java_home())
    spark = (
        SparkSession.builder.master(f"local[{arguments.cores}]")
        .config("spark.driver.memory", "4g")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.parquet.writeLegacyFormat", "true")
        .getOrCreate()
    )
    model = load_model(find_weights(arguments.weights))
    weights = spark.sparkContext.broadcast(model.get_weights())
    ready = time.perf_counter()

    images = (
        read_photos(spark, arguments.photos)
        .withColumn("label", element_at(split(col("path"), "/"), -2))
        .repartition(24)
    )

    def preprocess(content: bytes) -> "keras.KerasTensor":
        import keras
        import numpy as np
        from PIL import Image

        image = Image.open(io.BytesIO(content)).convert("RGB")
        pixels = np.asarray(image.resize((224, 224)), np.float32)
        return keras.applications.mobilenet_v2.preprocess_input(pixels)

    def broadcast_model() -> "keras.Model":
        import keras

        extractor = keras.applications.MobileNetV2(
            include_top=False, weights=None, input_shape=(224, 224, 3), pooling="avg"
        )
        extractor.set_weights(weights.value)
        return extractor

    @pandas_udf("array<float>")  # type: ignore[call-overload, untyped-decorator]
    def featurize_in_pandas(batches: Iterator[pd.Series]) -> Iterator[pd.Series]:
        import numpy as np

        extractor = broadcast_model()
        for contents in batches:
            inputs = np.stack([preprocess(content) for content in contents])
            yield pd.Series(list(extractor.predict(inputs, verbose=0)))

    def make_predict():  # type: ignore[no-untyped-def]
        import numpy as np

        extractor = broadcast_model()

        def predict(contents):  # type: ignore[no-untyped-def]
            inputs = np.stack([preprocess(content) for content in contents])
            return extractor.predict_on_batch(inputs)

        return predict

    featurize = {
        "pandas": featurize_in_pandas,
        "predict_batch": predict_batch_udf(make_predict, return_type=ArrayType(FloatType()), batch_size=64),
    }[arguments.udf]
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "1024")
    features_path = str(Path(arguments.out) / "features")
    features = images.select("path", "label", featurize("content").alias("features"))
    features.write.mode("overwrite").parquet(features_path)
    extracted = time.perf_counter()

    vectors = spark.read.parquet(features_path).withColumn("vector", array_to_vector(col("features")))
    pca = PCA(k=15, inputCol="vector", outputCol="components").fit(vectors)
    fitted = time.perf_counter()

    projected = pca.transform(vectors).withColumn("values", vector_to_array(col("components")))
    columns = [col("values")[number].alias(f"pc{number + 1}") for number in range(15)]
    csv_path = str(Path(arguments.out) / "csv")
    projected.select("path", "label", *columns).write.mode("overwrite").csv(csv_path, header=True)
    done = time.perf_counter()
    print(
        json.dumps(
            {
                "images": vectors.count(),
                "start": ready - STARTED,
                "features": extracted - ready,
                "read_features": extracted - ready,
                "pca_fit": fitted - extracted,
                "csv": done - fitted,
                "whole": done - STARTED,
                "explained_variance": float(sum(pca.explainedVariance)),
            }
        )
    )


if __name__ == "__main__":
    main()
