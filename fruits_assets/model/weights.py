"""Finds the weights that `FRUITS_WEIGHTS` names."""

import hashlib
import os
import tempfile
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from spark_jobs.errors import FruitsError
from spark_jobs.store.root import open_root

IMAGENET, EMBEDDED, RANDOM = "imagenet", "embedded", "random"
RANDOM_SEED = 20

_KERAS_FILE = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
# The address is `BASE_WEIGHT_PATH` of Keras's mobilenet_v2.py. Keras publishes no hash of the file. While it
# downloads the file, it shows the size: "9412608/9406464" in the output of public notebooks.
_KERAS_URL = f"https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/{_KERAS_FILE}"
_KERAS_BYTES = 9_406_464

_PIN = "#sha256="

_REMEDY = (
    f"Set FRUITS_WEIGHTS={EMBEDDED} to use the weights in this package, or set FRUITS_WEIGHTS to a "
    "weights file (a path or s3://bucket/key)."
)


@dataclass(frozen=True)
class Weights:
    """Weights: their name for the user, the content of their file, and its SHA-256.

    Random weights have no content, and the hash of their seed.
    """

    name: str
    content: bytes | None = field(repr=False)
    sha256: str

    @property
    def trained(self) -> bool:
        return self.content is not None

    @property
    def pinned(self) -> str:
        """A value of `FRUITS_WEIGHTS` that names these weights and no others."""
        return f"{self.name}{_PIN}{self.sha256}"


def find_weights(setting: str) -> Weights:
    """Finds the weights that a value of `FRUITS_WEIGHTS` names, and downloads them if necessary.

    `imagenet` is the file that Keras downloads and caches, `embedded` the file in this package, and `random`
    a seeded initialisation. Any other value is a local path or an `s3://` URI. If it ends with
    `#sha256=...`, the file is pinned to this hash.

    Raises `FruitsError` if the file cannot be downloaded or read, or differs from the pinned file.
    """
    name, _, pin = setting.partition(_PIN)
    content = None if name == RANDOM else _content(name)
    sha256 = hashlib.sha256(f"seed {RANDOM_SEED}".encode() if content is None else content).hexdigest()
    if pin and sha256 != pin.lower():
        raise FruitsError(
            f"FRUITS_WEIGHTS={setting}: the file has SHA-256 {sha256}, not the pinned hash. "
            "Use the file that was pinned, or correct the pinned hash."
        )
    return Weights(name, content, sha256)


def _content(name: str) -> bytes:
    if name == EMBEDDED:
        return Path(__file__).with_name("embedded.npz").read_bytes()
    if name == IMAGENET:
        return _imagenet()
    folder, _, file = name.rpartition("/")
    try:
        if name.startswith("s3://"):
            return open_root(folder).read(file)
        return Path(name).expanduser().read_bytes()
    except OSError as error:
        raise FruitsError(
            f"FRUITS_WEIGHTS={name} cannot be read ({error}). Set it to {IMAGENET}, {EMBEDDED}, "
            f"{RANDOM}, or a weights file (a path or s3://bucket/key)."
        ) from None


def _imagenet() -> bytes:
    """Keras's file, from Keras's cache or from the address where Keras downloads it.

    A file of another size, such as the page of a proxy or a download that was cut, is downloaded again.
    """
    cached = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "models" / _KERAS_FILE
    try:
        if cached.exists() and cached.stat().st_size == _KERAS_BYTES:
            return cached.read_bytes()
        content = _download()
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached.parent) as folder:
            (Path(folder) / _KERAS_FILE).write_bytes(content)
            (Path(folder) / _KERAS_FILE).replace(cached)
    except OSError as error:
        raise FruitsError(
            f"FRUITS_WEIGHTS={IMAGENET}: the cache of Keras can't be used ({error}). Set KERAS_HOME to a "
            "folder that you can write to, or set FRUITS_WEIGHTS to a weights file."
        ) from None
    return content


def _download() -> bytes:
    try:
        with urlopen(_KERAS_URL, timeout=60) as response:
            content = bytes(response.read(_KERAS_BYTES + 1))
    except (OSError, HTTPException) as error:
        raise FruitsError(
            f"FRUITS_WEIGHTS={IMAGENET}: {_KERAS_URL} can't be downloaded ({error}). {_REMEDY}"
        ) from None
    if len(content) != _KERAS_BYTES:
        size = f"{len(content):,} bytes" if len(content) < _KERAS_BYTES else "more bytes"
        raise FruitsError(
            f"FRUITS_WEIGHTS={IMAGENET}: {_KERAS_URL} has returned {size}, and the file has "
            f"{_KERAS_BYTES:,}. It is not used. Try again: a proxy may have answered. {_REMEDY}"
        )
    return content
