"""Images that came after the PCA model was fitted, and how well the model describes them."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spark_jobs.dimensions import FEATURES
from spark_jobs.errors import FruitsError
from spark_jobs.feature_plan import FEATURE_COLUMNS
from spark_jobs.fit_pca import MODEL_CONTENTS, MODEL_JSON, contents_of, inputs_version
from spark_jobs.spark_model import read_components
from spark_jobs.store.parquet import read_columns, vectors_at
from spark_jobs.store.root import Root, concurrently
from spark_jobs.store.schemas import MOBILENET_FEATURES
from spark_jobs.store.tables import current
from spark_jobs.store.versions import Part, Version
from spark_jobs.wording import counted

# The variance is that of a sample of at most this many new images, taken at even intervals.
SAMPLE_IMAGES = 2048

_REFIT = "To fit a new one: fruits run --refit"


@dataclass(frozen=True, kw_only=True)
class SinceFit:
    """The images and classes that came since a fit, by their content, and the images that are gone.

    `kept_variance` is the share (0 to 1) of the variance of the new images, about the mean of the model, that
    its components keep; None without new images. `kept_at_fit` is that of the images that it was fitted on.
    An older release's model does not say its images: all are None then.
    """

    new_images: int | None
    new_classes: int | None
    gone_images: int | None
    kept_variance: float | None
    kept_at_fit: float

    @property
    def is_current(self) -> bool:
        """Whether the model was fitted on the current images."""
        return self.new_images == self.gone_images == self.new_classes == 0

    @property
    def sentence(self) -> str:
        """The figures for a person; an empty text if the model is current."""
        if self.is_current:
            return ""
        if self.new_images is None or self.new_classes is None or self.gone_images is None:
            return f"an earlier release fitted it, so what has come since is not known. {_REFIT}"
        came = f"{counted(self.new_images, 'image', 'images')} and "
        came += f"{counted(self.new_classes, 'class', 'classes')} have come since it was fitted"
        if self.gone_images:
            came += f", and {counted(self.gone_images, 'image is', 'images are')} gone"
        if self.kept_variance is not None:
            came += (
                f". It keeps {self.kept_variance:.1%} of the variance of the new images, and "
                f"{self.kept_at_fit:.1%} of those that it was fitted on"
            )
        return f"{came}. {_REFIT}"


def since_fit(store: Root, model: Version, features: Mapping[str, Version] | None = None) -> SinceFit:
    """Compares the current features of all classes with the images that a model was fitted on.

    `features` are the current versions, if they are known already. It reads the hashes of the classes that
    have changed since the fit, and features of a sample.
    """
    versions = current(store, MOBILENET_FEATURES) if features is None else features
    at_fit = float(model.details["explained_variance"])
    if model.inputs.get(MOBILENET_FEATURES) == inputs_version(versions):
        return SinceFit(new_images=0, new_classes=0, gone_images=0, kept_variance=None, kept_at_fit=at_fit)
    try:
        description = json.loads(store.read(f"{model.directory}/{MODEL_JSON}"))
        contents = np.load(io.BytesIO(store.read(f"{model.directory}/{MODEL_CONTENTS}")), allow_pickle=False)
        fitted, mean = description["versions"], np.array(description["mean"])
    except (FileNotFoundError, ValueError, KeyError):
        return SinceFit(
            new_images=None, new_classes=None, gone_images=None, kept_variance=None, kept_at_fit=at_fit
        )
    changed = {
        label: version
        for label, version in versions.items()
        if fitted.get(label) != version.data_version and not version.damage
    }
    new = _new_images(store, [part for version in changed.values() for part in version.parts], contents)
    new_images = sum(len(rows) for _, rows in new)
    images = sum(version.rows for version in versions.values())
    return SinceFit(
        new_images=new_images,
        new_classes=len(versions.keys() - fitted.keys()),
        gone_images=max(0, len(contents) + new_images - images),
        kept_variance=_kept(store, model, mean, new) if new_images else None,
        kept_at_fit=at_fit,
    )


def _new_images(
    store: Root, parts: Sequence[Part], contents: NDArray[np.uint64]
) -> list[tuple[Part, NDArray[np.intp]]]:
    """The numbers of the rows of each file whose content is not among the fitted contents."""

    def rows(part: Part) -> NDArray[np.intp]:
        try:
            # The extraction has read these columns in the same process.
            _, columns = read_columns(store, part.path, part.bytes, FEATURE_COLUMNS)
        except FruitsError:  # its class fails elsewhere, by name
            return np.empty(0, np.intp)
        hashes = contents_of(columns.column("sha256").to_pylist())
        return np.flatnonzero(~np.isin(hashes, contents))

    found = zip(parts, concurrently(rows, parts), strict=True)
    return [(part, numbers) for part, numbers in found if len(numbers)]


def _kept(
    store: Root,
    model: Version,
    mean: NDArray[np.float64],
    new: Sequence[tuple[Part, NDArray[np.intp]]],
) -> float | None:
    """The share of the variance of new images, about the mean, that the components keep."""
    every = -(-sum(len(rows) for _, rows in new) // SAMPLE_IMAGES)
    components = read_components(store.uri, model.directory)

    def variances(found: tuple[Part, NDArray[np.intp]]) -> tuple[float, float]:
        part, rows = found
        try:
            vectors = vectors_at(store, part, rows[::every].tolist()).reshape(-1, FEATURES) - mean
        except FruitsError:
            return 0.0, 0.0
        return float(np.square(vectors @ components).sum()), float(np.square(vectors).sum())

    kept, total = map(sum, zip(*concurrently(variances, new), strict=True))
    return kept / total if total else None
