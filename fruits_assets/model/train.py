"""Trains MobileNetV2 from random weights on the training part of Fruits-360.

    python -m fruits_assets.model.train --photos DIR --out DIR [--seed 0]

A second call with the same --out continues after the last complete epoch. The result is OUT/embedded.npz.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image

from fruits_assets.model.holdout import HOLDOUT, TRAIN, Photos, list_photos
from fruits_assets.model.mobilenet import build, save_npz
from resources.scratch import use_scratch_folder


class Phase(NamedTuple):
    """Epochs at one image size (pixels). The learning rate rises to `peak_rate`, then decays by a cosine."""

    size: int
    epochs: int
    peak_rate: float


# Small images first: an epoch at 96 pixels takes a fifth of the time. The last size is that of the feature
# extraction, because the statistics of batch normalization are valid for one size only.
PHASES = (Phase(96, 24, 1e-3), Phase(160, 8, 4e-4), Phase(224, 5, 1e-4))
BATCH = 48
DROPOUT = 0.2
WEIGHT_DECAY = 0.004
# With MobileNetV2's 0.999, the statistics would need thousands of steps. A phase at 224 pixels has about 450.
NORMALIZATION_MOMENTUM = 0.95
TURN_DEGREES = 36.0
ZOOM = (0.8, 1.2)
BRIGHTNESS = 0.12  # of the full range
CONTRAST = 0.15


def decode(paths: Sequence[Path], size: int) -> NDArray[np.uint8]:
    """Returns the photos as (n, size, size, 3) uint8 RGB, resized by Pillow's bicubic filter."""
    images = np.empty((len(paths), size, size, 3), np.uint8)
    for position, path in enumerate(paths):
        with Image.open(path) as photo:
            resized = photo.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
            images[position] = np.asarray(resized)
    return images


def augment(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
    """Flips, turns and zooms one (size, size, 3) photo and changes its light at random: float32, 0 to 255."""
    size = image.shape[0]
    angle = np.deg2rad(rng.uniform(-TURN_DEGREES, TURN_DEGREES))
    scale = 1 / rng.uniform(*ZOOM)
    flip_x, flip_y = rng.choice((-1, 1), 2)
    a, b = flip_x * scale * np.cos(angle), flip_x * scale * np.sin(angle)
    d, e = -flip_y * scale * np.sin(angle), flip_y * scale * np.cos(angle)
    # Pillow maps output pixels to input pixels, with the corner as origin. The shift keeps the centre fixed.
    centre = size / 2
    affine = (a, b, centre - (a + b) * centre, d, e, centre - (d + e) * centre)
    turned = Image.fromarray(image).transform(
        (size, size),
        Image.Transform.AFFINE,
        affine,
        Image.Resampling.BICUBIC,
        # The photos' background.
        fillcolor=(255, 255, 255),
    )
    pixels = np.asarray(turned, np.float32)
    mean = pixels.mean()
    pixels = (pixels - mean) * rng.uniform(1 - CONTRAST, 1 + CONTRAST) + mean
    pixels += 255 * rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    augmented: NDArray[np.float32] = np.clip(pixels, 0, 255).astype(np.float32)
    return augmented


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of (n, size, size, 3) float32 in [-1, 1] and (n,) int32 labels.

    `seeds` = (seed, epoch) seed the generators that shuffle and augment the photos. Without `seeds`, photos
    are neither shuffled nor augmented.
    """

    def __init__(
        self, images: NDArray[np.uint8], labels: NDArray[np.int32], seeds: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self.images, self.labels, self.seeds = images, labels, seeds
        self.order = np.arange(len(labels))
        if seeds is not None:
            np.random.default_rng(seeds).shuffle(self.order)

    def __len__(self) -> int:
        return math.ceil(len(self.order) / BATCH)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        chosen = self.order[index * BATCH : (index + 1) * BATCH]
        if self.seeds is None:
            pixels = self.images[chosen].astype(np.float32)
        else:
            rng = np.random.default_rng((*self.seeds, index))
            pixels = np.stack([augment(self.images[position], rng) for position in chosen])
        return keras.applications.mobilenet_v2.preprocess_input(pixels), self.labels[chosen]


def compiled(size: int, classes: int, steps: int, peak_rate: float) -> tuple[keras.Model, keras.Model]:
    """Returns the backbone, and the classifier on it, compiled for `steps` steps. They share weights."""
    backbone = build(size)
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = NORMALIZATION_MOMENTUM
    dropped = keras.layers.Dropout(DROPOUT, name="dropout")(backbone.output)
    model = keras.Model(backbone.input, keras.layers.Dense(classes, name="head")(dropped))

    warm_up = max(1, steps // 20)
    schedule = keras.optimizers.schedules.CosineDecay(
        peak_rate / 100, max(1, steps - warm_up), alpha=0.1, warmup_target=peak_rate, warmup_steps=warm_up
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=WEIGHT_DECAY)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    optimizer.build(model.trainable_variables)
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        # On a CPU, the convolutions of XLA are several times slower than those of TensorFlow.
        jit_compile=False,
    )
    return backbone, model


def save_checkpoint(
    path: Path, model: keras.Model, *, course: dict[str, Any], epochs: int, seconds: float
) -> None:
    """Writes weights, optimizer state and epoch counter to `path`, which is replaced in one operation.

    `course` identifies the training, `epochs` and `seconds` are its progress.
    """
    arrays = {f"weight/{i}": array for i, array in enumerate(model.get_weights())}
    arrays |= {f"optimizer/{i}": variable.numpy() for i, variable in enumerate(model.optimizer.variables)}
    progress = {"course": course, "epochs": epochs, "seconds": seconds}
    half_written = path.with_suffix(".part")
    with open(half_written, "wb") as file:
        np.savez(file, progress=np.array(json.dumps(progress)), **arrays)
        file.flush()
        os.fsync(file.fileno())
    os.replace(half_written, path)


class Checkpoint(NamedTuple):
    """The state of a training after `epochs` epochs. The default is a training that has not started."""

    epochs: int = 0
    seconds: float = 0.0
    weights: Sequence[NDArray[Any]] = ()
    optimizer: Sequence[NDArray[Any]] = ()


def load_checkpoint(path: Path, course: dict[str, Any]) -> Checkpoint:
    """Returns the checkpoint at `path`, or `Checkpoint()` if there is no such file.

    Raises ValueError if its course (seed, phases, photos) differs from `course`.
    """
    if not path.exists():
        return Checkpoint()
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    progress = json.loads(str(arrays.pop("progress")))
    if progress["course"] != course:
        raise ValueError(
            f"{path} belongs to a training with {progress['course']}, not with {course}, so it cannot be "
            "resumed. Give another --out, or the same photos and seed."
        )
    weights = [array for name, array in arrays.items() if name.startswith("weight/")]
    optimizer = [array for name, array in arrays.items() if name.startswith("optimizer/")]
    return Checkpoint(
        epochs=progress["epochs"], seconds=progress["seconds"], weights=weights, optimizer=optimizer
    )


def _seconds_left(phases: Sequence[Phase], epoch: int, seconds: float) -> float:
    """Estimates the seconds of all epochs after `epoch` from the `seconds` of `epoch` and the image sizes."""
    pixels = [phase.size**2 for phase in phases for _ in range(phase.epochs)]
    return seconds * sum(pixels[epoch + 1 :]) / pixels[epoch]


def run_epoch(
    model: keras.Model,
    images: Mapping[str, NDArray[np.uint8]],
    labels: Mapping[str, NDArray[np.int32]],
    *,
    seeds: tuple[int, int],
) -> str:
    """Trains for one epoch on the training part, and returns the loss and both accuracies as text."""
    model.get_layer("dropout").seed_generator.state.assign(seeds)
    batches = Batches(images[TRAIN], labels[TRAIN], seeds)
    fitted = model.fit(batches, shuffle=False, verbose=0).history
    held_out = model.evaluate(Batches(images[HOLDOUT], labels[HOLDOUT]), return_dict=True, verbose=0)
    return (
        f"loss {fitted['loss'][0]:.3f}, accuracy {fitted['accuracy'][0]:.3f}, "
        f"hold-out accuracy {held_out['accuracy']:.3f}"
    )


def train(
    photos: Photos, out: Path, seed: int = 0, phases: Sequence[Phase] = PHASES, stop_after: int | None = None
) -> keras.Model:
    """Trains on the training part of `photos`, from the last checkpoint in `out`, and returns the backbone.

    At the end it writes `out`/embedded.npz. `stop_after` interrupts the training after this number of epochs,
    counted over all phases; no weights are written then. Raises ValueError if `phases` is empty, and as
    `load_checkpoint` and `save_npz` do.
    """
    if not phases:
        raise ValueError("The list of phases is empty. Give at least one Phase(size, epochs, peak_rate).")
    parts = np.array(photos.parts)
    rows = {part: np.flatnonzero(parts == part) for part in (TRAIN, HOLDOUT)}
    labels = {part: np.array(photos.labels, np.int32)[rows[part]] for part in rows}
    course = {
        "seed": seed,
        "phases": [list(phase) for phase in phases],
        "training photos": len(rows[TRAIN]),
        "classes": photos.classes,
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / "checkpoint.npz"
    keras.utils.set_random_seed(seed)
    checkpoint = load_checkpoint(path, course)
    total = sum(phase.epochs for phase in phases)
    steps = math.ceil(len(rows[TRAIN]) / BATCH)

    first = 0
    for phase in phases:
        end = first + phase.epochs
        if checkpoint.epochs >= end and end < total:
            first = end
            continue
        backbone, model = compiled(phase.size, len(photos.classes), steps * phase.epochs, phase.peak_rate)
        if checkpoint.weights:
            model.set_weights(checkpoint.weights)
        # Each phase starts with a new optimizer state, warm-up and decay.
        if checkpoint.epochs > first:
            for variable, array in zip(model.optimizer.variables, checkpoint.optimizer, strict=True):
                variable.assign(array)
        images = {part: decode([photos.paths[row] for row in rows[part]], phase.size) for part in rows}
        for epoch in range(max(first, checkpoint.epochs), end):
            start = time.monotonic()
            figures = run_epoch(model, images, labels, seeds=(seed, epoch))
            seconds = time.monotonic() - start
            checkpoint = Checkpoint(
                epochs=epoch + 1, seconds=checkpoint.seconds + seconds, weights=model.get_weights()
            )
            save_checkpoint(path, model, course=course, epochs=checkpoint.epochs, seconds=checkpoint.seconds)
            print(
                f"epoch {epoch + 1}/{total} at {phase.size} px: {figures}, "
                f"{seconds:.0f} s, {_seconds_left(phases, epoch, seconds) / 60:.0f} min left",
                flush=True,
            )
            if stop_after is not None and epoch + 1 >= stop_after:
                return backbone
        first = end
    save_npz(backbone, out / "embedded.npz")
    return backbone


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains MobileNetV2 from random weights on Fruits-360.")
    parser.add_argument(
        "--photos", type=Path, required=True, help="folder that contains one folder of .jpg files per class"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the checkpoint and for embedded.npz"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    use_scratch_folder()  # TensorFlow leaves Python files in the temporary folder
    tf.config.experimental.enable_op_determinism()
    train(list_photos(arguments.photos), arguments.out, seed=arguments.seed)
    print(f"Wrote {arguments.out / 'embedded.npz'}")


if __name__ == "__main__":
    main()
