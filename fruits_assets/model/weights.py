"""Finds the file of the weights that `FRUITS_WEIGHTS` names."""

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from spark_jobs.errors import FruitsError
from spark_jobs.store.root import open_root

IMAGENET, EMBEDDED, RANDOM = "imagenet", "embedded", "random"
RANDOM_SEED = 20

_KERAS_FILE = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"


@dataclass(frozen=True)
class Weights:
    """Weights: their name for the user, their file (None for random weights), and the SHA-256 of the file.

    `sha256` of random weights is the hash of their seed.
    """

    name: str
    file: Path | None
    sha256: str

    @property
    def trained(self) -> bool:
        return self.file is not None


def find_weights(setting: str) -> Weights:
    """Finds the weights that a value of `FRUITS_WEIGHTS` names, and downloads them if necessary.

    `imagenet` is the file that Keras downloads and caches, `embedded` the file in this package, and `random`
    a seeded initialisation. Any other value is a local path or an `s3://` URI. If it ends with
    `#sha256=...`, the file is pinned to this hash.

    Raises `FruitsError` if the file cannot be downloaded or read, or differs from the pinned file.
    """
    if setting == RANDOM:
        return Weights(RANDOM, None, hashlib.sha256(f"seed {RANDOM_SEED}".encode()).hexdigest())
    if setting == EMBEDDED:
        return _from_file(EMBEDDED, Path(__file__).with_name("embedded.npz"))
    if setting == IMAGENET:
        return _from_file(IMAGENET, _keras_cache() or _keras_download())
    location, _, pin = setting.partition("#sha256=")
    weights = _from_file(location, _fetched(location))
    if pin and weights.sha256 != pin.lower():
        raise FruitsError(
            f"FRUITS_WEIGHTS={setting}: the file has SHA-256 {weights.sha256}, not the pinned hash. "
            "Use the file that was pinned, or correct the pinned hash."
        )
    return weights


def _from_file(name: str, file: Path) -> Weights:
    return Weights(name, file, hashlib.sha256(file.read_bytes()).hexdigest())


def _keras_cache() -> Path | None:
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    file = home / "models" / _KERAS_FILE
    return file if file.exists() else None


def _keras_download() -> Path:
    import keras

    try:
        keras.applications.MobileNetV2(include_top=False, weights="imagenet", pooling="avg")
    except Exception as error:
        # Keras raises a bare Exception if urllib cannot fetch the file.
        raise FruitsError(
            f"FRUITS_WEIGHTS=imagenet: Keras could not download the ImageNet weights ({error}). Set "
            f"FRUITS_WEIGHTS={EMBEDDED} to use the weights in this package, or set FRUITS_WEIGHTS to a "
            "weights file (a path or s3://bucket/key)."
        ) from None
    file = _keras_cache()
    if file is None:
        raise FruitsError(
            f"FRUITS_WEIGHTS=imagenet: Keras did not write {_KERAS_FILE} into its cache. Set KERAS_HOME to a "
            "writable folder, or set FRUITS_WEIGHTS to a weights file."
        )
    return file


def _fetched(location: str) -> Path:
    """Returns a local file with the weights at a path or an S3 URI. It downloads those in S3."""
    folder, _, name = location.rpartition("/")
    try:
        if not location.startswith("s3://"):
            path = Path(location).expanduser()
            path.open("rb").close()
            return path
        content = open_root(folder).read(name)
    except OSError as error:
        raise FruitsError(
            f"FRUITS_WEIGHTS={location} cannot be read ({error}). Set it to {IMAGENET}, {EMBEDDED}, "
            f"{RANDOM}, or a weights file (a path or s3://bucket/key)."
        ) from None
    file = Path(tempfile.mkdtemp(prefix="fruits-weights-")) / name
    file.write_bytes(content)
    return file
