"""How well features tell classes apart: 1-nearest-neighbour and a linear probe on a grouped hold-out."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spark_jobs.dimensions import FEATURES
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import Root
from spark_jobs.store.tables import Pointer, read_row_groups

if TYPE_CHECKING:
    from sklearn.base import ClassifierMixin

# A bounded sample, so that the cost is the same at any scale: some seconds.
SAMPLE_CLASSES, SAMPLE_IMAGES = 100, 2000

# Of a class's files in natural order, the middle quarter is held out. Neighbours often show the same
# fruit from almost the same side, so files next to the held-out stretch are used for nothing.
HOLDOUT = (0.375, 0.625)
GUARD = 0.03

TRAIN, HELD_OUT, UNUSED = 0, 1, 2


@dataclass(frozen=True)
class Sample:
    """Feature vectors (n, 1280), their labels (n,), and their parts (n,): TRAIN, HELD_OUT or UNUSED."""

    features: NDArray[np.float32]
    labels: NDArray[np.str_]
    parts: NDArray[np.int8]


@dataclass(frozen=True)
class Accuracy:
    """Shares of the held-out images that are told right, 0 to 1."""

    nearest_neighbour: float
    linear_probe: float

    @property
    def best(self) -> float:
        return max(self.nearest_neighbour, self.linear_probe)


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Accuracies on all features, on the model's components, and by number of components of a PCA of
    the training part; and the most frequent confusions (true class, taken for, images)."""

    on_features: Accuracy
    on_components: Accuracy
    components: int
    by_components: dict[int, Accuracy]
    confusions: list[tuple[str, str, int]]
    classes: int
    trained_on: int
    held_out: int


def natural_order(path: str) -> list[tuple[int, int | str]]:
    """A sort key under which `9.jpg` comes before `10.jpg`, as frames of a film are numbered."""
    return [
        (0, int(piece)) if piece.isdecimal() else (1, piece) for piece in re.split(r"(\d+)", path) if piece
    ]


def split(count: int) -> NDArray[np.int8]:
    """The parts of one class's images in natural order: a stretch in the middle is held out."""
    rank = (np.arange(count) + 0.5) / count
    start, end = HOLDOUT
    parts = np.full(count, TRAIN, np.int8)
    parts[(rank > start - GUARD) & (rank < end + GUARD)] = UNUSED
    parts[(rank > start) & (rank < end)] = HELD_OUT
    return parts


def read_sample(store: Root, features: dict[str, Pointer]) -> Sample:
    """At most 2,000 images of at most 100 classes, evenly taken; of each class, from its first file."""
    labels = list(features)[:: max(1, -(-len(features) // SAMPLE_CLASSES))]
    share = max(8, SAMPLE_IMAGES // max(1, len(labels)))
    vectors, names, parts = [], [], []
    for label in labels:
        part = features[label].parts[0]
        enough = int(np.searchsorted(np.cumsum(part.row_groups), share)) + 1
        chosen = range(min(enough, len(part.row_groups)))
        batches = list(read_row_groups(store, part.path, chosen, ["path", "features"]))
        paths = [path for batch in batches for path in batch.column("path").to_pylist()]
        of_class = np.concatenate([batch.column("features").flatten().to_numpy() for batch in batches])
        order = sorted(range(len(paths)), key=lambda index: natural_order(paths[index]))
        order = order[:: max(1, -(-len(order) // share))]
        vectors.append(of_class.reshape(-1, FEATURES)[order])
        names += [label] * len(order)
        parts.append(split(len(order)))
    return Sample(np.concatenate(vectors), np.array(names), np.concatenate(parts))


def assess(sample: Sample, components: NDArray[np.float64]) -> Quality:
    """Trains on the sample's training part and counts on its held-out part.

    `components` are the model's, (1280, k). Raises `FruitsError` where fewer than two classes have
    images in both parts.
    """
    from sklearn.decomposition import PCA

    train, held_out = sample.parts == TRAIN, sample.parts == HELD_OUT
    if len(set(sample.labels[train]) & set(sample.labels[held_out])) < 2:
        raise FruitsError(
            "telling classes apart needs at least two classes of 4 images or more, but the sample has "
            f"{len(set(sample.labels))} classes and {len(sample.labels)} images"
        )

    def accuracy(values: NDArray[Any]) -> tuple[Accuracy, NDArray[np.str_]]:
        guesses = [
            model.fit(values[train], sample.labels[train]).predict(values[held_out]) for model in _models()
        ]
        shares = [float(np.mean(guess == sample.labels[held_out])) for guess in guesses]
        return Accuracy(*shares), guesses[int(np.argmax(shares))]

    k = components.shape[1]
    on_features, _ = accuracy(sample.features)
    on_components, guesses = accuracy(sample.features @ components)
    most = min(4 * k, int(train.sum()) - 1, FEATURES)
    wider = PCA(most, svd_solver="full").fit(sample.features[train]).transform(sample.features)
    numbers = sorted({number for number in (1, 2, 3, 5, 8, k // 2, k, 2 * k, most) if 0 < number <= most})
    confused = Counter(zip(sample.labels[held_out], guesses, strict=True))
    worst = [(str(true), str(taken), n) for (true, taken), n in confused.most_common() if true != taken]
    return Quality(
        on_features=on_features,
        on_components=on_components,
        components=k,
        by_components={number: accuracy(wider[:, :number])[0] for number in numbers},
        confusions=worst[:10],
        classes=len(set(sample.labels)),
        trained_on=int(train.sum()),
        held_out=int(held_out.sum()),
    )


def verdict(quality: Quality, allowed_loss: float) -> tuple[bool, str]:
    """Whether the model's components are enough, and the sentence that says so.

    Enough is an accuracy at most `allowed_loss` (0 to 1) below that on all features, each by the better
    of the two classifiers.
    """
    loss = quality.on_features.best - quality.on_components.best
    enough = loss <= allowed_loss
    sentence = (
        f"{quality.components} components tell {quality.on_components.best:.1%} of held-out images right, "
        f"all {FEATURES} features {quality.on_features.best:.1%}: {quality.components} are "
        f"{'enough' if enough else 'not enough'} for a loss of at most {allowed_loss:.0%}."
    )
    if not enough:
        target = quality.on_features.best - allowed_loss
        better = [number for number, accuracy in quality.by_components.items() if accuracy.best >= target]
        sentence += (
            f" {min(better)} components would be."
            if better
            else f" Even {max(quality.by_components)} components would not be."
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
