"""Fits the PCA on the features of all classes, in one pass over them.

The covariance of n feature vectors x, with 1280 values each and the mean m, is
(sum of x xT - n m mT) / (n - 1). Each task sums its vectors and their Gram matrix in float64. Spark adds
these sums as a tree. The driver computes the eigenvectors of one 1280 x 1280 matrix, so its memory does not
grow with the number of images.
"""

import io
import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial, reduce
from itertools import groupby
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from spark_jobs.convert_store import prepared_store
from spark_jobs.dimensions import FEATURES
from spark_jobs.errors import FruitsError
from spark_jobs.spark_model import write_spark_model
from spark_jobs.store.leases import Lease
from spark_jobs.store.parquet import RowGroup, read_row_groups, row_groups, rows_in, vectors_in
from spark_jobs.store.pointers import new_directory, publish
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_MODEL
from spark_jobs.store.sweep import sweep_versions
from spark_jobs.store.tables import current
from spark_jobs.store.versions import Version, combined_version
from spark_jobs.tasks import Reporter, pack, run_tasks, spread
from spark_jobs.wording import counted

MODEL_JSON, MODEL_CONTENTS = "model.json", "contents.npy"

# Each core gets one task, and a second one only if a task has more images than this: a task returns 13 MB,
# which takes as long as to sum a thousand vectors.
TASK_IMAGES = 32768
# Vectors that a task holds in memory at once.
BATCH_IMAGES = 1024
SCATTER_CLASSES, SCATTER_POINTS = 60, 600


@dataclass(frozen=True, kw_only=True)
class FitParams:
    """Parameters of the fit over all classes of the store: the number of components.

    If `variance` (0 to 1) is set, the model keeps the fewest components that reach this share of the
    variance, and `components` is ignored.
    """

    store: str
    version: str
    components: int
    variance: float | None
    keep_hours: float


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """The figures of the model, and a sample of projected points (pc1, pc2) by class for a plot.

    `fit_seconds` is the duration of the fit without the time to save the model. `explained_variance` is the
    share of each component, 0 to 1. `orthonormality_error` is the largest absolute difference between the
    Gram matrix of the components and the identity.
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


class Partial(NamedTuple):
    """The sums over n images, and a number for the content of each (n,), uint64."""

    moments: "Moments"
    contents: NDArray[np.uint64]


class Moments(NamedTuple):
    """Sums over the vectors of n images: n, the sum (1280,) and the Gram matrix (1280, 1280), float64."""

    images: int
    total: NDArray[np.float64]
    gram: NDArray[np.float64]


class Decomposition(NamedTuple):
    """Mean (1280,), variances of all 1280 components in falling order, and k components (1280, k)."""

    mean: NDArray[np.float64]
    variances: NDArray[np.float64]
    components: NDArray[np.float64]

    @property
    def explained_variance(self) -> NDArray[np.float64]:
        """The share of the variance, 0 to 1, of each of the k components: (k,)."""
        shares: NDArray[np.float64] = self.variances / self.variances.sum()
        return shares[: self.components.shape[1]]


def inputs_version(features: Mapping[str, Version]) -> str:
    """A data version of the input of a fit: the current features of every class."""
    return combined_version(
        *(f"{label}\0{version.data_version}" for label, version in sorted(features.items()))
    )


def fit_pca(spark: SparkSession, params: FitParams, report: Reporter) -> FitReport:
    """Fits on the current features of all classes of the store, and makes the model current.

    The model is a directory. `spark/` is read by `pyspark.ml.feature.PCAModel.load`. `model.json` holds the
    mean (1280 values), the variance of every component, and the number of images and the data version of
    every class. `contents.npy` tells images that come later from those that the model was fitted on.

    Raises `FruitsError` if there are too few images for the components, or if a file is missing or damaged.
    """
    with prepared_store(spark, params.store, params.version, report) as (store, lease):
        features = current(store, MOBILENET_FEATURES)
        for label, version in features.items():
            if version.damage:
                raise FruitsError(f"The class {label}: {version.damage}.")
        groups = row_groups(features)
        images = rows_in(groups)
        components = params.components if params.variance is None else 1
        if components > min(images - 1, FEATURES):
            raise FruitsError(
                f"{counted(components, 'component needs', 'components need')} at least {components + 1:,} "
                f"images (and at most {FEATURES:,} components exist), but the number of images is {images:,} "
                f"in {counted(len(features), 'class', 'classes')}. Materialize mobilenet_features for more "
                "classes, or ask for fewer components."
            )
        started = time.monotonic()
        tasks = max(spark.sparkContext.defaultParallelism, images // TASK_IMAGES)
        [(moments, contents)] = run_tasks(
            spark,
            f"pca_model: fit, {counted(len(features), 'class', 'classes')}",
            partial(_partial, params.store),
            work=spread(groups, lambda group: group.rows, tasks),
            images=rows_in,
            report=report,
            reduce=_joined,
        )
        model = decompose(moments, params.components, params.variance)
        fit_seconds = time.monotonic() - started
        saved = _save(store, lease, model, features, contents)
        scatter = _scatter(store, features, model.components)
        sweep_versions(store, PCA_MODEL, timedelta(hours=params.keep_hours), lease)
    identity = model.components.T @ model.components - np.eye(model.components.shape[1])
    return FitReport(
        directory=saved.directory,
        data_version=saved.data_version,
        images=images,
        images_by_class={label: version.rows for label, version in features.items()},
        components=model.components.shape[1],
        explained_variance=model.explained_variance.tolist(),
        orthonormality_error=float(np.abs(identity).max()),
        fit_seconds=fit_seconds,
        scatter=scatter,
    )


def _save(
    store: Root,
    lease: Lease,
    model: Decomposition,
    features: dict[str, Version],
    contents: NDArray[np.uint64],
) -> Version:
    """Writes the files of the model, and makes it current."""
    directory = f"{new_directory(PCA_MODEL, lease.run)}/model"
    shares = model.explained_variance
    write_spark_model(store, directory, model.components, shares)
    fitted_on = inputs_version(features)
    images_by_class = {label: version.rows for label, version in features.items()}
    summary = {"components": len(shares), "images": sum(images_by_class.values())}
    description = {
        **summary,
        "classes": images_by_class,
        "versions": {label: version.data_version for label, version in features.items()},
        "mean": model.mean.tolist(),
        "variances": model.variances.tolist(),
        "explained_variance": shares.tolist(),
        "fitted_on": fitted_on,
    }
    store.write(f"{directory}/{MODEL_JSON}", json.dumps(description, ensure_ascii=False).encode())
    store.write(f"{directory}/{MODEL_CONTENTS}", _saved(np.sort(contents)))
    saved = Version(
        label=None,
        directory=directory,
        data_version=combined_version(fitted_on, str(len(shares))),
        inputs={MOBILENET_FEATURES: fitted_on},
        details={**summary, "classes": len(features), "explained_variance": float(shares.sum())},
    )
    publish(store, PCA_MODEL, [saved])
    return saved


def _saved(numbers: NDArray[np.uint64]) -> bytes:
    """The bytes of an `.npy` file."""
    file = io.BytesIO()
    np.save(file, numbers)
    return file.getvalue()


def moments_of(features: NDArray[np.float32]) -> Moments:
    """The sums over n feature vectors (n, 1280)."""
    values = features.astype(np.float64)
    return Moments(len(values), values.sum(axis=0), values.T @ values)


def decompose(moments: Moments, components: int, variance: float | None = None) -> Decomposition:
    """The first `components` principal components, or the fewest that reach the share `variance` (0 to 1).

    An eigenvector may have either sign. Here the entry of each component with the largest magnitude is
    positive, so the same features give the same signs.

    Raises `FruitsError` if all features are the same.
    """
    mean = moments.total / moments.images
    covariance = (moments.gram - moments.images * np.outer(mean, mean)) / (moments.images - 1)
    values, vectors = np.linalg.eigh(covariance)
    # Rounding can make the smallest variances slightly negative.
    variances = np.maximum(values[::-1], 0)
    if not variances.any():
        raise FruitsError(
            f"All {moments.images} images have the same features, so there are no principal components. Add "
            "photos that differ from each other."
        )
    if variance is not None:
        reached = np.cumsum(variances) / variances.sum()
        # A sum of rounded terms can end slightly below a share of 1.
        components = min(int(np.searchsorted(reached, variance - 1e-12)) + 1, len(variances))
    kept = vectors[:, ::-1][:, :components]
    largest = kept[np.abs(kept).argmax(axis=0), np.arange(kept.shape[1])]
    return Decomposition(mean, variances, kept * np.where(largest < 0, -1.0, 1.0))


def read_features(store: Root, groups: list[RowGroup]) -> NDArray[np.float32]:
    """The feature vectors of the given row groups, in order: (n, 1280) float32."""
    return np.concatenate([vectors_in(rows) for rows in _read(store, groups, ["features"])])


def _read(store: Root, groups: list[RowGroup], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for path, part_groups in groupby(groups, key=lambda group: group.path):
        yield from read_row_groups(store, path, [group.number for group in part_groups], columns)


def contents_of(hashes: Sequence[str]) -> NDArray[np.uint64]:
    """A number for each SHA-256: its first 64 bits. (n,) for n hashes."""
    return np.array([int(sha256[:16], 16) for sha256 in hashes], np.uint64)


def blank_contents(store: Root, hashes: Collection[str]) -> int:
    """Puts 0 in the place of the numbers of these contents in all models; returns how many there were.

    The numbers of the other images, and so their count, stay as they are.
    """
    wanted, blanked = contents_of(list(hashes)), 0
    for info in store.list(PCA_MODEL):
        if info.path.endswith(f"/{MODEL_CONTENTS}"):
            with suppress(FileNotFoundError, ValueError):  # removed meanwhile, or damaged
                contents = np.load(io.BytesIO(store.read(info.path)), allow_pickle=False)
                found = np.isin(contents, wanted)
                if found.any():
                    store.write(info.path, _saved(np.where(found, np.uint64(0), contents)))
                    blanked += int(np.count_nonzero(found))
    return blanked


def _partial(store_uri: str, groups: list[RowGroup]) -> Partial:
    """One Spark task. It reads the row groups in batches, which limits its memory."""
    store = open_root(store_uri)
    batches = pack(groups, lambda group: group.rows, BATCH_IMAGES)
    return reduce(_joined, (_partial_of(store, batch) for batch in batches))


def _partial_of(store: Root, groups: list[RowGroup]) -> Partial:
    batches = list(_read(store, groups, ["sha256", "features"]))
    features = np.concatenate([vectors_in(rows) for rows in batches])
    hashes = [sha256 for rows in batches for sha256 in rows.column("sha256").to_pylist()]
    return Partial(moments_of(features), contents_of(hashes))


def _joined(first: Partial, second: Partial) -> Partial:
    contents = np.concatenate([first.contents, second.contents])
    return Partial(_add(first.moments, second.moments), contents)


def _add(first: Moments, second: Moments) -> Moments:
    return Moments(first.images + second.images, first.total + second.total, first.gram + second.gram)


def _scatter(
    store: Root, features: dict[str, Version], components: NDArray[np.float64]
) -> dict[str, list[list[float]]]:
    """About 600 points (pc1, pc2) by class, of at most 60 classes, both taken at even intervals."""
    labels = list(features)[:: -(-len(features) // SCATTER_CLASSES)]
    points = {}
    for label in labels:
        first = row_groups({label: features[label]})[:1]
        vectors = read_features(store, first)
        vectors = vectors[:: max(1, len(vectors) * len(labels) // SCATTER_POINTS)]
        points[label] = np.round(vectors @ components[:, :2], 3).tolist()
    return points
