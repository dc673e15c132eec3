from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fruits_assets.samples import draw_samples
from spark_jobs.images import decode


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    root = tmp_path_factory.mktemp("samples") / "made" / "by draw_samples"
    return root, draw_samples(root, images_per_class=8)


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path), np.float64)


def test_every_class_is_a_folder_of_numbered_frames(drawn: tuple[Path, list[str]]) -> None:
    root, names = drawn
    assert len(names) >= 8 and names == sorted(names)
    assert sorted(path.name for path in root.iterdir()) == names
    for name in names:
        assert {path.name for path in (root / name).iterdir()} == {f"{n}_100.jpg" for n in range(8)}


def test_every_sample_is_a_small_jpeg_of_100_by_100(drawn: tuple[Path, list[str]]) -> None:
    for content in files(drawn[0]).values():
        decoded = decode(content, 10_000)
        assert (decoded.width, decoded.height, decoded.format) == (100, 100, "JPEG")
        assert len(content) < 10_000


def test_the_fruit_fills_the_middle_of_a_white_ground(drawn: tuple[Path, list[str]]) -> None:
    root, names = drawn
    for name in names:
        for path in (root / name).iterdir():
            photo = pixels(path)
            corners = photo[[0, 0, -1, -1], [0, -1, 0, -1]]
            assert corners.min() > 240, path
            assert 0.12 < (photo.min(axis=2) < 200).mean() < 0.85, path


def test_consecutive_frames_are_alike_and_no_two_are_equal(tmp_path: Path) -> None:
    for name in draw_samples(tmp_path, images_per_class=24):
        # In blocks of 20 x 20 pixels: a stripe that moves on by its own width is still the same fruit.
        frames = [pixels(tmp_path / name / f"{n}_100.jpg") for n in range(24)]
        frames = [frame.reshape(5, 20, 5, 20, 3).mean(axis=(1, 3)) for frame in frames]
        steps = [np.abs(a - b).mean() for a, b in zip(frames, frames[1:] + frames[:1], strict=True)]
        assert min(steps) > 0 and max(steps) < 10, name


def test_the_classes_differ_more_than_the_frames_of_one(drawn: tuple[Path, list[str]]) -> None:
    root, names = drawn
    colours = np.array(
        [[pixels(root / name / f"{n}_100.jpg").mean(axis=(0, 1)) for n in range(8)] for name in names]
    )
    means = colours.mean(axis=1)
    within = np.linalg.norm(colours - means[:, None], axis=2).mean()
    between = np.linalg.norm(means[:, None] - means[None], axis=2)[~np.eye(len(names), dtype=bool)].mean()
    assert between > 5 * within


def test_the_same_seed_draws_the_same_bytes(drawn: tuple[Path, list[str]], tmp_path: Path) -> None:
    draw_samples(tmp_path, images_per_class=8)
    assert files(tmp_path) == files(drawn[0])


def test_another_seed_draws_other_fruits(drawn: tuple[Path, list[str]], tmp_path: Path) -> None:
    draw_samples(tmp_path, images_per_class=1, seed=8)
    old = files(drawn[0])
    assert all(old[name] != content for name, content in files(tmp_path).items())


def test_a_second_call_repairs_an_interrupted_one(tmp_path: Path) -> None:
    names = draw_samples(tmp_path, images_per_class=2)
    whole = files(tmp_path)
    torn = tmp_path / names[0] / "0_100.jpg"
    torn.write_bytes(torn.read_bytes()[:100])
    (tmp_path / names[1] / "1_100.jpg").unlink()
    (tmp_path / names[1] / ".1_100.jpg.part").write_bytes(b"torn")
    draw_samples(tmp_path, images_per_class=2)
    assert files(tmp_path) == whole
