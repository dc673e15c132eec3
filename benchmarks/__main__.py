"""How the platform compares with the notebook it replaces, and with the limits of the machine.

    python -m benchmarks [--full] [--photos DIR] [--weights embedded] [--cores 2] [--out FILE]

Everything is run in fresh processes on the same photos and cores. `make bench-full` takes all of them, and
its stages three times, with peers in alternated order, of which the medians of the ratios are kept: single
times say little on a shared machine. `make bench` takes two classes once, where most of a time is start-up.
Prints one table, and writes the rows, the single runs and the machine's description as JSON.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import s3_server
from benchmarks.photo_sets import (
    find_photos,
    multiplied,
    photos_in,
    small_classes,
    some_classes,
)
from benchmarks.processes import Figures, machine, run, run_module

DAGSTER_YAML = Path(__file__).parents[1] / ".dagster" / "dagster.yaml"
LATENCIES = (0.0, 0.015)
STAGES = {
    "start": "start-up",
    "ingest": "ingest from disk",
    "features": "features",
    "pca_fit": "PCA fit",
    "csv": "projection and CSV",
}
NOTEBOOK, BETTER, BARE, OURS = "the notebook way", "predict_batch_udf", "the bare loop", "ours"
BINARY_FILE = "binaryFile"


class Size(NamedTuple):
    """How much is measured.

    Classes of the photos (None is all), and of them on S3; rounds of every comparison; what the images are
    multiplied by for `fruits run`, and at which of these the notebook way runs too; (classes, images of each)
    of the sets of many classes, and of the one of few that they stand against (None is the photos at hand).
    """

    classes: int | None
    s3_classes: int | None
    rounds: int
    times: tuple[int, ...]
    notebook_times: int
    many: tuple[tuple[int, int], ...]
    few: tuple[int, int] | None


QUICK = Size(2, 1, 1, (1, 2), 1, ((66, 3),), None)
FULL = Size(None, None, 3, (1, 2, 4), 4, ((130, 20), (1000, 20)), (20, 1000))


@dataclass(frozen=True)
class Row:
    """One line of the table: a figure of ours, and how it stands to another. Aims are for the full size."""

    what: str
    images: int
    figure: float
    unit: str
    ratio: float
    of: str
    aim: str = ""


class IncomparableError(ValueError):
    """A way did not work on the same photos as the others."""


class Bench:
    """What all measurements share: photos, cores, weights, a folder, and the single runs so far."""

    def __init__(self, photos: Path, weights: str, cores: int, size: Size, folder: Path) -> None:
        self.weights, self.cores, self.size, self.folder = weights, cores, size, folder
        self.photos = some_classes(photos, size.classes, folder / "photos")
        self.images = len(photos_in(self.photos))
        self.ir = folder / "ir"
        self.runs: dict[str, list[Figures]] = defaultdict(list)
        convert = [sys.executable, "-m", "fruits_assets.backbone.convert", "--out", str(self.ir)]
        run([*convert, "--weights", weights])

    def record(self, name: str, figures: Figures, images: int) -> Figures:
        """Keeps a run, which must be of so many images. Raises `IncomparableError`."""
        print(f"{name}: {figures}", file=sys.stderr, flush=True)
        if figures.get("images", images) != images:
            raise IncomparableError(
                f"{name} took {figures['images']:,} of {images:,} files. Give photos that all can read."
            )
        self.runs[name].append(figures)
        return figures

    def alternated(self, ways: dict[str, Callable[[], Figures]], images: int) -> None:
        """Runs every way once a round, in the other order every second round."""
        for number in range(self.size.rounds):
            for name in sorted(ways, reverse=bool(number % 2)):
                self.record(name, ways[name](), images)

    def ratio(self, ours: str, theirs: str, stage: str) -> float:
        """Times as fast as another, the median over the rounds."""
        pairs = zip(self.runs[ours], self.runs[theirs], strict=True)
        return statistics.median(their[stage] / our[stage] for our, their in pairs)

    def seconds(self, name: str, stage: str) -> float:
        return statistics.median(figures[stage] for figures in self.runs[name])

    def out(self) -> Path:
        """A new folder for one run."""
        return Path(tempfile.mkdtemp(dir=self.folder))


def stages(bench: Bench) -> Iterator[Row]:
    """Every stage, against the peers and the limit."""
    common: dict[str, Any] = {"photos": bench.photos, "cores": bench.cores}

    bench.alternated(
        {
            NOTEBOOK: lambda: notebook_way(bench, bench.photos),
            BETTER: lambda: notebook_way(bench, bench.photos, "predict_batch"),
            BINARY_FILE: lambda: run_module("binary_file", **common),
            OURS: lambda: run_module("our_way", ir=bench.ir, out=bench.out(), **common),
            BARE: lambda: run_module("bare_loop", ir=bench.ir, **common),
        },
        bench.images,
    )
    aims = {
        ("ingest", BINARY_FILE): ">= 1",
        ("features", NOTEBOOK): ">= 5",
        ("features", BARE): ">= 0.9",
        ("pca_fit", NOTEBOOK): ">= 5",
    }
    for stage, name in STAGES.items():
        seconds = bench.seconds(OURS, stage)
        figure = (seconds, "s") if stage == "start" else (bench.images / seconds, "images/s")
        for peer in (NOTEBOOK, BETTER, BINARY_FILE, BARE):
            if stage in bench.runs[peer][0]:
                ratio = bench.ratio(OURS, peer, stage)
                yield Row(name, bench.images, *figure, ratio, f"{peer}'s speed", aims.get((stage, peer), ""))


def s3_ingest(bench: Bench) -> Iterator[Row]:
    """Ingest of photos on S3, near and far, against `binaryFile`. The store is on disk."""
    photos = some_classes(bench.photos, bench.size.s3_classes, bench.folder / "s3")
    images = len(photos_in(photos))
    for latency in LATENCIES:
        at = f"S3 behind {latency * 1000:.0f} ms"
        ours, theirs = f"ours, {at}", f"{BINARY_FILE}, {at}"
        with s3_server.running(photos, latency) as env:
            common: dict[str, Any] = {"env": env, "photos": s3_server.URI, "cores": bench.cores}

            def our_way(common: dict[str, Any] = common) -> Figures:
                return run_module("our_way", "--ingest-only", ir=bench.ir, out=bench.out(), **common)

            def binary_file(common: dict[str, Any] = common) -> Figures:
                return run_module("binary_file", **common)

            bench.alternated({ours: our_way, theirs: binary_file}, images)
        ratio, rate = bench.ratio(ours, theirs, "ingest"), images / bench.seconds(ours, "ingest")
        aim = ">= 20" if latency else ""
        yield Row(f"ingest from {at}", images, rate, "images/s", ratio, f"{BINARY_FILE}'s speed", aim)


def scaling(bench: Bench) -> Iterator[Row]:
    """One core against all; more images, in time and memory; what Dagster costs; one class alone."""
    one = run_module("our_way", photos=bench.photos, ir=bench.ir, out=bench.out(), cores=1)
    bench.record("ours, 1 core", one, bench.images)
    for stage, name in STAGES.items():
        if stage != "start":
            seconds = bench.seconds(OURS, stage)
            yield Row(
                f"{name} on {bench.cores} cores", bench.images, bench.images / seconds, "images/s",
                one[stage] / seconds, "1 core's speed",
            )  # fmt: skip

    base = None
    for times in bench.size.times:
        photos = multiplied(bench.photos, times, bench.folder / f"times{times}")
        home = bench.out()
        what = f"fruits run, {times} x the images"
        images = bench.images * times
        cold = bench.record(what, fruits_run(bench, photos, home), images)
        if base is None:
            base = cold
            warm = bench.record("fruits run again", fruits_run(bench, photos, home), images)
            yield Row(
                "fruits run, its extractor made", images, warm["wall"], "s",
                warm["wall"] / bench.seconds(OURS, "wall"), "the same work's time without Dagster",
            )  # fmt: skip
            label = min(file.parent.name for file in photos_in(photos))
            of_class = len(photos_in(photos / label))
            alone = fruits_run(bench, photos, home, "--class", label)
            single = bench.record("fruits run --class", alone, of_class)
            yield Row(
                "fruits run --class, command to exit", of_class, single["wall"], "s",
                single["wall"] / warm["wall"], "the run of all classes", "<= 12 s",
            )  # fmt: skip
        else:
            per_image = cold["wall"] / base["wall"] / times
            of = "that of 1 x the images"
            yield Row(f"{what}: time an image", images, 1000 * cold["wall"] / images, "ms", per_image, of)
            for kind in ("driver", "jvm", "worker"):
                peak = cold["peak_mb"][kind]
                words = f"{what}: peak memory, {kind}"
                yield Row(words, images, peak, "MB", peak / base["peak_mb"][kind], of, "1")
        shutil.rmtree(home)
        if times == bench.size.notebook_times:
            if times == 1:
                theirs = bench.runs[NOTEBOOK][-1]
            else:
                what_theirs = f"{NOTEBOOK}, {times} x the images"
                theirs = bench.record(what_theirs, notebook_way(bench, photos), images)
            speed = theirs["wall"] / cold["wall"]
            yield Row(what, images, cold["wall"], "s", speed, f"{NOTEBOOK}'s speed", ">= 3")


def many_classes(bench: Bench) -> Iterator[Row]:
    """Many classes of few images: listing, pointers, metadata. Against as many images in few classes."""

    def measured(classes: int, images: int) -> float:
        photos = small_classes(bench.photos, classes, images, bench.folder / f"{classes}x{images}")
        home = bench.out()
        figures = fruits_run(bench, photos, home)
        shutil.rmtree(home)
        shutil.rmtree(photos)
        name = f"fruits run, {classes} classes of {images}"
        return float(bench.record(name, figures, classes * images)["wall"])

    if bench.size.few is None:
        few_photos, of = bench.images, "the photos in their own classes"
        few = bench.seconds("fruits run, 1 x the images", "wall")
    else:
        few_classes, few_images = bench.size.few
        few_photos, of = few_classes * few_images, f"{few_classes} classes of {few_images:,}"
        few = measured(few_classes, few_images)
    for classes, images in bench.size.many:
        many = measured(classes, images)
        # The time an image, as the sets may differ in size.
        ratio = many / classes / images / (few / few_photos)
        aim = "<= 1.5" if classes * images == few_photos else ""
        what = f"fruits run, {classes:,} classes of {images}"
        yield Row(what, classes * images, many, "s", ratio, f"the time an image of {of}", aim)


def notebook_way(bench: Bench, photos: Path, udf: str = "pandas") -> Figures:
    """The notebook's way over some photos; `udf` is which of its two."""
    return run_module(
        "notebook_way", photos=photos, weights=bench.weights, out=bench.out(), cores=bench.cores, udf=udf
    )


def fruits_run(bench: Bench, photos: Path, home: Path, *words: str) -> Figures:
    """`fruits run` as a user types it, with store and Dagster's home in `home`."""
    (home / "dagster").mkdir(exist_ok=True)
    shutil.copy(DAGSTER_YAML, home / "dagster")
    env = {
        "FRUITS_IMAGES": str(photos),
        "FRUITS_STORE": str(home / "store"),
        "FRUITS_WEIGHTS": bench.weights,
        "FRUITS_SPARK_CORES": str(bench.cores),
        "DAGSTER_HOME": str(home / "dagster"),
    }
    return run([str(Path(sys.executable).with_name("fruits")), "run", *words], env)


def table(rows: list[Row], with_aims: bool) -> str:
    """The rows as Markdown; where a stage has several peers, its figure stands once."""
    head = ["what", "images", "figure", "ratio", "to", *(["aim"] if with_aims else [])]
    lines = [head, ["---", "---:", "---:", "---:", "---", "---"][: len(head)]]
    before = ""
    for row in rows:
        known = row.what == before
        figure = f"{row.figure:,.{1 if row.figure < 100 else 0}f} {row.unit}"
        cells = ["", "", ""] if known else [row.what, f"{row.images:,}", figure]
        cells += [f"{row.ratio:.2f}", row.of, row.aim]
        lines.append(cells[: len(head)])
        before = row.what
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="all classes, and every size")
    parser.add_argument("--photos", type=Path, help="a root of photos; else Fruits-360's or drawn ones")
    parser.add_argument("--weights", default="embedded", help="a value of FRUITS_WEIGHTS")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(".bench"), help="folder of the JSON")
    arguments = parser.parse_args()
    started = time.monotonic()
    described = machine()
    rows: list[Row] = []
    skipped: list[str] = []
    size = FULL if arguments.full else QUICK
    # On the disk of the store to be, so that photos can be linked and nothing is kept in memory.
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / ("full.json" if arguments.full else "bench.json")
    weights = Path(arguments.weights)
    with tempfile.TemporaryDirectory(prefix="run-", dir=arguments.out.absolute()) as name:
        folder = Path(name)
        photos, what = find_photos(arguments.photos, folder / "found")
        weights_name = str(weights.absolute()) if weights.is_file() else arguments.weights
        bench = Bench(photos, weights_name, arguments.cores, size, folder)
        for section in (stages, s3_ingest, scaling, many_classes):
            try:
                rows.extend(section(bench))
            except subprocess.CalledProcessError as error:
                lines = (error.stderr or "").strip().splitlines() or ["no message"]
                skipped.append(f"{section.__name__}: {' '.join(error.cmd[1:4])}: {lines[-1]}")
            except IncomparableError as error:
                skipped.append(f"{section.__name__}: {error}")
            except statistics.StatisticsError:
                skipped.append(f"{section.__name__}: what it compares with was not measured")
            caption = (
                f"{what} ({bench.images:,} of them), {arguments.cores} cores of {described['processor']}, "
                f"{described['memory_gib']} GiB, load {described['load_before']} before; "
                f"rounds: {size.rounds}; {datetime.now(UTC):%Y-%m-%d}; {time.monotonic() - started:,.0f} s"
            )
            content = {
                "caption": caption,
                "machine": described,
                "rows": [asdict(row) for row in rows],
                "runs": bench.runs,
                "failed": skipped,
            }
            # After each section: what was measured for half an hour stands, whatever comes.
            file.write_text(json.dumps(content, indent=1))
    print(f"{caption}\n\n{table(rows, arguments.full)}\n\nThe single runs are in {os.path.relpath(file)}")
    if skipped:
        sys.exit("Not measured: " + "; ".join(skipped))


if __name__ == "__main__":
    main()
