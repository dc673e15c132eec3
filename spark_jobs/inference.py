"""The feature extractor on an executor: one model, compiled by OpenVINO, for each Python worker."""

import hashlib
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spark_jobs.dimensions import IMAGE_SIDE
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import open_root

MODEL_XML, MODEL_BIN = "model.xml", "model.bin"

_CPU = {
    # On CPUs with AMX, OpenVINO would choose bfloat16: twice as fast, but with wrong features (cosine 0.92).
    # On ARM, it would choose float16.
    "INFERENCE_PRECISION_HINT": "f32",
    # Spark runs one task per core, each in its own process. With pinning, all processes would use one core.
    "INFERENCE_NUM_THREADS": 1,
    "NUM_STREAMS": 1,
    "ENABLE_CPU_PINNING": False,
}


class Extractor(Protocol):
    """Computes the features of one image: (224, 224, 3) float32 in [-1, 1] to (1280,) float32."""

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float32]: ...


def sha256_of(xml: bytes, weights: bytes) -> str:
    """The SHA-256 of an OpenVINO IR: of its topology followed by its weights, in hexadecimal."""
    return hashlib.sha256(xml + weights).hexdigest()


def compile_ir(xml: bytes, weights: bytes) -> Extractor:
    """Compiles an OpenVINO IR for one core in float32, with one image per call.

    The activations of one image fit into the cache of a core. Batches of 8 take a fifth longer per image.
    """
    import openvino

    core = openvino.Core()
    shaped: Any = core.read_model(xml, openvino.Tensor(np.frombuffer(weights, np.uint8)))
    shaped.reshape([1, IMAGE_SIDE, IMAGE_SIDE, 3])
    request = core.compile_model(shaped, "CPU", _CPU).create_infer_request()

    def features(image: NDArray[np.float32]) -> NDArray[np.float32]:
        request.infer([image[np.newaxis]], share_inputs=True)
        vector: NDArray[np.float32] = request.get_output_tensor().data[0].copy()
        return vector

    return features


@lru_cache(maxsize=1)
def load_extractor(store_uri: str, directory: str, sha256: str) -> Extractor:
    """The extractor in a directory of the store, read and compiled once per process.

    Raises `FruitsError` if a file is missing, or if the SHA-256 of the files is not `sha256`.
    """
    store = open_root(store_uri)
    try:
        xml, weights = (store.read(f"{directory}/{name}") for name in (MODEL_XML, MODEL_BIN))
    except FileNotFoundError as error:
        raise FruitsError(
            f"The feature extractor in {store.uri_of(directory)} has lost a file. Materialize "
            "feature_extractor again."
        ) from error
    found = sha256_of(xml, weights)
    if found != sha256:
        raise FruitsError(
            f"The feature extractor in {store.uri_of(directory)} has SHA-256 {found}, not {sha256}: it was "
            "changed after it was written. Materialize feature_extractor again."
        )
    return compile_ir(xml, weights)
