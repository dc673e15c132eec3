"""The notebook baseline: the steps of the notebook that this platform replaces.

Reads with `binaryFile`, broadcasts the Keras weights to a SCALAR_ITER pandas UDF that calls `model.predict`,
and writes Parquet. Then fits the PCA of `pyspark.ml`, and writes CSV. `--udf predict_batch` runs the same
model in Spark's `predict_batch_udf`, which builds the model once for each worker and is faster.

Prints one JSON object: the seconds of each stage. One Spark job does everything from `binaryFile` to
Parquet; its time is the time of `features`.

    python -m benchmarks.notebook_baseline --photos DIR --weights embedded --out DIR --cores 2
"""

# ruff: noqa: E402
import time

# Before the other imports: their time is part of the start-up.
STARTED = time.perf_counter()

import io
import json
import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark import Broadcast
from pyspark.ml.feature import PCA
from pyspark.ml.functions import array_to_vector, predict_batch_udf, vector_to_array
from pyspark.sql import SparkSession
from pyspark.sql.functions import col, element_at, pandas_udf, split
from pyspark.sql.types import ArrayType, FloatType

from benchmarks.binary_file import read_photos
from fruits_assets.model.convert import load_model
from fruits_assets.model.weights import find_weights
from resources.local.java import java_home

if TYPE_CHECKING:
    import keras

COMPONENTS = 15


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    for name in ("photos", "weights", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--udf", choices=("pandas", "predict_batch"), default="pandas")
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args()
    # Before Spark starts and TensorFlow is imported: both the driver and Spark's workers read it.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    spark = start_spark(arguments.cores)
    model = load_model(find_weights(arguments.weights))
    weights = spark.sparkContext.broadcast(model.get_weights())
    ready = time.perf_counter()

    images = (
        read_photos(spark, arguments.photos)
        .withColumn("label", element_at(split(col("path"), "/"), -2))
        .repartition(24)
    )
    featurize = (pandas_featurizer if arguments.udf == "pandas" else predict_batch_featurizer)(weights)
    features_path = str(Path(arguments.out) / "features")
    features = images.select("path", "label", featurize("content").alias("features"))
    features.write.mode("overwrite").parquet(features_path)
    extracted = time.perf_counter()

    vectors = spark.read.parquet(features_path).withColumn("vector", array_to_vector(col("features")))
    pca = PCA(k=COMPONENTS, inputCol="vector", outputCol="components").fit(vectors)
    fitted = time.perf_counter()

    projected = pca.transform(vectors).withColumn("values", vector_to_array(col("components")))
    columns = [col("values")[number].alias(f"pc{number + 1}") for number in range(COMPONENTS)]
    csv_path = str(Path(arguments.out) / "csv")
    projected.select("path", "label", *columns).write.mode("overwrite").csv(csv_path, header=True)
    done = time.perf_counter()
    figures = {
        "images": vectors.count(),
        "start": ready - STARTED,
        "features": extracted - ready,
        "read_features": extracted - ready,
        "pca_fit": fitted - extracted,
        "csv": done - fitted,
        "whole": done - STARTED,
        "explained_variance": float(sum(pca.explainedVariance)),
    }
    print(json.dumps(figures))


def start_spark(cores: int) -> SparkSession:
    """A Spark session with the notebook's settings."""
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["JAVA_HOME"] = str(java_home())
    return (
        SparkSession.builder.master(f"local[{cores}]")
        .config("spark.driver.memory", "4g")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.parquet.writeLegacyFormat", "true")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", "1024")
        .getOrCreate()
    )


def pandas_featurizer(weights: Broadcast[Any]) -> Any:
    """The notebook's UDF: from a column of photos to a column of features, arrays of 1280 floats."""

    @pandas_udf("array<float>")  # type: ignore[call-overload, untyped-decorator]
    def featurize(batches: Iterator[pd.Series]) -> Iterator[pd.Series]:
        extractor = build_model(weights)
        for contents in batches:
            yield pd.Series(list(extractor.predict(model_inputs(contents), verbose=0)))

    return featurize


def predict_batch_featurizer(weights: Broadcast[Any]) -> Callable[..., Any]:
    """The same function as `pandas_featurizer`, as a `predict_batch_udf`."""

    def make_predict() -> Callable[[NDArray[Any]], NDArray[np.float32]]:
        extractor = build_model(weights)
        return lambda contents: extractor.predict_on_batch(model_inputs(contents))

    return predict_batch_udf(make_predict, return_type=ArrayType(FloatType()), batch_size=64)


def build_model(weights: Broadcast[Any]) -> "keras.Model":
    """MobileNetV2 without its top, with the broadcast weights."""
    import keras

    extractor = keras.applications.MobileNetV2(
        include_top=False, weights=None, input_shape=(224, 224, 3), pooling="avg"
    )
    extractor.set_weights(weights.value)
    return extractor


def model_inputs(contents: Any) -> NDArray[np.float32]:
    """The preprocessed pixels of n photos, (n, 224, 224, 3) float32."""
    import keras
    from PIL import Image

    images = (Image.open(io.BytesIO(content)).convert("RGB").resize((224, 224)) for content in contents)
    preprocess = keras.applications.mobilenet_v2.preprocess_input
    return np.stack([preprocess(np.asarray(image, np.float32)) for image in images])


if __name__ == "__main__":
    main()
