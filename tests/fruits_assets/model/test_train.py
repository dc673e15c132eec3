"""The hold-out, the training's resumption and the file of the backbone's weights."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from fruits_assets.model.holdout import (
    GUARD,
    GUARD_FRAMES,
    HOLDOUT,
    TRAIN,
    Photos,
    frame_of,
    list_photos,
    split_class,
)
from tests.support import REPOSITORY

EMBEDDED = REPOSITORY / "fruits_assets" / "model" / "embedded.npz"
FILM = [f"{frame}_100.jpg" for frame in range(0, 320, 5)] + [
    f"r_{frame}_100.jpg" for frame in range(9, 219, 6)
]


def frames_by_part(names: list[str], axis: str) -> dict[str, list[int]]:
    frames: dict[str, list[int]] = {TRAIN: [], HOLDOUT: [], GUARD: []}
    for name, part in zip(names, split_class(names), strict=True):
        if frame_of(name)[0] == axis:
            frames[part].append(frame_of(name)[1])
    return {part: sorted(values) for part, values in frames.items()}


@pytest.mark.parametrize("axis", ["", "r_"])
def test_held_out_frames_are_one_stretch_of_each_axis(axis: str) -> None:
    frames = frames_by_part(FILM, axis)
    first, last = frames[HOLDOUT][0], frames[HOLDOUT][-1]
    assert len(frames[HOLDOUT]) >= 0.2 * sum(map(len, frames.values()))
    assert all(frame < first or frame > last for frame in frames[TRAIN] + frames[GUARD])


@pytest.mark.parametrize("axis", ["", "r_"])
def test_no_training_frame_is_within_the_guard_of_a_held_out_frame(axis: str) -> None:
    frames = frames_by_part(FILM, axis)
    gaps = [abs(trained - held) for trained in frames[TRAIN] for held in frames[HOLDOUT]]
    assert min(gaps) > GUARD_FRAMES
    assert frames[GUARD]


def test_the_split_depends_on_the_names_and_not_on_their_order() -> None:
    shuffled = [FILM[position] for position in np.random.default_rng(0).permutation(len(FILM))]
    expected = dict(zip(FILM, split_class(FILM), strict=True))
    assert dict(zip(shuffled, split_class(shuffled), strict=True)) == expected


def test_a_name_without_a_frame_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'apple\.jpg' does not tell its frame.*name photos"):
        split_class(["apple.jpg"])


def test_a_folder_without_photos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no photo: give a folder"):
        list_photos(tmp_path)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    """Twelve frames each of a red disc and a green square on white."""
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
    """Without TensorFlow's graphs: compiling one of MobileNetV2's takes longer than a few steps do."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.usefixtures("eager")
# Data pipelines stay compiled, which is meant.
@pytest.mark.filterwarnings("ignore:Even though the `tf.config")
def test_training_resumed_after_an_interruption_gives_the_uninterrupted_weights(
    drawn: Photos, tmp_path: Path
) -> None:
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
    with pytest.raises(ValueError, match=r"'seed': 0.*not with.*'seed': 1.*give another --out"):
        load_checkpoint(tmp_path / "checkpoint.npz", {"seed": 1})


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import keras

    from fruits_assets.model.mobilenet import build, save_npz

    keras.utils.set_random_seed(1)
    path = tmp_path_factory.mktemp("weights") / "weights.npz"
    save_npz(build(32), path)
    return path


def test_exported_weights_load_within_float16_rounding_and_export_to_the_same_bytes(
    exported: Path, tmp_path: Path
) -> None:
    import keras

    from fruits_assets.model.mobilenet import build, load_npz, save_npz

    keras.utils.set_random_seed(1)
    original = build(32)
    # Another size and another session's names: weights depend on neither.
    loaded = build(64)
    load_npz(loaded, exported)
    for expected, weight in zip(original.weights, loaded.weights, strict=True):
        np.testing.assert_allclose(weight.numpy(), expected.numpy(), rtol=2**-11, atol=2**-24)
    save_npz(loaded, tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == exported.read_bytes()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"Conv1/kernel": None}, "has no array 'Conv1/kernel', which the model needs: take"),
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
def test_a_file_of_other_arrays_than_the_models_is_refused(
    exported: Path, tmp_path: Path, change: dict[str, np.ndarray | None], sentence: str
) -> None:
    from fruits_assets.model.mobilenet import build, load_npz

    with np.load(exported) as file:
        arrays = {name: array for name, array in (dict(file) | change).items() if array is not None}
    np.savez(tmp_path / "changed.npz", **arrays)
    with pytest.raises(ValueError, match=sentence):
        load_npz(build(32), tmp_path / "changed.npz")


def test_the_embedded_file_is_finite_float16_of_4_and_a_half_megabytes() -> None:
    assert 4_400_000 < EMBEDDED.stat().st_size < 4_700_000
    with np.load(EMBEDDED, allow_pickle=False) as file:
        for name in file.files:
            assert file[name].dtype == np.float16, name
            assert np.isfinite(file[name]).all(), name
