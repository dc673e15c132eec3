"""How well features separate the classes: the sample, the accuracies and the verdict."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from fruits_assets.model.holdout import split_class
from fruits_assets.model.quality import Accuracy, Quality, Sample, assess, read_sample, verdict
from spark_jobs.dimensions import FEATURES
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import open_root
from tests.support import current_versions, publish_features


def clusters(classes: int, images: int, noise: float = 0.1) -> dict[str, NDArray[np.float32]]:
    """Returns vectors (images, 1280) around one centre per class."""
    generator = np.random.default_rng(1)
    centres = generator.normal(size=(classes, FEATURES))
    return {
        f"class {number}": (centre + noise * generator.normal(size=(images, FEATURES))).astype(np.float32)
        for number, centre in enumerate(centres)
    }


def sample_of(vectors: dict[str, NDArray[np.float32]]) -> Sample:
    labels = np.repeat(list(vectors), [len(values) for values in vectors.values()])
    parts = np.concatenate([split_class(len(values)) for values in vectors.values()])
    return Sample(np.concatenate(list(vectors.values())), labels, parts)


def quality_of(on_components: float, by_components: dict[int, float]) -> Quality:
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


def test_the_sample_is_bounded_and_equal_for_all_classes(store: str) -> None:
    publish_features(store, clusters(4, 1200))
    sample = read_sample(open_root(store), current_versions(open_root(store), "mobilenet_features"))
    _, counts = np.unique(sample.labels, return_counts=True)
    assert len(counts) == 4
    assert len(sample.labels) <= 2000
    assert counts.min() == counts.max() >= 300


@pytest.mark.parametrize("path", ["../elsewhere.parquet", "lost.parquet"])
def test_a_damaged_class_is_not_in_the_sample(store: str, path: str) -> None:
    root = open_root(store)
    publish_features(store, clusters(3, 40))
    versions = current_versions(root, "mobilenet_features")
    [part] = versions["class 1"].parts
    root.copy(part.path, "elsewhere.parquet")
    damaged = replace(part, path=f"mobilenet_features/{path}")
    versions["class 1"] = replace(versions["class 1"], parts=[damaged], damage="it is damaged")
    assert set(read_sample(root, versions).labels) == {"class 0", "class 2"}


def test_of_photos_with_the_same_content_only_one_is_in_the_sample(store: str) -> None:
    """With labels drawn at random, a copy in the training part would give a held-out photo away."""
    vectors = clusters(4, 40)
    copied = {**vectors, "class 3": np.concatenate([vectors["class 0"], vectors["class 3"]])}
    publish_features(store, copied)
    sample = read_sample(open_root(store), current_versions(open_root(store), "mobilenet_features"))
    assert len(np.unique(sample.features, axis=0)) == len(sample.features) == 160
    assert {str(label): int((sample.labels == label).sum()) for label in copied} == dict.fromkeys(copied, 40)


def test_the_verdict_on_classes_that_no_features_tell_apart_is_no_number_of_components() -> None:
    poor = replace(quality_of(0.36, {15: 0.36}), on_features=Accuracy(0.375, 0.3))
    enough, sentence = verdict(poor, allowed_loss=0.02)
    assert not enough
    assert sentence.startswith("Even all 1280 features classify only 37.5% of the held-out images correctly")


def test_a_store_whose_classes_are_all_damaged_has_an_empty_sample(store: str) -> None:
    publish_features(store, clusters(2, 40))
    versions = current_versions(open_root(store), "mobilenet_features")
    damaged = {label: replace(version, damage="it is damaged") for label, version in versions.items()}
    with pytest.raises(FruitsError, match=r"The sample has 0 classes and 0 images\."):
        assess(read_sample(open_root(store), damaged), np.eye(FEATURES)[:, :2])


def test_distant_classes_are_separated_without_error() -> None:
    sample = sample_of(clusters(3, 40))
    components = np.linalg.svd(sample.features - sample.features.mean(axis=0), full_matrices=False)[2][:2].T
    quality = assess(sample, components)
    assert quality.on_features.best == quality.on_components.best == 1
    assert quality.confusions == []
    assert quality.by_components[1].best < 1 or quality.by_components[2].best == 1
    assert (quality.classes, quality.components) == (3, 2)


def test_confused_classes_are_named() -> None:
    vectors = clusters(3, 40)
    vectors["twin"] = vectors["class 0"][::-1].copy()
    quality = assess(sample_of(vectors), np.eye(FEATURES)[:, :200])
    assert {pair[:2] for pair in quality.confusions} <= {("class 0", "twin"), ("twin", "class 0")}
    assert quality.confusions


def test_random_features_separate_no_classes() -> None:
    generator = np.random.default_rng(2)
    vectors = {f"class {n}": generator.normal(size=(40, FEATURES)).astype(np.float32) for n in range(5)}
    assert assess(sample_of(vectors), np.eye(FEATURES)[:, :15]).on_features.best < 0.5


def test_a_single_class_is_refused() -> None:
    with pytest.raises(FruitsError, match="at least two classes"):
        assess(sample_of(clusters(1, 40)), np.eye(FEATURES)[:, :2])


def test_the_verdict_confirms_that_the_components_are_enough() -> None:
    enough, sentence = verdict(quality_of(0.98, {15: 0.98}), allowed_loss=0.02)
    assert enough
    assert sentence.endswith("15 components are enough for a loss of at most 2%.")


def test_the_verdict_gives_the_smallest_number_that_is_enough() -> None:
    enough, sentence = verdict(quality_of(0.9, {15: 0.9, 30: 0.96, 60: 0.98}), allowed_loss=0.02)
    assert not enough
    assert sentence.endswith("not enough for a loss of at most 2%. 60 components would be enough.")


def test_the_verdict_reports_that_no_tried_number_is_enough() -> None:
    enough, sentence = verdict(quality_of(0.5, {15: 0.5, 60: 0.6}), allowed_loss=0.02)
    assert not enough
    assert sentence.endswith("Even 60 components would not be enough.")
