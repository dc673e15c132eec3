"""Writes and reads a PCA model in the file format of Spark ML, without a Spark session.

`pyspark.ml.feature.PCAModel.load` reads the files. Saving the model by Spark would be the first SQL of the
session, which takes the JVM 3 s: twice as long as the fit on 5,928 images.
"""

import json
import time
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from spark_jobs.errors import FruitsError
from spark_jobs.store.parquet import read_row_groups
from spark_jobs.store.root import Root, open_root

SPARK_MODEL = "spark"  # the folder of these files in the directory of a model


def write_spark_model(
    store: Root, model_directory: str, components: NDArray[np.float64], shares: NDArray[np.float64]
) -> None:
    """Saves the components (1280, k) and the share of the variance (k,) of each component.

    The files are those of Spark 3.5. `metadata/` holds the parameters as one line of JSON
    (DefaultParamsWriter). `data/` holds one Parquet row with a matrix, stored by columns, and a vector
    (PCAModelWriter). Spark reads their types from the metadata of the Parquet file.
    """
    import pyspark
    from pyspark.ml.linalg import DenseMatrix, DenseVector, MatrixUDT, VectorUDT
    from pyspark.sql.pandas.types import to_arrow_schema
    from pyspark.sql.types import StructField, StructType

    rows, k = components.shape
    schema = StructType([StructField("pc", MatrixUDT()), StructField("explainedVariance", VectorUDT())])
    matrix = MatrixUDT().serialize(DenseMatrix(rows, k, components.ravel(order="F")))
    vector = VectorUDT().serialize(DenseVector(shares))
    arrow = to_arrow_schema(schema)
    values = [
        pa.array([dict(zip((inner.name for inner in field.type), value, strict=True))], field.type)
        for field, value in zip(arrow, (matrix, vector), strict=True)
    ]
    types = {"org.apache.spark.sql.parquet.row.metadata": schema.json()}
    sink = pa.BufferOutputStream()
    table = pa.table(values, schema=arrow.with_metadata(types))
    pq.write_table(table, sink, write_page_checksum=True)
    parameters = {
        "class": "org.apache.spark.ml.feature.PCAModel",
        "timestamp": int(time.time() * 1000),
        "sparkVersion": pyspark.__version__,
        "uid": "pca",
        "paramMap": {"k": k, "inputCol": "features", "outputCol": "pca_features"},
        "defaultParamMap": {"outputCol": "pca__output"},
    }
    directory = f"{model_directory}/{SPARK_MODEL}"
    store.write(f"{directory}/data/part-00000.parquet", sink.getvalue().to_pybytes())
    store.write(f"{directory}/metadata/part-00000", json.dumps(parameters).encode())


@lru_cache(maxsize=1)
def read_components(store_uri: str, model_directory: str) -> NDArray[np.float64]:
    """The components of a saved model: (1280, k) float64. The last model is cached per process.

    Raises `FruitsError` where a file of the model is missing or damaged.
    """
    store = open_root(store_uri)
    directory = f"{model_directory}/{SPARK_MODEL}/data"
    paths = [info.path for info in store.list(directory) if info.path.endswith(".parquet")]
    if not paths:
        raise FruitsError(f"{store.uri_of(directory)} has no file of the model. Materialize pca_model again.")
    try:
        [rows] = read_row_groups(store, paths[0], [0], ["pc"])
    except FruitsError as error:
        raise FruitsError(f"{error}. Materialize pca_model again.") from error
    matrix = rows.column("pc")[0].as_py()
    values = np.array(matrix["values"], np.float64)
    shape = matrix["numRows"], matrix["numCols"]
    return values.reshape(shape) if matrix["isTransposed"] else values.reshape(shape[::-1]).T
