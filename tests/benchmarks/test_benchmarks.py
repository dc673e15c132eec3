"""The benchmark: its table, its sections, its sets of photos, its baselines and its S3 server."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import benchmarks.__main__
from benchmarks import s3_server
from benchmarks.__main__ import table
from benchmarks.bench import QUICK, Bench, Row
from benchmarks.photo_sets import equal_classes, first_classes, multiplied, photos_in, variant
from benchmarks.processes import run, run_module
from benchmarks.sections import STAGES
from resources.photo_folders import list_photos
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import open_root
from tests.support import REPOSITORY, WEIGHTS, wait_for


@pytest.fixture(autouse=True)
def restored_sigterm_handler() -> Iterator[None]:
    """Restores the handler of SIGTERM, which the benchmark replaces in this process."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_stage_with_several_baselines_shows_its_figure_once() -> None:
    rows = [
        Row(
            measurement="features",
            images=100,
            figure=310.4,
            unit="images/s",
            ratio=5.2,
            reference="speed of the notebook baseline",
            target=">= 5",
        ),
        Row(
            measurement="features",
            images=100,
            figure=310.4,
            unit="images/s",
            ratio=0.9,
            reference="speed of the bare loop",
        ),
    ]
    assert table(rows, with_targets=False).splitlines()[2:] == [
        "| features | 100 | 310 images/s | 5.20 | speed of the notebook baseline |",
        "|  |  |  | 0.90 | speed of the bare loop |",
    ]
    assert table(rows, with_targets=True).splitlines()[2].endswith("| >= 5 |")


def test_finished_rows_are_printed_and_kept_if_a_section_fails(
    sample_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def good(bench: Bench) -> Iterator[Row]:
        yield Row(
            measurement="features",
            images=bench.images,
            figure=310.4,
            unit="images/s",
            ratio=5.2,
            reference="speed of the notebook baseline",
        )

    def incomparable(bench: Bench) -> Iterator[Row]:
        yield Row(
            measurement="ingest from disk",
            images=bench.images,
            figure=1000,
            unit="images/s",
            ratio=1.2,
            reference="speed of binaryFile",
        )
        bench.seconds("the notebook baseline", "features")

    def broken(bench: Bench) -> Iterator[Row]:
        run([sys.executable, "-c", "import sys; sys.exit('the reason')"])
        yield from ()

    def wrong(bench: Bench) -> Iterator[Row]:
        yield from dict[str, list[Row]]()["jvm"]

    monkeypatch.setattr(benchmarks.__main__, "SECTIONS", (incomparable, broken, wrong, good))
    monkeypatch.setattr(Bench, "convert", lambda bench: None)
    arguments = ["--photos", str(sample_photos), "--cores", "1", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit) as exit:
        benchmarks.__main__.main()
    assert (
        "incomparable: no run of the notebook baseline succeeded, so it can't be compared; broken: "
        in str(exit.value)
    )
    printed = capsys.readouterr()
    assert "| features | 16 | 310 images/s |" in printed.out and "ingest from disk" in printed.out
    assert "the reason" in printed.err and "KeyError: 'jvm'" in printed.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["bench.json"]
    content = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert [row["measurement"] for row in content["rows"]] == ["ingest from disk", "features"]
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
def test_an_unusable_option_is_refused_with_the_reason(
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


def test_the_order_of_the_variants_is_reversed_after_each_round(sample_photos: Path, tmp_path: Path) -> None:
    bench = Bench(photos=sample_photos, weights="embedded", cores=1, size=QUICK, folder=tmp_path / "bench")
    order: list[str] = []

    def variant(name: str, *seconds: float) -> Callable[[], dict[str, float]]:
        times = iter(seconds)

        def measured() -> dict[str, float]:
            order.append(name)
            return {"wall": next(times)}

        return measured

    variants = {"platform": variant("platform", 1, 2, 4), "baseline": variant("baseline", 10, 10, 10)}
    bench.alternate(variants, 16, rounds=3)
    assert order == ["baseline", "platform", "platform", "baseline", "baseline", "platform"]
    assert bench.speedup("platform", "baseline", "wall") == 5


def test_a_run_on_fewer_photos_is_refused(sample_photos: Path, tmp_path: Path) -> None:
    bench = Bench(photos=sample_photos, weights="embedded", cores=1, size=QUICK, folder=tmp_path / "bench")
    with pytest.raises(FruitsError, match="baseline read 15 of 16 photos"):
        bench.record("baseline", {"images": 15}, 16)


def test_an_interrupted_benchmark_removes_its_processes_and_its_folder(
    sample_photos: Path, extractor: Path, tmp_path: Path
) -> None:
    mark = str(tmp_path / "out")
    program = [sys.executable, "-m", "benchmarks", "--photos", str(sample_photos), "--out", mark]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(program, env=environment, stderr=subprocess.PIPE, text=True)

    def running() -> list[psutil.Process]:
        others = [other for other in psutil.process_iter() if other.pid != process.pid]
        return [other for other in others if mark in " ".join(_command(other))]

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


@pytest.mark.slow
def test_the_notebook_baseline_and_the_platform_explain_the_same_variance(
    sample_photos: Path, extractor: Path, tmp_path: Path
) -> None:
    common: dict[str, Any] = {"photos": sample_photos, "cores": 2}
    notebook = run_module("notebook_baseline", weights=WEIGHTS, out=tmp_path / "notebook", **common)
    platform = run_module("platform_jobs", ir=extractor, out=tmp_path / "platform", **common)
    assert notebook["explained_variance"] == pytest.approx(platform["explained_variance"], rel=1e-4)
    binary_file = run_module("binary_file", **common)
    assert notebook["images"] == platform["images"] == binary_file["images"] == len(photos_in(sample_photos))


def test_the_platform_and_the_bare_loop_ignore_the_users_settings(
    sample_photos: Path, extractor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRUITS_ENV", "emr")
    (tmp_path / ".env").write_text("FRUITS_MAX_IMAGE_BYTES=1")
    common: dict[str, Any] = {"photos": sample_photos, "ir": extractor, "cores": 2}
    platform = run_module("platform_jobs", out=tmp_path / "store", **common)
    bare = run_module("bare_loop", **common)
    assert platform["images"] == bare["images"] == len(photos_in(sample_photos))
    for figures in (platform, bare):
        assert all(figures[stage] > 0 for stage in STAGES)
        assert figures["read_features"] == figures["ingest"] + figures["features"]
        assert sum(figures[stage] for stage in STAGES) < figures["wall"] + figures["read_features"]
    assert {"driver", "jvm", "worker"} <= platform["peak_mb"].keys()


def test_larger_sets_are_of_distinct_photos(sample_photos: Path, tmp_path: Path) -> None:
    three = multiplied(sample_photos, 3, tmp_path / "three")
    assert len({photo.read_bytes() for photo in photos_in(three)}) == 3 * len(photos_in(sample_photos))
    assert {path.name for path in three.iterdir()} == {path.name for path in sample_photos.iterdir()}
    many = equal_classes(sample_photos, 30, 2, tmp_path / "many")
    assert [len(photos) for photos in list_photos(str(many)).classes.values()] == [2] * 30
    assert len({photo.read_bytes() for photo in photos_in(many)}) == 60
    assert len({variant(photos_in(sample_photos)[0], number) for number in range(400)}) == 400


def test_photos_with_equal_names_are_all_linked_and_none_is_overwritten(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    contents = {"2023/Kiwi/1.jpg": b"a", "2024/Kiwi/1.jpg": b"b", "Kiwi/green/1.jpg": b"c", ".DS_Store": b"d"}
    for path, content in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    chosen = first_classes(root, None, tmp_path / "chosen")
    assert sorted(photo.read_bytes() for photo in photos_in(chosen)) == [b"a", b"b", b"c"]
    assert {path: (root / path).read_bytes() for path in contents} == contents
    with pytest.raises(FileExistsError):
        first_classes(root, None, tmp_path / "chosen")
    assert {path: (root / path).read_bytes() for path in contents} == contents


def test_the_s3_server_lists_and_reads_the_photos_on_disk(
    sample_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    folder = equal_classes(sample_photos, 60, 20, tmp_path / "photos")  # more than a page of a listing
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
