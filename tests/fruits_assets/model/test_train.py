"""The training: how it resumes after an interruption, and the file of the backbone's weights."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from fruits_assets.model.holdout import HOLDOUT, TRAIN, Photos, list_photos
from tests.support import REPOSITORY

EMBEDDED = REPOSITORY / "fruits_assets" / "model" / "embedded.npz"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    """Photos of two classes, 12 frames each: a red disc and a green square on white."""
    folder = tmp_path_factory.mktemp("photos")
    for name in ("Disc", "Square"):
        (folder / name).mkdir()
        for frame in range(0, 120, 10):
            image = Image.new("RGB", (40, 40), "white")
            box = (6, 6, 24 + frame // 10, 30)
            if name == "Disc":
                ImageDraw.Draw(image).ellipse(box, "red")
            else:
                ImageDraw.Draw(image).rectangle(box, "green")
            image.save(folder / name / f"{frame}_40.jpg")
    return list_photos(folder)


def test_every_class_has_training_and_held_out_photos(drawn: Photos) -> None:
    cells = set(zip(drawn.labels, drawn.parts, strict=True))
    assert {(label, part) for label in (0, 1) for part in (TRAIN, HOLDOUT)} <= cells


@pytest.fixture
def eager() -> Iterator[None]:
    """Runs without TensorFlow's graphs: to compile MobileNetV2's graph takes longer than a few steps."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.usefixtures("eager")
# TensorFlow warns that data pipelines stay compiled, as intended.
@pytest.mark.filterwarnings("ignore:Even though the `tf.config")
def test_resumed_training_gives_the_weights_of_uninterrupted_training(drawn: Photos, tmp_path: Path) -> None:
    from fruits_assets.model.train import Phase, train

    phases = [Phase(32, 2, 1e-3)]
    whole = train(drawn, tmp_path / "whole", phases=phases)
    train(drawn, tmp_path / "parts", phases=phases, stop_after=1)
    assert not (tmp_path / "parts" / "embedded.npz").exists()
    resumed = train(drawn, tmp_path / "parts", phases=phases)
    for expected, weight in zip(whole.weights, resumed.weights, strict=True):
        np.testing.assert_allclose(
            weight.numpy(), expected.numpy(), rtol=1e-3, atol=1e-4, err_msg=weight.path
        )


def test_a_checkpoint_of_another_seed_is_not_resumed(tmp_path: Path) -> None:
    from fruits_assets.model.train import load_checkpoint

    np.savez(
        tmp_path / "checkpoint.npz", progress=np.array('{"course": {"seed": 0}, "epochs": 1, "seconds": 2.0}')
    )
    with pytest.raises(ValueError, match=r"'seed': 0.*not with.*'seed': 1.*Give another --out"):
        load_checkpoint(tmp_path / "checkpoint.npz", {"seed": 1})


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import keras

    from fruits_assets.model.mobilenet import build, save_npz

    keras.utils.set_random_seed(1)
    path = tmp_path_factory.mktemp("weights") / "weights.npz"
    save_npz(build(32), path)
    return path


def test_exported_weights_load_within_float16_rounding(exported: Path, tmp_path: Path) -> None:
    import keras

    from fruits_assets.model.mobilenet import build, load_npz, save_npz

    keras.utils.set_random_seed(1)
    original = build(32)
    # Neither the image size nor the layer names of a new Keras session change the weights.
    loaded = build(64)
    load_npz(loaded, exported)
    for expected, weight in zip(original.weights, loaded.weights, strict=True):
        np.testing.assert_allclose(weight.numpy(), expected.numpy(), rtol=2**-11, atol=2**-24)
    save_npz(loaded, tmp_path / "again.npz")
    # The same weights give the same bytes.
    assert (tmp_path / "again.npz").read_bytes() == exported.read_bytes()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"Conv1/kernel": None}, "has no array 'Conv1/kernel', which the model needs. Use the file"),
        (
            {"Conv2/kernel": np.zeros(3, np.float16)},
            "has an array 'Conv2/kernel', which the model does not have",
        ),
        (
            {"bn_Conv1/beta": np.zeros(3, np.float16)},
            r"'bn_Conv1/beta' of shape \(3,\), but the model's is \(32,\)",
        ),
        ({"bn_Conv1/beta": np.full(32, np.nan, np.float16)}, "'bn_Conv1/beta' that are not finite"),
    ],
)
def test_a_weights_file_with_wrong_arrays_is_refused(
    exported: Path, tmp_path: Path, change: dict[str, np.ndarray | None], sentence: str
) -> None:
    from fruits_assets.model.mobilenet import build, load_npz

    with np.load(exported) as file:
        arrays = {name: array for name, array in (dict(file) | change).items() if array is not None}
    np.savez(tmp_path / "changed.npz", **arrays)
    with pytest.raises(ValueError, match=sentence):
        load_npz(build(32), tmp_path / "changed.npz")


def test_the_embedded_weights_are_finite_float16_in_4_and_a_half_mb() -> None:
    assert 4_400_000 < EMBEDDED.stat().st_size < 4_700_000
    with np.load(EMBEDDED, allow_pickle=False) as file:
        for name in file.files:
            assert file[name].dtype == np.float16, name
            assert np.isfinite(file[name]).all(), name
