"""The sample photos, which are part of the package."""

from pathlib import Path

from fruits_assets.samples import IMAGES_PER_CLASS, SAMPLE_PHOTOS, copy_samples
from spark_jobs.photos.images import decode


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.jpg")}


def test_the_samples_are_eight_classes_of_twenty_photos(tmp_path: Path) -> None:
    classes = copy_samples(tmp_path / "made" / "by copy_samples")
    copied = files(tmp_path / "made" / "by copy_samples")
    assert len(classes) == 8 and classes == sorted(classes)
    assert copied == files(SAMPLE_PHOTOS)
    for label in classes:
        assert sum(path.startswith(f"{label}/") for path in copied) == IMAGES_PER_CLASS


def test_every_sample_is_a_small_jpeg_of_100_by_100_pixels() -> None:
    for content in files(SAMPLE_PHOTOS).values():
        decoded = decode(content, 10_000)
        assert (decoded.width, decoded.height, decoded.format) == (100, 100, "JPEG")
        assert len(content) < 10_000


def test_the_samples_include_their_licence() -> None:
    assert "Permission is hereby granted, free of charge" in (SAMPLE_PHOTOS / "LICENSE").read_text()


def test_a_smaller_copy_has_the_first_frames_of_each_class(tmp_path: Path) -> None:
    copy_samples(tmp_path, images=2)
    assert sorted(path.name for path in (tmp_path / "Kiwi").iterdir()) == ["0_100.jpg", "10_100.jpg"]


def test_a_second_copy_repairs_an_interrupted_one(tmp_path: Path) -> None:
    first, second, *_ = copy_samples(tmp_path, images=2)
    complete = files(tmp_path)
    truncated, missing = next((tmp_path / first).iterdir()), next((tmp_path / second).iterdir())
    truncated.write_bytes(truncated.read_bytes()[:100])
    missing.unlink()
    copy_samples(tmp_path, images=2)
    assert files(tmp_path) == complete
