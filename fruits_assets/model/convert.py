"""Converts MobileNetV2 with the given weights to OpenVINO IR, and compares its features with those of Keras.

    python -m fruits_assets.model.convert --weights embedded --out DIR

writes `model.xml`, `model.bin` and `conversion.json` into DIR. The conversion runs in a process of its own,
because TensorFlow takes 600 MB of memory and no other step needs it.
"""

import json
import os
import sys
from argparse import ArgumentParser
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fruits_assets.model.mobilenet import build, load_npz
from fruits_assets.model.weights import RANDOM_SEED, Weights, find_weights
from resources.scratch import remove_scratch_folders, use_scratch_folder
from spark_jobs.dimensions import IMAGE_SIDE
from spark_jobs.errors import FruitsError
from spark_jobs.inference import MODEL_BIN, MODEL_XML, compile_ir

if TYPE_CHECKING:
    import keras

CONVERSION_JSON = "conversion.json"

_ZIP = b"PK\x03\x04"  # the first bytes of a .npz file

# The result of a conversion depends on their versions, beside the weights.
PACKAGES = ("keras", "openvino")


def converter_versions() -> dict[str, str]:
    """Returns the installed versions of `PACKAGES`."""
    return {package: version(package) for package in PACKAGES}


def load_model(weights: Weights) -> "keras.Model":
    """Returns MobileNetV2 without its classifier, average-pooled, with the given weights.

    Raises `FruitsError` if the file is not a weights file of this model.
    """
    import keras

    if weights.content is None:
        keras.utils.set_random_seed(RANDOM_SEED)
        return build()
    with TemporaryDirectory() as folder:
        # Keras knows the format by the end of the name: .h5, or .weights.h5.
        name = Path(weights.name).name
        file = Path(folder) / (name if name.endswith(".h5") else "weights.h5")
        file.write_bytes(weights.content)
        try:
            if weights.content.startswith(_ZIP):
                model = build()
                load_npz(model, file)
                return model
            return keras.applications.MobileNetV2(
                include_top=False,
                weights=str(file),
                input_shape=(IMAGE_SIDE, IMAGE_SIDE, 3),
                pooling="avg",
            )
        except (ValueError, OSError, KeyError) as error:
            reason = str(error).replace(str(file), weights.name)
            raise FruitsError(
                f"FRUITS_WEIGHTS={weights.name} is not a weights file of MobileNetV2 1.0 without its "
                f"classifier ({reason}). Use the .h5 file that Keras downloads, or a .npz file that "
                "fruits_assets.model.train wrote."
            ) from None


def probe_images() -> NDArray[np.float32]:
    """Returns (8, 224, 224, 3) float32 images in [-1, 1], the same at each call, to compare models on.

    One image is noise, one is black and one is white. Five consist of 7 x 7 patches of one colour each.
    """
    generator = np.random.default_rng(0)
    coarse = generator.uniform(-1, 1, (8, 7, 7, 3))
    probes = coarse.repeat(IMAGE_SIDE // 7, axis=1).repeat(IMAGE_SIDE // 7, axis=2)
    probes[1] = generator.uniform(-1, 1, probes[1].shape)
    probes[2], probes[3] = -1, 1
    return probes.astype(np.float32)


def convert(weights: Weights, out: Path) -> None:
    """Writes the IR in float32, and the largest absolute difference of its features from those of Keras."""
    import openvino

    model = load_model(weights)
    openvino.save_model(openvino.convert_model(model), out / MODEL_XML, compress_to_fp16=False)
    extractor = compile_ir((out / MODEL_XML).read_bytes(), (out / MODEL_BIN).read_bytes())
    probes = probe_images()
    features = np.stack([extractor(probe) for probe in probes])
    difference = np.abs(np.asarray(model(probes, training=False)) - features).max()
    (out / CONVERSION_JSON).write_text(json.dumps({"max_abs_difference": float(difference)}))


def main() -> None:
    parser = ArgumentParser(description="Converts MobileNetV2 with the given weights to OpenVINO IR.")
    parser.add_argument("--weights", required=True, help="a value of FRUITS_WEIGHTS")
    parser.add_argument("--out", required=True, type=Path)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        convert(find_weights(arguments.weights), arguments.out)
    except FruitsError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    use_scratch_folder()  # TensorFlow leaves Python files in the temporary folder
    main()
    remove_scratch_folders()
    os._exit(0)  # skips TensorFlow's clean-up, which takes 1.4 s
