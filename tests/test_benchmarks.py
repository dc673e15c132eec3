"""The benchmarks' own parts: the table, the sets of photos, and the S3 server that photos are read from."""

import os
from pathlib import Path

import pytest

from benchmarks import s3_server
from benchmarks.__main__ import STAGES, Row, table
from benchmarks.photo_sets import multiplied, photos_in, small_classes
from benchmarks.processes import run_module
from fruits_assets.store.photos import list_photos
from fruits_assets.store.root import open_root


def test_a_stage_with_several_peers_shows_its_figure_once() -> None:
    rows = [
        Row("features", 100, 310.4, "images/s", 5.2, "the notebook's", ">= 5"),
        Row("features", 100, 310.4, "images/s", 0.9, "the loop's"),
    ]
    assert table(rows, with_aims=False).splitlines()[2:] == [
        "| features | 100 | 310 images/s | 5.20 | the notebook's |",
        "|  |  |  | 0.90 | the loop's |",
    ]
    assert table(rows, with_aims=True).splitlines()[2].endswith("| >= 5 |")


def test_our_way_and_its_limit_are_of_the_same_photos_whatever_the_user_has_set(
    drawn_photos: Path, extractor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRUITS_ENV", "emr")
    (tmp_path / ".env").write_text("FRUITS_MAX_IMAGE_BYTES=1")
    common = {"photos": drawn_photos, "ir": extractor, "cores": 2}
    ours = run_module("our_way", out=tmp_path / "store", **common)
    bare = run_module("bare_loop", **common)
    assert ours["images"] == bare["images"] == len(photos_in(drawn_photos))
    for way in (ours, bare):
        assert all(way[stage] > 0 for stage in STAGES)
        assert sum(way[stage] for stage in STAGES) < way["wall"]
    assert {"driver", "jvm", "worker"} <= ours["peak_mb"].keys()


def test_photos_are_multiplied_and_dealt_out_under_other_names(drawn_photos: Path, tmp_path: Path) -> None:
    three = multiplied(drawn_photos, 3, tmp_path / "three")
    assert len(photos_in(three)) == 3 * len(photos_in(drawn_photos))
    assert {path.name for path in three.iterdir()} == {path.name for path in drawn_photos.iterdir()}
    many = small_classes(drawn_photos, 30, 2, tmp_path / "many")
    assert [len(photos) for photos in list_photos(str(many)).classes.values()] == [2] * 30


def test_photos_on_the_s3_server_are_those_on_disk(
    drawn_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    folder = small_classes(drawn_photos, 60, 20, tmp_path / "photos")  # more than a page of a listing
    with s3_server.running(folder, latency=0.001) as environment:
        for name, value in environment.items():
            monkeypatch.setitem(os.environ, name, value)
        open_root.cache_clear()
        on_s3, on_disk = list_photos(s3_server.URI).classes, list_photos(str(folder)).classes
        assert {label: [photo.path for photo in photos] for label, photos in on_s3.items()} == {
            label: [photo.path for photo in photos] for label, photos in on_disk.items()
        }
        photo = on_s3["class 0059"][-1]
        assert open_root(s3_server.URI).read(photo.path) == (folder / photo.path).read_bytes()
        with pytest.raises(FileNotFoundError):
            open_root(s3_server.URI).read("class 0059/none.jpg")
    open_root.cache_clear()
