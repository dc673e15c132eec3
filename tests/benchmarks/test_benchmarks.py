"""The benchmarks' own parts: the table, the sets of photos, and the S3 server that photos are read from."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

import benchmarks.__main__
from benchmarks import s3_server
from benchmarks.__main__ import STAGES, Bench, Row, table
from benchmarks.photo_sets import multiplied, photos_in, small_classes, some_classes
from benchmarks.processes import run, run_module
from spark_jobs.store.photos import list_photos
from spark_jobs.store.root import open_root
from tests.support import REPOSITORY, WEIGHTS, wait_for


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """What a benchmark in this process does about SIGTERM is undone."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_stage_with_several_peers_shows_its_figure_once() -> None:
    rows = [
        Row(
            what="features",
            images=100,
            figure=310.4,
            unit="images/s",
            ratio=5.2,
            of="the notebook's",
            aim=">= 5",
        ),
        Row(what="features", images=100, figure=310.4, unit="images/s", ratio=0.9, of="the loop's"),
    ]
    assert table(rows, with_aims=False).splitlines()[2:] == [
        "| features | 100 | 310 images/s | 5.20 | the notebook's |",
        "|  |  |  | 0.90 | the loop's |",
    ]
    assert table(rows, with_aims=True).splitlines()[2].endswith("| >= 5 |")


def test_what_was_measured_is_printed_also_where_a_section_fails(
    sample_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def good(bench: Bench) -> Iterator[Row]:
        yield Row(
            what="features",
            images=bench.images,
            figure=310.4,
            unit="images/s",
            ratio=5.2,
            of="the notebook's speed",
        )

    def incomparable(bench: Bench) -> Iterator[Row]:
        yield Row(
            what="ingest from disk",
            images=bench.images,
            figure=1000,
            unit="images/s",
            ratio=1.2,
            of="binaryFile's speed",
        )
        bench.seconds("the notebook way", "features")

    def broken(bench: Bench) -> Iterator[Row]:
        run([sys.executable, "-c", "import sys; sys.exit('it is said here')"])
        yield from ()

    def wrong(bench: Bench) -> Iterator[Row]:
        yield from {}["jvm"]

    monkeypatch.setattr(benchmarks.__main__, "SECTIONS", (incomparable, broken, wrong, good))
    monkeypatch.setattr(Bench, "convert", lambda bench: None)
    arguments = ["--photos", str(sample_photos), "--cores", "1", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit) as exit:
        benchmarks.__main__.main()
    assert "incomparable: there is nothing to compare with: the notebook way; broken: " in str(exit.value)
    printed = capsys.readouterr()
    assert "| features | 16 | 310 images/s |" in printed.out and "ingest from disk" in printed.out
    assert "it is said here" in printed.err and "KeyError: 'jvm'" in printed.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["bench.json"]
    content = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert [row["what"] for row in content["rows"]] == ["ingest from disk", "features"]
    assert len(content["failed"]) == 3


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("--cores", "0", "--cores 0: this machine has"),
        ("--cores", "9999", "--cores 9999: this machine has"),
        ("--photos", "/nowhere", "FRUITS_IMAGES=/nowhere does not exist"),
        ("--weights", "none.npz", "FRUITS_WEIGHTS=none.npz cannot be read"),
    ],
)
def test_what_cannot_be_measured_on_is_refused_by_a_sentence(
    option: str,
    value: str,
    reason: str,
    sample_photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = {"--photos": str(sample_photos), "--out": str(tmp_path / "out"), option: value}
    monkeypatch.setattr(sys, "argv", ["benchmarks", *(word for pair in given.items() for word in pair)])
    with pytest.raises(SystemExit, match="2"):
        benchmarks.__main__.main()
    assert reason in capsys.readouterr().err


def test_peers_are_run_in_turn_in_the_other_order_every_second_round(
    sample_photos: Path, tmp_path: Path
) -> None:
    bench = Bench(sample_photos, "embedded", 1, benchmarks.__main__.QUICK, tmp_path / "bench")
    order: list[str] = []

    def way(name: str, *seconds: float) -> Callable[[], dict[str, float]]:
        times = iter(seconds)

        def measured() -> dict[str, float]:
            order.append(name)
            return {"wall": next(times)}

        return measured

    bench.alternated({"ours": way("ours", 1, 2, 4), "theirs": way("theirs", 10, 10, 10)}, 16, rounds=3)
    assert order == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert bench.ratio("ours", "theirs", "wall") == 5
    with pytest.raises(benchmarks.__main__.FruitsError, match="theirs took 15 of 16 photos"):
        bench.record("theirs", {"images": 15}, 16)


def test_a_benchmark_that_is_interrupted_leaves_no_process_and_no_folder(
    sample_photos: Path, extractor: Path, tmp_path: Path
) -> None:
    mark = str(tmp_path / "out")
    program = [sys.executable, "-m", "benchmarks", "--photos", str(sample_photos), "--out", mark]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(program, env=environment, stderr=subprocess.PIPE, text=True)

    def running() -> list[psutil.Process]:
        others = [one for one in psutil.process_iter() if one.pid != process.pid]
        return [one for one in others if mark in " ".join(_command(one))]

    wait_for(running)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode
    wait_for(lambda: not running(), 30)
    assert list((tmp_path / "out").iterdir()) == []


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_the_notebook_way_and_ours_find_the_same_components(
    sample_photos: Path, extractor: Path, tmp_path: Path
) -> None:
    common = {"photos": sample_photos, "cores": 2}
    notebook = run_module("notebook_way", weights=WEIGHTS, out=tmp_path / "notebook", **common)
    ours = run_module("our_way", ir=extractor, out=tmp_path / "ours", **common)
    assert notebook["explained_variance"] == pytest.approx(ours["explained_variance"], rel=1e-4)
    read = run_module("binary_file", **common)
    assert notebook["images"] == ours["images"] == read["images"] == len(photos_in(sample_photos))


def test_our_way_and_its_limit_are_of_the_same_photos_whatever_the_user_has_set(
    sample_photos: Path, extractor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRUITS_ENV", "emr")
    (tmp_path / ".env").write_text("FRUITS_MAX_IMAGE_BYTES=1")
    common = {"photos": sample_photos, "ir": extractor, "cores": 2}
    ours = run_module("our_way", out=tmp_path / "store", **common)
    bare = run_module("bare_loop", **common)
    assert ours["images"] == bare["images"] == len(photos_in(sample_photos))
    for way in (ours, bare):
        assert all(way[stage] > 0 for stage in STAGES)
        assert way["read_features"] == way["ingest"] + way["features"]
        assert sum(way[stage] for stage in STAGES) < way["wall"] + way["read_features"]
    assert {"driver", "jvm", "worker"} <= ours["peak_mb"].keys()


def test_photos_are_multiplied_and_dealt_out_under_other_names(sample_photos: Path, tmp_path: Path) -> None:
    three = multiplied(sample_photos, 3, tmp_path / "three")
    assert len(photos_in(three)) == 3 * len(photos_in(sample_photos))
    assert {path.name for path in three.iterdir()} == {path.name for path in sample_photos.iterdir()}
    many = small_classes(sample_photos, 30, 2, tmp_path / "many")
    assert [len(photos) for photos in list_photos(str(many)).classes.values()] == [2] * 30


def test_photos_of_one_name_in_several_folders_are_all_kept_and_none_is_written_over(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    contents = {"2023/Kiwi/1.jpg": b"a", "2024/Kiwi/1.jpg": b"b", "Kiwi/green/1.jpg": b"c", ".DS_Store": b"d"}
    for path, content in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    chosen = some_classes(root, None, tmp_path / "chosen")
    assert sorted(photo.read_bytes() for photo in photos_in(chosen)) == [b"a", b"b", b"c"]
    assert {path: (root / path).read_bytes() for path in contents} == contents
    with pytest.raises(FileExistsError):
        some_classes(root, None, tmp_path / "chosen")
    assert {path: (root / path).read_bytes() for path in contents} == contents


def test_photos_on_the_s3_server_are_those_on_disk(
    sample_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    folder = small_classes(sample_photos, 60, 20, tmp_path / "photos")  # more than a page of a listing
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
