"""What has come since the PCA model was fitted, and how much of its variance the model keeps."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from spark_jobs.since_fit import since_fit
from spark_jobs.spark_model import read_components
from spark_jobs.store.pointers import current_one
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import PCA_MODEL
from spark_jobs.store.versions import Version
from tests.spark_jobs.support import Fitted, made_up_features
from tests.support import publish_features


@pytest.fixture
def root(fitted: Fitted, store: str) -> Root:
    """A copy of the store of `fitted`, with 100 images of each of three classes."""
    return open_root(shutil.copytree(fitted.store, store))


def model_of(root: Root) -> Version:
    model = current_one(root, PCA_MODEL)
    assert model
    return model


def test_a_model_of_the_current_images_is_current(root: Root) -> None:
    since = since_fit(root, model_of(root))
    assert since.is_current
    assert since.sentence == ""


def test_new_images_are_counted_and_their_variance_is_that_of_the_components(
    root: Root, fitted: Fitted
) -> None:
    rng = np.random.default_rng(9)
    new = rng.normal(size=(30, 1280)).astype(np.float32)
    kiwi = fitted.features["Kiwi"]
    publish_features(root.uri, {"Kiwi": np.concatenate([kiwi[:90], new[:10]]), "Lime": new[10:]})
    since = since_fit(root, model_of(root))
    assert (since.new_images, since.new_classes, since.gone_images) == (30, 1, 10)
    centred = new - np.array(fitted.description["mean"])
    components = read_components(root.uri, model_of(root).directory)
    kept = np.square(centred @ components).sum() / np.square(centred).sum()
    assert since.kept_variance == pytest.approx(kept, rel=1e-5)
    assert since.kept_at_fit == pytest.approx(sum(fitted.report.explained_variance))
    assert since.sentence == (
        "30 images and 1 class have come since it was fitted, and 10 images are gone. It keeps "
        f"{kept:.1%} of the variance of the new images, and {since.kept_at_fit:.1%} of those that it was "
        "fitted on. To fit a new one: fruits run --refit"
    )


def test_the_variance_of_many_new_images_is_that_of_a_sample(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spark_jobs.since_fit.SAMPLE_IMAGES", 50)
    publish_features(root.uri, {"Lime": np.concatenate([*made_up_features(200).values()]) + np.float32(0.01)})
    since = since_fit(root, model_of(root))
    assert since.new_images == 600
    assert since.kept_variance == pytest.approx(since.kept_at_fit, abs=0.1)


def test_renamed_and_copied_images_are_not_new(root: Root, fitted: Fitted) -> None:
    publish_features(root.uri, {"Lime": fitted.features["Kiwi"]})
    since = since_fit(root, model_of(root))
    assert (since.new_images, since.new_classes, since.kept_variance) == (0, 1, None)


def test_a_model_of_an_earlier_release_does_not_say_what_has_come(root: Root) -> None:
    (Path(root.uri) / model_of(root).directory / "contents.npy").unlink()
    publish_features(root.uri, made_up_features(20))
    since = since_fit(root, model_of(root))
    assert not since.is_current
    assert "what has come since is not known" in since.sentence
