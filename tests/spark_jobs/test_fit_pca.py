"""`fit_pca`: the model, compared with scikit-learn and Spark ML, on a local Spark session."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from pyspark.ml.feature import PCA, PCAModel
from pyspark.ml.functions import array_to_vector
from pyspark.sql import SparkSession
from pyspark.sql.functions import col
from sklearn.decomposition import PCA as SklearnPCA

from spark_jobs.errors import FruitsError
from spark_jobs.fit_pca import Moments, decompose, inputs_version, moments_of
from spark_jobs.spark_model import read_components
from spark_jobs.store.pointers import current_one
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import (
    MOBILENET_FEATURES,
    PCA_MODEL,
)
from tests.conftest import CLASSES
from tests.jobs import fit
from tests.spark_jobs.support import Fitted, made_up_features, pointers
from tests.support import current_files, publish_features


def subspace_error(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """The largest difference between the projections onto two subspaces, each with orthonormal columns."""
    return float(np.abs(first @ first.T - second @ second.T).max())


def test_the_pca_equals_the_pca_of_scikit_learn(fitted: Fitted) -> None:
    features = np.concatenate(list(fitted.features.values())).astype(np.float64)
    reference = SklearnPCA(n_components=15, svd_solver="full").fit(features)
    shares = fitted.report.explained_variance
    np.testing.assert_allclose(shares, reference.explained_variance_ratio_, rtol=1e-9)
    np.testing.assert_allclose(fitted.description["variances"][:15], reference.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(fitted.description["mean"], reference.mean_, rtol=1e-9)
    assert subspace_error(fitted.components, reference.components_.T) < 1e-9
    signs = np.sign((fitted.components * reference.components_.T).sum(axis=0))
    np.testing.assert_allclose(fitted.components * signs, reference.components_.T, atol=1e-9)


def test_the_pca_equals_the_pca_of_spark_ml(spark: SparkSession, fitted: Fitted) -> None:
    frame = spark.read.parquet(*current_files(fitted.store, MOBILENET_FEATURES))
    vectors = frame.select(array_to_vector(col("features")).alias("features"))
    reference = PCA(k=15, inputCol="features", outputCol="pca").fit(vectors)
    np.testing.assert_allclose(
        fitted.report.explained_variance, reference.explainedVariance.toArray(), rtol=1e-9
    )
    assert subspace_error(fitted.components, reference.pc.toArray()) < 1e-9


def test_components_are_orthonormal_with_their_largest_entry_positive(fitted: Fitted) -> None:
    np.testing.assert_allclose(fitted.components.T @ fitted.components, np.eye(15), atol=1e-12)
    assert fitted.report.orthonormality_error < 1e-12
    largest = fitted.components[np.abs(fitted.components).argmax(axis=0), np.arange(15)]
    assert (largest > 0).all()


def test_the_model_depends_on_the_features_and_not_on_their_row_groups(
    spark: SparkSession, store: str, fitted: Fitted
) -> None:
    publish_features(store, dict(reversed(fitted.features.items())), group=7)
    again = fit(spark, store)
    np.testing.assert_allclose(read_components(store, again.directory), fitted.components, atol=1e-9)
    assert again.data_version == fitted.report.data_version
    features = pointers(store, MOBILENET_FEATURES)
    publish_features(store, {"Kiwi": fitted.features["Kiwi"][1:]})
    others = [{label: features[label] for label in CLASSES[:2]}, pointers(store, MOBILENET_FEATURES)]
    assert inputs_version(features) == fitted.description["fitted_on"]
    assert all(inputs_version(other) != fitted.description["fitted_on"] for other in others)


def test_spark_ml_loads_the_model(spark: SparkSession, fitted: Fitted) -> None:
    model = PCAModel.load(str(Path(fitted.store) / fitted.report.directory / "spark"))
    assert np.array_equal(model.pc.toArray(), fitted.components)
    assert list(model.explainedVariance.toArray()) == fitted.report.explained_variance
    assert (model.getK(), model.getInputCol()) == (15, "features")


def test_the_model_files_equal_those_that_spark_ml_writes(fitted: Fitted, tmp_path: Path) -> None:
    ours = Path(fitted.store) / fitted.report.directory / "spark"
    PCAModel.load(str(ours)).write().save(str(tmp_path / "model"))

    def data(model: Path) -> pa.Table:
        [file] = model.glob("data/part-*.parquet")
        return pq.read_table(file)

    def parameters(model: Path) -> dict[str, Any]:
        [line] = (model / "metadata/part-00000").read_text().splitlines()
        # PySpark adds its own default parameter to a model that it loads.
        return {**json.loads(line), "timestamp": None, "defaultParamMap": None}

    assert data(ours).equals(data(tmp_path / "model"))
    row_types = b"org.apache.spark.sql.parquet.row.metadata"
    [our_types, its_types] = [
        json.loads(data(model).schema.metadata[row_types]) for model in (ours, tmp_path / "model")
    ]
    assert our_types == its_types
    assert parameters(ours) == parameters(tmp_path / "model")


def test_model_json_describes_the_model(fitted: Fitted) -> None:
    description = fitted.description
    assert description.keys() == {
        "components",
        "images",
        "classes",
        "mean",
        "variances",
        "explained_variance",
        "fitted_on",
        "versions",
    }
    assert (description["components"], description["images"]) == (15, 300)
    assert description["classes"] == dict.fromkeys(CLASSES, 100)
    assert [len(description[name]) for name in ("mean", "variances", "explained_variance")] == [
        1280,
        1280,
        15,
    ]
    variances = np.array(description["variances"])
    assert (np.diff(variances) <= 0).all()
    np.testing.assert_allclose(variances[:15] / variances.sum(), description["explained_variance"])


def test_the_pointer_holds_a_summary_of_the_model(fitted: Fitted) -> None:
    pointer = current_one(open_root(fitted.store), PCA_MODEL)
    assert pointer is not None
    assert pointer.details == {
        "components": 15,
        "images": 300,
        "classes": 3,
        "explained_variance": pytest.approx(sum(fitted.report.explained_variance)),
    }


def test_the_scatter_holds_projected_points_of_every_class(fitted: Fitted) -> None:
    assert list(fitted.report.scatter) == CLASSES
    for label, points in fitted.report.scatter.items():
        projected = fitted.features[label].astype(np.float64) @ fitted.components[:, :2]
        assert points
        assert {tuple(point) for point in points} <= {tuple(point) for point in projected.round(3)}


@pytest.fixture(scope="module")
def moments() -> Moments:
    return moments_of(np.concatenate(list(made_up_features().values())))


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.999, 1.0])
def test_a_share_of_the_variance_keeps_the_fewest_components_that_reach_it(
    moments: Moments, share: float
) -> None:
    model = decompose(moments, components=15, variance=share)
    reached = np.cumsum(model.variances) / model.variances.sum()
    kept = model.components.shape[1]
    assert reached[kept - 1] >= share - 1e-9
    assert kept == 1 or reached[kept - 2] < share


def test_a_share_of_the_variance_determines_the_number_of_components(spark: SparkSession, store: str) -> None:
    publish_features(store, made_up_features(images=4))
    report = fit(spark, store, components=15, variance=0.5)  # 15 components need 16 images
    assert report.components < 12
    assert sum(report.explained_variance[:-1]) < 0.5 <= sum(report.explained_variance)


@pytest.mark.parametrize(("images", "components"), [(5, 15), (0, 1)])
def test_too_few_images_are_refused_with_the_remedy(
    spark: SparkSession, store: str, images: int, components: int
) -> None:
    publish_features(store, made_up_features(images=images) if images else {})
    sentence = (
        rf"{components + 1} images.*number of images is {3 * images} in .* classes. Materialize.*or ask"
    )
    with pytest.raises(FruitsError, match=sentence):
        fit(spark, store, components)
    assert current_one(open_root(store), PCA_MODEL) is None
