"""A whole run on 5,928 photos of 60 fruits, compared with Keras, scikit-learn and Spark ML.

The photos are in a folder beside the repository on the developers' machines; the platform does not need them.
"""

import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from pyspark.ml.feature import PCA, PCAModel
from pyspark.ml.functions import array_to_vector
from pyspark.sql import SparkSession

from spark_jobs.dimensions import FEATURES
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_FEATURES_CSV
from tests.shell import Shell
from tests.support import current_files

SHARED = Path(__file__).parents[2] / "shared"
PHOTOS = SHARED / "data" / "fruits-360-5928.tar.gz"
WEIGHTS = SHARED / "weights" / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"

pytestmark = pytest.mark.skipif(
    not (PHOTOS.exists() and WEIGHTS.exists()), reason=f"The real photos and weights are not in {SHARED}."
)


class Finished(NamedTuple):
    """A finished `fruits run`: its shell, its output, and the features of every image by path."""

    shell: Shell
    output: str
    features: pd.Series

    def matrix(self) -> NDArray[np.float64]:
        """All features, (5928, 1280)."""
        return np.stack(self.features.to_list()).astype(np.float64)

    def spark_model(self) -> str:
        """The path of the fitted `PCAModel`."""
        model = self.shell.model()
        assert model
        return f"{self.shell.store}/{model.directory}/spark"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("real")
    shell = Shell(folder)
    shell.environment["FRUITS_WEIGHTS"] = str(WEIGHTS)
    with tarfile.open(PHOTOS) as archive:
        archive.extractall(shell.photos, filter="data")
    output = shell.run("fruits", "run")
    tables = [pd.read_parquet(file) for file in current_files(str(shell.store), MOBILENET_FEATURES)]
    return Finished(shell, output, pd.concat(tables).set_index("path")["features"].sort_index())


def test_every_photo_has_a_row_in_the_csv_of_its_class(finished: Finished) -> None:
    rows = []
    for folder in finished.shell.photos.iterdir():
        class_rows = pd.read_csv(finished.shell.store / PCA_FEATURES_CSV / f"{folder.name}.csv")
        assert class_rows["path"].to_list() == sorted(
            f"{folder.name}/{photo.name}" for photo in folder.iterdir()
        )
        assert set(class_rows["label"]) == {folder.name}
        rows.append(class_rows)
    assert len(rows) == 60
    assert sum(map(len, rows)) == 5928
    assert not any(class_rows.isna().any().any() for class_rows in rows)
    assert "5,928 rows in 60 files" in finished.output


def test_features_equal_the_features_of_keras(finished: Finished) -> None:
    import keras

    chosen = finished.features.iloc[:: len(finished.features) // 63][:64]
    inputs = np.stack(
        [
            np.asarray(
                Image.open(finished.shell.photos / path)
                .convert("RGB")
                .resize((224, 224), Image.Resampling.BICUBIC),
                np.float32,
            )
            for path in chosen.index
        ]
    )
    model = keras.applications.MobileNetV2(
        include_top=False, weights=str(WEIGHTS), input_shape=(224, 224, 3), pooling="avg"
    )
    expected = model.predict(keras.applications.mobilenet_v2.preprocess_input(inputs), verbose=0)
    assert expected.shape == (64, FEATURES)
    assert np.abs(np.stack(chosen.to_list()) - expected).max() < 1e-4


def test_the_components_equal_the_components_of_scikit_learn(spark: SparkSession, finished: Finished) -> None:
    from sklearn.decomposition import PCA as SklearnPCA

    model = PCAModel.load(finished.spark_model())
    expected = SklearnPCA(15, svd_solver="full").fit(finished.matrix())
    assert_same_components(model.pc.toArray(), expected.components_.T)
    assert np.allclose(model.explainedVariance, expected.explained_variance_ratio_, atol=1e-6)
    # The explained variance of 15 components of Keras's features of these photos with these weights.
    assert sum(model.explainedVariance) == pytest.approx(0.563, abs=0.002)


def test_the_components_equal_the_components_of_spark_ml(spark: SparkSession, finished: Finished) -> None:
    features = spark.read.parquet(*current_files(str(finished.shell.store), MOBILENET_FEATURES))
    vectors = features.select(array_to_vector(features.features).alias("features"))
    expected = PCA(k=15, inputCol="features", outputCol="components").fit(vectors)
    model = PCAModel.load(finished.spark_model())
    assert_same_components(model.pc.toArray(), expected.pc.toArray())
    assert np.allclose(model.explainedVariance, expected.explainedVariance, atol=1e-6)


def test_a_csv_has_the_projection_of_the_features_by_the_model(
    spark: SparkSession, finished: Finished
) -> None:
    components = PCAModel.load(finished.spark_model()).pc.toArray()
    rows = pd.read_csv(finished.shell.store / PCA_FEATURES_CSV / "Apple Braeburn.csv")
    projected = np.stack(finished.features[rows["path"]].to_list()).astype(np.float64) @ components
    assert np.allclose(rows[[f"pc{number}" for number in range(1, 16)]], projected, atol=1e-9)


def assert_same_components(found: NDArray[np.float64], expected: NDArray[np.float64]) -> None:
    """Compares two matrices of components, (1280, k), up to the sign of each component."""
    assert found.shape == expected.shape
    signs = np.sign((found * expected).sum(axis=0))
    assert np.abs(found - expected * signs).max() < 1e-6
