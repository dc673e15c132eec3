"""MobileNetV2 without its classifier, and its weights as one file of float16 arrays."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spark_jobs.dimensions import IMAGE_SIDE

if TYPE_CHECKING:
    import keras


def build(size: int = IMAGE_SIDE) -> "keras.Model":
    """Returns MobileNetV2 (width 1.0) with random weights and without its classifier.

    Input: (n, size, size, 3) float32 in [-1, 1], `size` in pixels. Output: (n, 1280) float32 features, the
    averages of the last feature maps.
    """
    import keras

    return keras.applications.MobileNetV2(
        include_top=False, weights=None, input_shape=(size, size, 3), pooling="avg"
    )


def save_npz(model: "keras.Model", path: Path) -> None:
    """Writes the weights of `model` to `path` as float16 arrays, keyed by weight path ("Conv1/kernel").

    The same weights give the same bytes. Raises ValueError if a weight is not finite in float16.
    """
    arrays: dict[str, Any] = {}
    for weight in model.weights:
        with np.errstate(over="ignore"):
            array = np.asarray(weight.numpy()).astype(np.float16)
        if not np.isfinite(array).all():
            raise ValueError(
                f"{weight.path} contains values that are not finite in float16, whose maximum is 65504, so "
                f"{path} was not written. Train longer at a lower learning rate."
            )
        arrays[weight.path] = array
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def load_npz(model: "keras.Model", path: Path) -> None:
    """Sets all weights of `model`, as float32, from a file that `save_npz` wrote.

    Raises ValueError if the names or shapes of the arrays differ from the model's, or if a value is not
    finite. The model is then unchanged.
    """
    remedy = "Use the file that fruits_assets.model.train wrote for this architecture."
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name].astype(np.float32) for name in file.files}
    shapes = {weight.path: tuple(weight.shape) for weight in model.weights}
    for missing in sorted(shapes.keys() - arrays.keys()):
        raise ValueError(f"{path} has no array {missing!r}, which the model needs. {remedy}")
    for unknown in sorted(arrays.keys() - shapes.keys()):
        raise ValueError(f"{path} has an array {unknown!r}, which the model does not have. {remedy}")
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ValueError(
                f"{path} has {name!r} of shape {arrays[name].shape}, but the model's is {shape}. {remedy}"
            )
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{path} has values in {name!r} that are not finite. {remedy}")
    model.set_weights([arrays[weight.path] for weight in model.weights])
