"""How well features separate the classes: 1-nearest-neighbour and a linear probe on a hold-out."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fruits_assets.model.holdout import HOLDOUT, TRAIN, natural_order, split_class
from spark_jobs.dimensions import FEATURES
from spark_jobs.errors import FruitsError
from spark_jobs.store.parquet import read_row_groups, vectors_in
from spark_jobs.store.root import Root
from spark_jobs.store.versions import Version

if TYPE_CHECKING:
    from sklearn.base import ClassifierMixin

# Below this accuracy on all features, more components do not help: the photos or their labels are the matter.
POOR_ACCURACY = 0.7

# The sample is bounded, so that the assessment takes some seconds for any number of images.
SAMPLE_CLASSES, SAMPLE_IMAGES = 100, 2000


@dataclass(frozen=True)
class Sample:
    """Feature vectors (n, 1280), their labels (n,), and their parts (n,): TRAIN, HOLDOUT or GUARD."""

    features: NDArray[np.float32]
    labels: NDArray[np.str_]
    parts: NDArray[np.str_]


@dataclass(frozen=True)
class Accuracy:
    """Shares (0 to 1) of the held-out images whose class each classifier predicts correctly."""

    nearest_neighbour: float
    linear_probe: float

    @property
    def best(self) -> float:
        return max(self.nearest_neighbour, self.linear_probe)


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Accuracies on the held-out images of a sample.

    `by_components` gives the accuracy by number of components, of a PCA of the training part. `confusions`
    are the most frequent ones on the model's components: (true class, predicted class, images).
    """

    on_features: Accuracy
    on_components: Accuracy
    components: int
    by_components: dict[int, Accuracy]
    confusions: list[tuple[str, str, int]]
    classes: int
    trained_on: int
    held_out: int


def read_sample(store: Root, features: dict[str, Version]) -> Sample:
    """Reads at most 2,000 images of at most 100 classes, spread evenly, from the first file of each class.

    Damaged classes are left out. Of photos with the same content, in one class or in several, only the first
    is in the sample: a classifier that has a held-out photo in its training part would recognise it.
    """
    whole = [label for label, version in features.items() if not version.damage]
    labels = whole[:: max(1, -(-len(whole) // SAMPLE_CLASSES))]
    share = max(8, SAMPLE_IMAGES // max(1, len(labels)))
    vectors, names, parts = [np.empty((0, FEATURES), np.float32)], [], [split_class(0)]
    hashes: list[str] = []
    for label in labels:
        file = features[label].parts[0]
        needed = int(np.searchsorted(np.cumsum(file.row_groups), share)) + 1
        row_groups = range(min(needed, len(file.row_groups)))
        batches = list(read_row_groups(store, file.path, row_groups, ["path", "sha256", "features"]))
        paths = [path for batch in batches for path in batch.column("path").to_pylist()]
        contents = [sha256 for batch in batches for sha256 in batch.column("sha256").to_pylist()]
        values = np.concatenate([vectors_in(batch) for batch in batches])
        order = sorted(range(len(paths)), key=lambda index: natural_order(paths[index]))
        order = order[:: max(1, -(-len(order) // share))]
        vectors.append(values[order])
        names += [label] * len(order)
        hashes += [contents[index] for index in order]
        parts.append(split_class(len(order)))
    once = np.sort(np.unique(np.array(hashes, str), return_index=True)[1])
    return Sample(np.concatenate(vectors)[once], np.array(names, str)[once], np.concatenate(parts)[once])


def assess(sample: Sample, components: NDArray[np.float64]) -> Quality:
    """Trains classifiers on the training part of the sample, and measures them on its held-out part.

    `components` are the columns of the PCA model, (1280, k). Raises `FruitsError` if fewer than two classes
    have images in both parts.
    """
    from sklearn.decomposition import PCA

    train, held_out = sample.parts == TRAIN, sample.parts == HOLDOUT
    if len(set(sample.labels[train]) & set(sample.labels[held_out])) < 2:
        raise FruitsError(
            "To measure how well classes are separated, at least two classes must have enough images for a "
            f"training and a held-out part. The sample has {len(set(sample.labels))} classes and "
            f"{len(sample.labels)} images. Add photos and run the pipeline again."
        )

    def accuracy(values: NDArray[Any]) -> tuple[Accuracy, NDArray[np.str_]]:
        predictions = [
            model.fit(values[train], sample.labels[train]).predict(values[held_out]) for model in _models()
        ]
        shares = [float(np.mean(predicted == sample.labels[held_out])) for predicted in predictions]
        return Accuracy(*shares), predictions[int(np.argmax(shares))]

    k = components.shape[1]
    on_features, _ = accuracy(sample.features)
    on_components, predicted = accuracy(sample.features @ components)
    most = min(4 * k, int(train.sum()) - 1, FEATURES)
    projected = PCA(most, svd_solver="full").fit(sample.features[train]).transform(sample.features)
    numbers = sorted({number for number in (1, 2, 3, 5, 8, k // 2, k, 2 * k, most) if 0 < number <= most})
    pairs = Counter(zip(sample.labels[held_out], predicted, strict=True))
    confusions = [(str(true), str(label), n) for (true, label), n in pairs.most_common() if true != label]
    return Quality(
        on_features=on_features,
        on_components=on_components,
        components=k,
        by_components={number: accuracy(projected[:, :number])[0] for number in numbers},
        confusions=confusions[:10],
        classes=len(set(sample.labels)),
        trained_on=int(train.sum()),
        held_out=int(held_out.sum()),
    )


def verdict(quality: Quality, allowed_loss: float) -> tuple[bool, str]:
    """Returns whether the model's components are enough, and a sentence with the accuracies.

    The components are enough if their accuracy is at most `allowed_loss` (0 to 1) below the accuracy on all
    features. The better classifier counts in both cases. If even all features tell the classes apart poorly,
    no number of components is enough.
    """
    if quality.on_features.best < POOR_ACCURACY:
        return False, (
            f"Even all {FEATURES} features classify only {quality.on_features.best:.1%} of the held-out "
            "images correctly, so the number of components is not the matter. Look for wrong labels, for "
            "photos that show something else, and for classes that look the same."
        )
    loss = quality.on_features.best - quality.on_components.best
    enough = loss <= allowed_loss
    sentence = (
        f"{quality.components} components classify {quality.on_components.best:.1%} of the held-out images "
        f"correctly, all {FEATURES} features {quality.on_features.best:.1%}: {quality.components} components "
        f"are {'enough' if enough else 'not enough'} for a loss of at most {allowed_loss:.0%}."
    )
    if not enough:
        target = quality.on_features.best - allowed_loss
        better = [number for number, accuracy in quality.by_components.items() if accuracy.best >= target]
        sentence += (
            f" {min(better)} components would be enough."
            if better
            else f" Even {max(quality.by_components)} components would not be enough."
        )
    return enough, sentence


def _models() -> "Sequence[ClassifierMixin]":
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return (
        KNeighborsClassifier(1),
        make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-2, max_iter=100)),
    )
