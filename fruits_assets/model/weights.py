"""Which weights `FRUITS_WEIGHTS` names, and where their file is."""

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
    """Weights that were found: what they are, in words; their file (none if random); its SHA-256.

    `sha256` of random weights names their seed.
    """

    name: str
    file: Path | None
    sha256: str

    @property
    def trained(self) -> bool:
        return self.file is not None


def find_weights(setting: str) -> Weights:
    """Finds the weights that a value of `FRUITS_WEIGHTS` names, downloading them if need be.

    `imagenet` is Keras's own download and cache, `embedded` the file in this package, `random` a
    seeded initialisation; anything else is a file, local or `s3://`, with `#sha256=...` at its end
    if it is pinned. Raises `FruitsError`.
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
            f"FRUITS_WEIGHTS={setting}: the file has SHA-256 {weights.sha256}, not the pinned one. "
            "Take the file that was pinned, or correct the pin."
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
        # Keras raises a bare Exception for what urllib could not fetch.
        raise FruitsError(
            f"FRUITS_WEIGHTS=imagenet: Keras's download of the ImageNet weights failed ({error}). Set "
            f"FRUITS_WEIGHTS={EMBEDDED} for the weights that come with this project, or to a weights file "
            "(a path or s3://bucket/key)."
        ) from None
    file = _keras_cache()
    if file is None:
        raise FruitsError(
            f"FRUITS_WEIGHTS=imagenet: Keras did not leave {_KERAS_FILE} in its cache. Set KERAS_HOME to a "
            "folder that can be written, or FRUITS_WEIGHTS to a weights file."
        )
    return file


def _fetched(location: str) -> Path:
    """A local file of the weights at a path or an S3 URI."""
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
