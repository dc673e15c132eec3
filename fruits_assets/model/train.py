"""Train MobileNetV2 from random weights on the training part of Fruits-360.

    python -m fruits_assets.model.train --photos DIR --out DIR [--seed 0]

Run again with the same --out, it goes on after the last epoch that ended. Its result is OUT/embedded.npz.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image

from fruits_assets.model.holdout import HOLDOUT, TRAIN, Photos, list_photos
from fruits_assets.model.mobilenet import build, save_npz


class Phase(NamedTuple):
    """Some epochs at one image size (pixels), under a warm-up and a cosine decay of the learning rate."""

    size: int
    epochs: int
    peak_rate: float


# Small images first, where an epoch costs a fifth; the last size is the one features are extracted at, since
# batch normalization's statistics hold for one size only.
PHASES = (Phase(96, 24, 1e-3), Phase(160, 8, 4e-4), Phase(224, 5, 1e-4))
BATCH = 48
DROPOUT = 0.2
WEIGHT_DECAY = 0.004
# MobileNetV2's 0.999 would need thousands of steps to settle; a phase at 224 pixels has about 450.
NORMALIZATION_MOMENTUM = 0.95
TURN_DEGREES = 36.0
ZOOM = (0.8, 1.2)
BRIGHTNESS = 0.12  # of the full range
CONTRAST = 0.15


def decode(paths: Sequence[Path], size: int) -> NDArray[np.uint8]:
    """Return the photos as (n, size, size, 3) uint8 RGB, resized by Pillow's bicubic filter."""
    images = np.empty((len(paths), size, size, 3), np.uint8)
    for position, path in enumerate(paths):
        with Image.open(path) as photo:
            resized = photo.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
            images[position] = np.asarray(resized)
    return images


def augment(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return one (size, size, 3) photo flipped, turned, zoomed and re-lit at random, float32 in 0 to 255."""
    size = image.shape[0]
    angle = np.deg2rad(rng.uniform(-TURN_DEGREES, TURN_DEGREES))
    scale = 1 / rng.uniform(*ZOOM)
    flip_x, flip_y = rng.choice((-1, 1), 2)
    a, b = flip_x * scale * np.cos(angle), flip_x * scale * np.sin(angle)
    d, e = -flip_y * scale * np.sin(angle), flip_y * scale * np.cos(angle)
    # Pillow maps output to input pixels, about the corner: the shift keeps the centre in place.
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
    return np.clip(pixels, 0, 255).astype(np.float32)


class Batches(keras.utils.PyDataset):
    """Batches of (n, size, size, 3) float32 in [-1, 1] and (n,) int32 labels.

    With `course` = (seed, epoch), shuffled and augmented as these two numbers say; without, as they are.
    """

    def __init__(
        self, images: NDArray[np.uint8], labels: NDArray[np.int32], course: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self.images, self.labels, self.course = images, labels, course
        self.order = np.arange(len(labels))
        if course is not None:
            np.random.default_rng(course).shuffle(self.order)

    def __len__(self) -> int:
        return math.ceil(len(self.order) / BATCH)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        chosen = self.order[index * BATCH : (index + 1) * BATCH]
        if self.course is None:
            pixels = self.images[chosen].astype(np.float32)
        else:
            rng = np.random.default_rng((*self.course, index))
            pixels = np.stack([augment(self.images[position], rng) for position in chosen])
        return keras.applications.mobilenet_v2.preprocess_input(pixels), self.labels[chosen]


def compiled(size: int, classes: int, steps: int, peak_rate: float) -> tuple[keras.Model, keras.Model]:
    """Return the backbone, and the classifier on it ready for `steps` optimizer steps; they share weights."""
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
        # On a CPU, XLA's convolutions are several times slower than TensorFlow's own.
        jit_compile=False,
    )
    return backbone, model


def save_checkpoint(
    path: Path, course: dict[str, Any], epochs: int, seconds: float, model: keras.Model
) -> None:
    """Write weights, optimizer state and epoch counter in one file that is never there half-written."""
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
    """What `save_checkpoint` wrote. Without a file: no epoch, and no arrays."""

    epochs: int = 0
    seconds: float = 0.0
    weights: Sequence[NDArray[Any]] = ()
    optimizer: Sequence[NDArray[Any]] = ()


def load_checkpoint(path: Path, course: dict[str, Any]) -> Checkpoint:
    """Return the checkpoint at `path`, or an empty one when there is none.

    Raises ValueError when it belongs to another course (seed, phases, photos) than `course`.
    """
    if not path.exists():
        return Checkpoint()
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    progress = json.loads(str(arrays.pop("progress")))
    if progress["course"] != course:
        raise ValueError(
            f"{path} is of a training with {progress['course']}, not with {course}, so it cannot be resumed: "
            "give another --out, or the same photos and seed"
        )
    weights = [array for name, array in arrays.items() if name.startswith("weight/")]
    optimizer = [array for name, array in arrays.items() if name.startswith("optimizer/")]
    return Checkpoint(
        epochs=progress["epochs"], seconds=progress["seconds"], weights=weights, optimizer=optimizer
    )


def _left(phases: Sequence[Phase], epoch: int, seconds: float) -> float:
    """Seconds that the epochs after `epoch` take, by their pixels, when `epoch` took `seconds`."""
    pixels = [phase.size**2 for phase in phases for _ in range(phase.epochs)]
    return seconds * sum(pixels[epoch + 1 :]) / pixels[epoch]


def train(
    photos: Photos, out: Path, seed: int = 0, phases: Sequence[Phase] = PHASES, stop_after: int | None = None
) -> keras.Model:
    """Train on the training part of `photos`, from the last checkpoint in `out` on, and return the backbone.

    Epochs are counted from 0 over all phases. `stop_after` ends the call after that many of them, as an
    interruption would; otherwise `out`/embedded.npz is written at the end. Raises ValueError as
    `load_checkpoint` and `save_npz` do, and when `phases` is empty.
    """
    if not phases:
        raise ValueError("there is no phase to train for: give at least one Phase(size, epochs, peak_rate)")
    parts = np.array(photos.parts)
    labels = np.array(photos.labels, np.int32)
    rows = {part: np.flatnonzero(parts == part) for part in (TRAIN, HOLDOUT)}
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
        # A phase starts with a fresh optimizer, its own warm-up and decay.
        if checkpoint.epochs > first:
            for variable, array in zip(model.optimizer.variables, checkpoint.optimizer, strict=True):
                variable.assign(array)
        images = {
            part: decode([photos.paths[row] for row in rows[part]], phase.size) for part in (TRAIN, HOLDOUT)
        }
        for epoch in range(max(first, checkpoint.epochs), end):
            start = time.monotonic()
            model.get_layer("dropout").seed_generator.state.assign([seed, epoch])
            batches = Batches(images[TRAIN], labels[rows[TRAIN]], (seed, epoch))
            fitted = model.fit(batches, shuffle=False, verbose=0).history
            held_out = model.evaluate(
                Batches(images[HOLDOUT], labels[rows[HOLDOUT]]), return_dict=True, verbose=0
            )
            seconds = time.monotonic() - start
            checkpoint = Checkpoint(
                epochs=epoch + 1, seconds=checkpoint.seconds + seconds, weights=model.get_weights()
            )
            save_checkpoint(path, course, checkpoint.epochs, checkpoint.seconds, model)
            print(
                f"epoch {epoch + 1}/{total} at {phase.size} px: loss {fitted['loss'][0]:.3f}, "
                f"accuracy {fitted['accuracy'][0]:.3f}, hold-out accuracy {held_out['accuracy']:.3f}, "
                f"{seconds:.0f} s, {_left(phases, epoch, seconds) / 60:.0f} min left",
                flush=True,
            )
            if stop_after is not None and epoch + 1 >= stop_after:
                return backbone
        first = end
    save_npz(backbone, out / "embedded.npz")
    return backbone


def main() -> None:
    parser = argparse.ArgumentParser(description="Train MobileNetV2 from random weights on Fruits-360.")
    parser.add_argument("--photos", type=Path, required=True, help="folder with one folder of .jpg per class")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the checkpoint and of embedded.npz"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    tf.config.experimental.enable_op_determinism()
    train(list_photos(arguments.photos), arguments.out, arguments.seed)
    print(f"wrote {arguments.out / 'embedded.npz'}")


if __name__ == "__main__":
    main()
