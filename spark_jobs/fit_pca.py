"""The PCA of all classes' features, from one pass over them.

With n feature vectors x of 1280 values, the covariance is (sum of x xT - n m mT) / (n - 1), m their
mean. Each task sums its vectors and their Gram matrix in float64, the sums are added up as a tree, and the
driver takes the eigenvectors of one 1280 x 1280 matrix: what it holds does not grow with the number of
images.
"""

import json
import time
from dataclasses import dataclass
from datetime import timedelta
from functools import partial, reduce
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from spark_jobs.dimensions import FEATURES
from spark_jobs.errors import FruitsError
from spark_jobs.spark_model import write_spark_model
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_MODEL
from spark_jobs.store.tables import (
    Pointer,
    RowGroup,
    combined_version,
    current,
    new_directory,
    publish,
    read_row_groups,
    row_groups,
    rows_in,
    sweep,
)
from spark_jobs.tasks import Reporter, pack, run_tasks, spread

MODEL_JSON = "model.json"

# What a task returns is 13 MB, which costs as much as to sum a thousand vectors: one task a core, and more
# only where a task would take many seconds.
TASK_IMAGES = 32768
SCATTER_CLASSES, SCATTER_POINTS = 60, 600


@dataclass(frozen=True, kw_only=True)
class FitParams:
    """The classes to fit on, and how many components: `components`, or, where `variance` is given
    (0 to 1), as many as reach that share of the variance."""

    store: str
    version: str
    classes: list[str]
    components: int
    variance: float | None
    keep_hours: float


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """The model's figures, and a sample of projected points (pc1, pc2) by class for a plot.

    `fit_seconds` is the fit alone, without saving the model. `explained_variance` is each component's
    share, 0 to 1. `orthonormality_error` is the largest absolute difference of the components' Gram
    matrix from the identity.
    """

    directory: str
    data_version: str
    images: int
    images_by_class: dict[str, int]
    components: int
    explained_variance: list[float]
    orthonormality_error: float
    fit_seconds: float
    scatter: dict[str, list[list[float]]]
    removed_versions: int = 0


class Moments(NamedTuple):
    """Sums over n images' vectors: n, the sum (1280,), and the Gram matrix (1280, 1280), float64."""

    images: int
    total: NDArray[np.float64]
    gram: NDArray[np.float64]


class Decomposition(NamedTuple):
    """Mean (1280,), variances of all 1280 components in falling order, components (1280, k)."""

    mean: NDArray[np.float64]
    variances: NDArray[np.float64]
    components: NDArray[np.float64]


def inputs_version(features: dict[str, Pointer]) -> str:
    """A data version of what a model is fitted on: the current features of every class."""
    return combined_version(*(f"{label}\0{p.data_version}" for label, p in sorted(features.items())))


def fit_pca(spark: SparkSession, params: FitParams, report: Reporter) -> FitReport:
    """Fits on the current features of the given classes, and makes the model current.

    The model is a directory: `spark/`, which `pyspark.ml.feature.PCAModel.load` reads, and
    `model.json` with the mean (1280), the variance of every component, the images and classes.

    Raises `FruitsError` where there are fewer images than the components need.
    """
    store = open_root(params.store)
    features = current(store, MOBILENET_FEATURES, params.classes)
    groups = row_groups(features)
    images = rows_in(groups)
    components = params.components if params.variance is None else 1
    if components > min(images - 1, FEATURES):
        raise FruitsError(
            f"{components} components need at least {components + 1} images (and at most "
            f"{FEATURES} components exist), but there are {images} images in {len(features)} classes. "
            "Materialize mobilenet_features for more classes, or ask for fewer components."
        )
    started = time.monotonic()
    tasks = max(spark.sparkContext.defaultParallelism, images // TASK_IMAGES)
    [moments] = run_tasks(
        spark,
        f"pca_model: fit, {len(features):,} classes",
        partial(_moments, params.store),
        spread(groups, lambda group: group.rows, tasks),
        rows_in,
        report,
        reduce=_add,
    )
    model = decompose(moments, params.components, params.variance)
    fit_seconds = time.monotonic() - started
    shares = model.variances / model.variances.sum()
    k = model.components.shape[1]
    directory = f"{new_directory(PCA_MODEL, params.version)}/model"
    write_spark_model(store, directory, model.components, shares[:k])
    fitted_on = inputs_version(features)
    description = {
        "components": k,
        "images": images,
        "classes": {label: pointer.rows for label, pointer in features.items()},
        "mean": model.mean.tolist(),
        "variances": model.variances.tolist(),
        "explained_variance": shares[:k].tolist(),
        "fitted_on": fitted_on,
    }
    store.write(f"{directory}/{MODEL_JSON}", json.dumps(description, ensure_ascii=False).encode())
    data_version = combined_version(fitted_on, str(k))
    publish(
        store,
        PCA_MODEL,
        [
            Pointer(
                label=None,
                directory=directory,
                data_version=data_version,
                inputs={MOBILENET_FEATURES: fitted_on},
                details={
                    "components": k,
                    "images": images,
                    "classes": len(features),
                    "explained_variance": float(shares[:k].sum()),
                },
            )
        ],
    )
    identity = model.components.T @ model.components - np.eye(k)
    return FitReport(
        directory=directory,
        data_version=data_version,
        images=images,
        images_by_class=description["classes"],
        components=k,
        explained_variance=description["explained_variance"],
        orthonormality_error=float(np.abs(identity).max()),
        fit_seconds=fit_seconds,
        scatter=_scatter(store, features, model.components),
        removed_versions=sweep(store, PCA_MODEL, timedelta(hours=params.keep_hours)),
    )


def moments_of(features: NDArray[np.float32]) -> Moments:
    """The sums over (n, 1280) feature vectors."""
    values = features.astype(np.float64)
    return Moments(len(values), values.sum(axis=0), values.T @ values)


def decompose(moments: Moments, components: int, variance: float | None = None) -> Decomposition:
    """The principal components: `components` of them, or as many as reach the share `variance`.

    The largest entry, by magnitude, of every component is positive, so that the same features give
    the same signs (eigenvectors have none of their own).
    """
    mean = moments.total / moments.images
    covariance = (moments.gram - moments.images * np.outer(mean, mean)) / (moments.images - 1)
    values, vectors = np.linalg.eigh(covariance)
    # Rounding can leave the smallest a little below zero.
    variances = np.maximum(values[::-1], 0)
    if not variances.any():
        raise FruitsError(
            f"all {moments.images} images have the same features, so there are no components: the photos "
            "show nothing that differs"
        )
    if variance is not None:
        reached = np.cumsum(variances) / variances.sum()
        # A share of 1 is never quite reached by a sum of rounded terms.
        components = min(int(np.searchsorted(reached, variance - 1e-12)) + 1, len(variances))
    kept = vectors[:, ::-1][:, :components]
    largest = kept[np.abs(kept).argmax(axis=0), np.arange(kept.shape[1])]
    return Decomposition(mean, variances, kept * np.where(largest < 0, -1.0, 1.0))


def read_features(store: Root, groups: list[RowGroup]) -> NDArray[np.float32]:
    """The feature vectors of some row groups, in order: (n, 1280) float32."""
    return np.concatenate(
        [
            rows.column("features").flatten().to_numpy().reshape(-1, FEATURES)
            for path, of_part in groupby(groups, key=lambda group: group.path)
            for rows in read_row_groups(store, path, [group.number for group in of_part], ["features"])
        ]
    )


def _moments(store_uri: str, groups: list[RowGroup]) -> Moments:
    """One Spark task. A few row groups at a time, so that its memory is bounded."""
    store = open_root(store_uri)
    some = pack(groups, lambda group: group.rows, 1024)
    return reduce(_add, (moments_of(read_features(store, few)) for few in some))


def _add(one: Moments, other: Moments) -> Moments:
    return Moments(one.images + other.images, one.total + other.total, one.gram + other.gram)


def _scatter(
    store: Root, features: dict[str, Pointer], components: NDArray[np.float64]
) -> dict[str, list[list[float]]]:
    """About 600 points of up to 60 classes, evenly taken: (pc1, pc2) by class."""
    labels = list(features)[:: -(-len(features) // SCATTER_CLASSES)]
    points = {}
    for label in labels:
        first = row_groups({label: features[label]})[:1]
        vectors = read_features(store, first)
        vectors = vectors[:: max(1, len(vectors) * len(labels) // SCATTER_POINTS)]
        points[label] = np.round(vectors @ components[:, :2], 3).tolist()
    return points
