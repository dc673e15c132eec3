"""Helpers that several tests of the jobs share."""

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spark_jobs.dimensions import FEATURES
from spark_jobs.fit_pca import FitReport
from spark_jobs.store.root import open_root
from spark_jobs.store.versions import Version
from tests.conftest import CLASSES
from tests.support import current_versions


def noise(size: tuple[int, int] = (100, 100), seed: int = 3) -> Image.Image:
    """An RGB picture of random pixels."""
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    )


def pointers(store: str, name: str) -> dict[str, Version]:
    return current_versions(open_root(store), name)


def images_in(photos: Path, label: str) -> dict[str, bytes]:
    """The contents of the photos of a class by path, sorted by path."""
    return {f"{label}/{path.name}": path.read_bytes() for path in sorted((photos / label).iterdir())}


class Fitted(NamedTuple):
    """A store with a model, and the random features that it was fitted on. No test may change the store."""

    store: str
    features: dict[str, NDArray[np.float32]]
    report: FitReport
    components: NDArray[np.float64]
    description: dict[str, Any]


@lru_cache
def directions() -> NDArray[np.float64]:
    """1280 random orthonormal directions."""
    return np.linalg.qr(np.random.default_rng(0).normal(size=(FEATURES, FEATURES)))[0]


def made_up_features(images: int = 100) -> dict[str, NDArray[np.float32]]:
    """Random vectors of three classes; their variance falls by a tenth from each direction to the next."""
    rng = np.random.default_rng(1)
    scale = 0.95 ** np.arange(FEATURES)
    return {
        label: ((rng.normal(size=(images, FEATURES)) * scale) @ directions().T + 0.5).astype(np.float32)
        for label in CLASSES
    }
