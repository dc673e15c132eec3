"""Compares weights of MobileNetV2: how well their features predict the classes of held-out photos.

    python -m fruits_assets.model.evaluate --photos DIR --weights embedded=PATH imagenet=PATH random

It prints a Markdown table of the accuracies on the hold-out (see holdout.py), and writes them as JSON.
"""

import argparse
import json
import platform
import warnings
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fruits_assets.model.holdout import HOLDOUT, TRAIN, Photos, list_photos
from fruits_assets.model.mobilenet import build, load_npz
from fruits_assets.model.train import decode
from resources.scratch import use_scratch_folder
from spark_jobs.dimensions import DEFAULT_COMPONENTS, IMAGE_SIDE

BATCH = 32
# A bound on the time. More iterations do not change the third decimal of the accuracies, on either width.
ITERATIONS = 300
RANDOM_SEED = 0


def load(weights: str) -> keras.Model:
    """Returns MobileNetV2 at 224 pixels with the given weights: "NAME=PATH" or "random".

    PATH is a .npz file that train.py wrote, or a .h5 file of Keras. Raises ValueError for any other value,
    and the errors of `load_npz` and Keras.
    """
    name, _, path = weights.partition("=")
    keras.utils.set_random_seed(RANDOM_SEED)
    model = build(IMAGE_SIDE)
    if path.endswith(".npz"):
        load_npz(model, Path(path))
    elif path.endswith(".h5"):
        model.load_weights(path)
    elif path or name != "random":
        raise ValueError(f"{weights!r} names no weights. Give NAME=PATH of a .npz or .h5 file, or random.")
    return model


def extract(model: keras.Model, photos: Photos) -> NDArray[np.float32]:
    """Returns the (n, 1280) float32 features of the n photos."""
    features = []
    for start in range(0, len(photos.paths), BATCH):
        pixels = decode(photos.paths[start : start + BATCH], IMAGE_SIDE).astype(np.float32)
        features.append(model.predict_on_batch(keras.applications.mobilenet_v2.preprocess_input(pixels)))
    return np.concatenate(features)


def accuracies(features: NDArray[np.float32], photos: Photos) -> dict[str, float]:
    """Returns the share of held-out photos whose class the (n, d) features predict correctly, by method.

    The methods are the nearest neighbour (Euclidean distance) and a logistic regression, on all features and
    on principal components. All of them use the features of the training part only.
    """
    labels, parts = np.array(photos.labels), np.array(photos.parts)
    references, queries = features[parts == TRAIN], features[parts == HOLDOUT]
    pca = PCA(DEFAULT_COMPONENTS, svd_solver="covariance_eigh").fit(references)
    spaces = {
        str(features.shape[1]): (references, queries),
        str(DEFAULT_COMPONENTS): (pca.transform(references), pca.transform(queries)),
    }
    results = {}
    for width, (train, held_out) in spaces.items():
        for method, classifier in {
            "1-NN": KNeighborsClassifier(1),
            "logistic": make_pipeline(StandardScaler(), LogisticRegression(max_iter=ITERATIONS)),
        }.items():
            with warnings.catch_warnings():
                # The bound on iterations is intended.
                warnings.simplefilter("ignore", ConvergenceWarning)
                classifier.fit(train, labels[parts == TRAIN])
            results[f"{method}, {width}"] = float(classifier.score(held_out, labels[parts == HOLDOUT]))
    return results


def table(figures: dict[str, dict[str, float]]) -> str:
    """Returns the accuracies by weights and method as a Markdown table, with 3 decimals."""
    methods = list(next(iter(figures.values())))
    lines = ["| Weights | " + " | ".join(methods) + " |", "|---|" + "---:|" * len(methods)]
    for name, values in figures.items():
        lines.append(f"| {name} | " + " | ".join(f"{values[method]:.3f}" for method in methods) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares weights of MobileNetV2 on the hold-out.")
    parser.add_argument(
        "--photos", type=Path, required=True, help="folder that contains one folder of .jpg files per class"
    )
    parser.add_argument(
        "--weights", nargs="+", required=True, help="NAME=PATH of a .npz or .h5 file, or random"
    )
    parser.add_argument("--json", type=Path, default=Path("evaluation.json"), help="file to write")
    arguments = parser.parse_args()
    use_scratch_folder()  # TensorFlow leaves Python files in the temporary folder

    photos = list_photos(arguments.photos)
    figures = {}
    for weights in arguments.weights:
        name = weights.partition("=")[0]
        figures[name] = accuracies(extract(load(weights), photos), photos)
    report = {
        "accuracy": figures,
        "photos": {part: photos.parts.count(part) for part in (TRAIN, HOLDOUT)},
        "classes": len(photos.classes),
        "pixels": IMAGE_SIDE,
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("keras", "numpy", "pillow", "scikit-learn")},
    }
    arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(table(figures))


if __name__ == "__main__":
    main()
