"""How well features tell classes apart: the split, the sample, the figures, the sentence."""

import numpy as np
import pytest
from numpy.typing import NDArray

from fruits_assets.model.quality import (
    HELD_OUT,
    TRAIN,
    UNUSED,
    Accuracy,
    Quality,
    Sample,
    assess,
    natural_order,
    read_sample,
    split,
    verdict,
)
from spark_jobs.dimensions import FEATURES
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import open_root
from spark_jobs.store.tables import current
from tests.support import publish_features


def clusters(classes: int, images: int, noise: float = 0.1) -> dict[str, NDArray[np.float32]]:
    """Vectors around one centre a class."""
    generator = np.random.default_rng(1)
    centres = generator.normal(size=(classes, FEATURES))
    return {
        f"class {number}": (centre + noise * generator.normal(size=(images, FEATURES))).astype(np.float32)
        for number, centre in enumerate(centres)
    }


def sample_of(vectors: dict[str, NDArray[np.float32]]) -> Sample:
    labels = np.repeat(list(vectors), [len(of_class) for of_class in vectors.values()])
    parts = np.concatenate([split(len(of_class)) for of_class in vectors.values()])
    return Sample(np.concatenate(list(vectors.values())), labels, parts)


def quality(on_components: float, by_components: dict[int, float]) -> Quality:
    curve = {number: Accuracy(share, 0.0) for number, share in by_components.items()}
    return Quality(
        on_features=Accuracy(0.9, 0.99),
        on_components=Accuracy(on_components, 0.1),
        components=15,
        by_components=curve,
        confusions=[],
        classes=2,
        trained_on=10,
        held_out=10,
    )


def test_frames_are_ordered_as_numbers() -> None:
    names = ["r_2_100.jpg", "10_100.jpg", "9_100.jpg", "r_10_100.jpg"]
    assert sorted(names, key=natural_order) == ["9_100.jpg", "10_100.jpg", "r_2_100.jpg", "r_10_100.jpg"]


@pytest.mark.parametrize("count", [4, 8, 98, 1000])
def test_one_stretch_is_held_out_and_its_neighbours_are_not_trained_on(count: int) -> None:
    parts = split(count)
    held_out = np.flatnonzero(parts == HELD_OUT)
    assert len(held_out) == pytest.approx(count / 4, abs=1)
    assert (np.diff(held_out) == 1).all()
    assert (parts == TRAIN).sum() >= count / 2
    if count >= 98:
        assert parts[held_out[0] - 1] == parts[held_out[-1] + 1] == UNUSED


def test_the_sample_is_bounded_and_even_over_classes(store: str) -> None:
    publish_features(store, clusters(4, 1200))
    sample = read_sample(open_root(store), current(open_root(store), "mobilenet_features"))
    _, counts = np.unique(sample.labels, return_counts=True)
    assert len(counts) == 4
    assert len(sample.labels) <= 2000
    assert counts.min() == counts.max() >= 300


def test_classes_that_lie_apart_are_told_apart() -> None:
    sample = sample_of(clusters(3, 40))
    components = np.linalg.svd(sample.features - sample.features.mean(axis=0), full_matrices=False)[2][:2].T
    found = assess(sample, components)
    assert found.on_features.best == found.on_components.best == 1
    assert found.confusions == []
    assert found.by_components[1].best < 1 or found.by_components[2].best == 1
    assert (found.classes, found.components) == (3, 2)


def test_what_is_confused_is_named() -> None:
    vectors = clusters(3, 40)
    vectors["twin"] = vectors["class 0"][::-1].copy()
    found = assess(sample_of(vectors), np.eye(FEATURES)[:, :200])
    assert {pair[:2] for pair in found.confusions} <= {("class 0", "twin"), ("twin", "class 0")}
    assert found.confusions


def test_noise_is_not_told_apart() -> None:
    generator = np.random.default_rng(2)
    vectors = {f"class {n}": generator.normal(size=(40, FEATURES)).astype(np.float32) for n in range(5)}
    assert assess(sample_of(vectors), np.eye(FEATURES)[:, :15]).on_features.best < 0.5


def test_one_class_cannot_be_assessed() -> None:
    with pytest.raises(FruitsError, match="at least two classes"):
        assess(sample_of(clusters(1, 40)), np.eye(FEATURES)[:, :2])


def test_the_verdict_says_that_the_components_are_enough() -> None:
    enough, sentence = verdict(quality(0.98, {15: 0.98}), allowed_loss=0.02)
    assert enough
    assert sentence.endswith("15 are enough for a loss of at most 2%.")


def test_the_verdict_says_how_many_components_would_be_enough() -> None:
    enough, sentence = verdict(quality(0.9, {15: 0.9, 30: 0.96, 60: 0.98}), allowed_loss=0.02)
    assert not enough
    assert sentence.endswith("not enough for a loss of at most 2%. 60 components would be.")


def test_the_verdict_says_that_no_tried_number_would_be_enough() -> None:
    enough, sentence = verdict(quality(0.5, {15: 0.5, 60: 0.6}), allowed_loss=0.02)
    assert not enough
    assert sentence.endswith("Even 60 components would not be.")
