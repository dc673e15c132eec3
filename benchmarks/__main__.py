"""How the platform compares with the notebook it replaces, and with the limits of the machine.

    python -m benchmarks [--full] [--photos DIR] [--weights embedded] [--cores 2] [--out FILE]

Everything is run in fresh processes on the same photos and cores. `make bench-full` takes all of them, and
its stages three times, with peers in alternated order, of which the medians of the ratios are kept: single
times say little on a shared machine. `make bench` takes two classes once, where most of a time is start-up.
Prints one table, and writes the rows, the single runs and the machine's description as JSON. Exits with 1
where something could not be measured.
"""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks import s3_server
from benchmarks.photo_sets import (
    find_photos,
    multiplied,
    photos_by_class,
    photos_in,
    small_classes,
    some_classes,
)
from benchmarks.processes import Figures, available_cores, machine, run, run_module
from spark_jobs.errors import FruitsError

DAGSTER_YAML = Path(__file__).parents[1] / ".dagster" / "dagster.yaml"
LATENCIES = (0.0, 0.015)
STAGES = {
    "start": "start-up",
    "ingest": "ingest from disk",
    "features": "features",
    "read_features": "ingest and features",
    "pca_fit": "PCA fit",
    "csv": "projection and CSV",
}
NOTEBOOK, BETTER, BARE, OURS = "the notebook way", "predict_batch_udf", "the bare loop", "ours"
BINARY_FILE = "binaryFile"
MEMORY = ("driver", "jvm", "worker")


class Size(NamedTuple):
    """How much is measured.

    Classes of the photos (None is all), and of them on S3; rounds of every comparison; what the images are
    multiplied by for `fruits run`, and at which of these the notebook way runs too, in how many rounds;
    (classes, images of each) of the sets of many classes, and the number of classes of the sets of as many
    images that they stand against (None where that is the photos at hand).
    """

    classes: int | None
    s3_classes: int | None
    rounds: int
    times: tuple[int, ...]
    notebook_times: int
    notebook_rounds: int
    many: tuple[tuple[int, int], ...]
    few: int | None


QUICK = Size(
    classes=2,
    s3_classes=1,
    rounds=1,
    times=(2,),
    notebook_times=1,
    notebook_rounds=1,
    many=((66, 3),),
    few=None,
)
FULL = Size(
    classes=None,
    s3_classes=None,
    rounds=3,
    times=(2, 4),
    notebook_times=4,
    notebook_rounds=2,
    many=((130, 20), (1000, 20)),
    few=20,
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: a figure of ours, and how it stands to another. Aims are for the full size."""

    what: str
    images: int
    figure: float
    unit: str
    ratio: float
    of: str
    aim: str = ""


class Bench:
    """What all measurements share: photos, cores, weights, a folder, and the single runs so far."""

    def __init__(self, photos: Path, weights: str, cores: int, size: Size, folder: Path) -> None:
        self.weights, self.cores, self.size, self.folder = weights, cores, size, folder
        self.photos = some_classes(photos, size.classes, folder / "photos")
        chosen = photos_in(self.photos)
        for photo in chosen:  # or the way that comes first would wait for the disk, and the others not
            photo.read_bytes()
        self.images = len(chosen)
        self.ir = folder / "ir"
        self.runs: dict[str, list[Figures]] = defaultdict(list)

    def convert(self) -> None:
        """Makes the extractor that all of ours use. Raises `CalledProcessError` for unusable weights."""
        program = [sys.executable, "-m", "fruits_assets.model.convert"]
        run([*program, "--out", str(self.ir), "--weights", self.weights])

    def record(self, name: str, figures: Figures, images: int) -> Figures:
        """Keeps a run. Raises `FruitsError` where it says that it was of another number of images."""
        print(f"{name}: {figures}", file=sys.stderr, flush=True)
        if figures.get("images", images) != images:
            raise FruitsError(
                f"{name} took {figures['images']:,} of {images:,} photos. Give photos that all can read."
            )
        self.runs[name].append(figures)
        return figures

    def alternated(self, ways: dict[str, Callable[[], Figures]], images: int, rounds: int) -> None:
        """Runs every way once a round, in the other order every second round."""
        for number in range(rounds):
            for name in sorted(ways, reverse=bool(number % 2)):
                self.record(name, ways[name](), images)

    def of(self, name: str) -> list[Figures]:
        """The runs of one name. Raises `FruitsError` where there are none."""
        if not self.runs[name]:
            raise FruitsError(f"there is nothing to compare with: {name}")
        return self.runs[name]

    def ratio(self, ours: str, theirs: str, stage: str) -> float:
        """Times as fast as another, the median over the rounds."""
        pairs = zip(self.of(ours), self.of(theirs), strict=True)
        return statistics.median(their[stage] / our[stage] for our, their in pairs)

    def seconds(self, name: str, stage: str) -> float:
        return statistics.median(figures[stage] for figures in self.of(name))

    def our_way(
        self, photos: Path | str, *words: str, cores: int | None = None, env: dict[str, str] | None = None
    ) -> Figures:
        """The platform's jobs over some photos, without Dagster; `env` says where S3 is."""
        with self.home() as out:
            return run_module(
                "our_way", *words, cores=cores or self.cores, env=env, photos=photos, ir=self.ir, out=out
            )

    def notebook_way(self, photos: Path, udf: str = "pandas") -> Figures:
        """The notebook's way over some photos; `udf` is which of its two."""
        with self.home() as out:
            return run_module(
                "notebook_way", cores=self.cores, photos=photos, weights=self.weights, out=out, udf=udf
            )

    def binary_file(self, photos: Path | str, env: dict[str, str] | None = None) -> Figures:
        """`binaryFile` over some photos; `env` says where S3 is."""
        return run_module("binary_file", photos=photos, cores=self.cores, env=env)

    def fruits_run(self, photos: Path, home: Path, *words: str) -> Figures:
        """`fruits run` as a user types it, with store and Dagster's home in `home`."""
        (home / "dagster").mkdir(exist_ok=True)
        shutil.copy(DAGSTER_YAML, home / "dagster")
        env = {
            "FRUITS_IMAGES": str(photos),
            "FRUITS_STORE": str(home / "store"),
            "FRUITS_WEIGHTS": self.weights,
            "FRUITS_SPARK_CORES": str(self.cores),
            "DAGSTER_HOME": str(home / "dagster"),
        }
        return run([str(Path(sys.executable).with_name("fruits")), "run", *words], env, self.cores)

    def first_fruits_run(self, photos: Path) -> Figures:
        """`fruits run` in a new home, which goes after it."""
        with self.home() as home:
            return self.fruits_run(photos, Path(home))

    def home(self) -> "tempfile.TemporaryDirectory[str]":
        """A new folder below that of the benchmark, for as long as it is wanted."""
        return tempfile.TemporaryDirectory(dir=self.folder, ignore_cleanup_errors=True)


def stages(bench: Bench) -> Iterator[Row]:
    """Every stage, against the peers and the limit."""
    photos = bench.photos
    bench.alternated(
        {
            NOTEBOOK: lambda: bench.notebook_way(photos),
            BETTER: lambda: bench.notebook_way(photos, "predict_batch"),
            BINARY_FILE: lambda: bench.binary_file(photos),
            OURS: lambda: bench.our_way(photos),
            BARE: lambda: run_module("bare_loop", photos=photos, ir=bench.ir, cores=bench.cores),
        },
        bench.images,
        bench.size.rounds,
    )
    aims = {
        ("ingest", BINARY_FILE): ">= 1",
        ("features", NOTEBOOK): ">= 5",
        ("features", BARE): ">= 0.9",
        ("pca_fit", NOTEBOOK): ">= 5",
    }
    for stage, name in STAGES.items():
        seconds = bench.seconds(OURS, stage)
        figure, unit = (seconds, "s") if stage == "start" else (bench.images / seconds, "images/s")
        for peer in (NOTEBOOK, BETTER, BINARY_FILE, BARE):
            if stage in bench.of(peer)[0]:
                yield Row(
                    what=name,
                    images=bench.images,
                    figure=figure,
                    unit=unit,
                    ratio=bench.ratio(OURS, peer, stage),
                    of=f"{peer}'s speed",
                    aim=aims.get((stage, peer), ""),
                )


def s3_ingest(bench: Bench) -> Iterator[Row]:
    """Ingest of photos on S3, near and far, against `binaryFile`. The store is on disk."""
    photos = some_classes(bench.photos, bench.size.s3_classes, bench.folder / "s3")
    images = len(photos_in(photos))
    for latency in LATENCIES:
        at = f"S3 behind {latency * 1000:.0f} ms"
        ours, theirs = f"ours, {at}", f"{BINARY_FILE}, {at}"
        with s3_server.running(photos, latency) as env:
            ways: dict[str, Callable[[], Figures]] = {
                ours: partial(bench.our_way, s3_server.URI, "--ingest-only", env=env),
                theirs: partial(bench.binary_file, s3_server.URI, env=env),
            }
            bench.alternated(ways, images, bench.size.rounds)
        ratio, rate = bench.ratio(ours, theirs, "ingest"), images / bench.seconds(ours, "ingest")
        aim = ">= 20" if latency else ""
        yield Row(
            what=f"ingest from {at}",
            images=images,
            figure=rate,
            unit="images/s",
            ratio=ratio,
            of=f"{BINARY_FILE}'s speed",
            aim=aim,
        )


def one_core(bench: Bench) -> Iterator[Row]:
    """One core against all."""
    one = bench.record("ours, 1 core", bench.our_way(bench.photos, cores=1), bench.images)
    for stage, name in STAGES.items():
        if stage != "start":
            seconds = bench.seconds(OURS, stage)
            yield Row(
                what=f"{name} on {bench.cores} cores",
                images=bench.images,
                figure=bench.images / seconds,
                unit="images/s",
                ratio=one[stage] / seconds,
                of="1 core's speed",
            )
    yield from _memory(f"on {bench.cores} cores", bench.images, bench.of(OURS), one, "that on 1 core")


def again(bench: Bench) -> Iterator[Row]:
    """What a run takes whose extractor is made; what Dagster costs in it; one class alone."""
    label, of_class = min(photos_by_class(bench.photos).items())
    with bench.home() as name:
        home = Path(name)
        bench.record(_run_of(1), bench.fruits_run(bench.photos, home), bench.images)
        warm = bench.record("fruits run again", bench.fruits_run(bench.photos, home), bench.images)
        alone = bench.fruits_run(bench.photos, home, "--class", label)
        single = bench.record("fruits run --class", alone, len(of_class))
    yield Row(
        what="fruits run --class, command to exit",
        images=len(of_class),
        figure=single["wall"],
        unit="s",
        ratio=single["wall"] / warm["wall"],
        of="the run of all classes",
        aim="<= 12 s",
    )
    yield Row(
        what="fruits run, its extractor made",
        images=bench.images,
        figure=warm["wall"],
        unit="s",
        ratio=warm["wall"] / bench.seconds(OURS, "wall"),
        of="the same work's time without Dagster",
    )


def more_images(bench: Bench) -> Iterator[Row]:
    """More images, in time and memory; the whole run against the notebook's."""
    base = bench.of(_run_of(1))[0]
    for times in bench.size.times:
        photos, what = multiplied(bench.photos, times, bench.folder / f"times{times}"), _run_of(times)
        ways: dict[str, Callable[[], Figures]] = {what: partial(bench.first_fruits_run, photos)}
        if times == bench.size.notebook_times:
            ways[_notebook_of(times)] = partial(bench.notebook_way, photos)
        images = bench.images * times
        bench.alternated(ways, images, bench.size.notebook_rounds if len(ways) > 1 else 1)
        seconds, of = bench.seconds(what, "wall"), "that of 1 x the images"
        per_image = seconds / base["wall"] / times
        yield Row(
            what=f"{what}: time an image",
            images=images,
            figure=1000 * seconds / images,
            unit="ms",
            ratio=per_image,
            of=of,
        )
        yield from _memory(what, images, bench.of(what), base, of, "1")
    times = bench.size.notebook_times
    what, speed = _run_of(times), bench.ratio(_run_of(times), _notebook_of(times), "wall")
    seconds = bench.seconds(what, "wall")
    yield Row(
        what=what,
        images=bench.images * times,
        figure=seconds,
        unit="s",
        ratio=speed,
        of=f"{NOTEBOOK}'s speed",
        aim=">= 3",
    )


def many_classes(bench: Bench) -> Iterator[Row]:
    """Many classes of few images: listing, pointers, metadata. Against as many images in few classes."""

    def measured(classes: int, images: int) -> float:
        photos = small_classes(bench.photos, classes, images, bench.folder / f"{classes}x{images}")
        name = f"fruits run, {classes} classes of {images}"
        figures = bench.record(name, bench.first_fruits_run(photos), classes * images)
        shutil.rmtree(photos)
        return float(figures["wall"])

    for classes, images in bench.size.many:
        if bench.size.few is None:
            few, of = bench.seconds(_run_of(1), "wall"), "the photos in their own classes"
        else:
            per_class = classes * images // bench.size.few
            few, of = measured(bench.size.few, per_class), f"{bench.size.few} classes of {per_class:,}"
        many = measured(classes, images)
        aim = "<= 1.5" if classes == 1000 else ""
        what = f"fruits run, {classes:,} classes of {images}"
        yield Row(
            what=what,
            images=classes * images,
            figure=many,
            unit="s",
            ratio=many / few,
            of=f"the time of {of}",
            aim=aim,
        )


def _memory(
    what: str, images: int, runs: list[Figures], base: Figures, of: str, aim: str = ""
) -> Iterator[Row]:
    """The highest peak of some runs by kind of process, where the system tells it."""
    for kind in filter(base["peak_mb"].__contains__, MEMORY):
        peak = max(figures["peak_mb"][kind] for figures in runs)
        yield Row(
            what=f"{what}: peak memory, {kind}",
            images=images,
            figure=peak,
            unit="MB",
            ratio=peak / base["peak_mb"][kind],
            of=of,
            aim=aim,
        )


def _run_of(times: int) -> str:
    return f"fruits run, {times} x the images"


def _notebook_of(times: int) -> str:
    return NOTEBOOK if times == 1 else f"{NOTEBOOK}, {times} x the images"


SECTIONS = (stages, s3_ingest, one_core, again, more_images, many_classes)


def add_rows(rows: list[Row], section: Callable[[Bench], Iterator[Row]], bench: Bench) -> str | None:
    """Adds the rows of a section; a sentence where it could not be measured to its end."""
    try:
        rows.extend(section(bench))
    except subprocess.CalledProcessError as error:
        print(error.stderr, file=sys.stderr, flush=True)
        return f"{section.__name__}: {' '.join(map(str, error.cmd[1:4]))} failed, and says above why"
    except FruitsError as error:
        return f"{section.__name__}: {error}"
    except Exception:  # whatever it is, half an hour of other sections is not lost by it
        traceback.print_exc()
        return f"{section.__name__}: an error of the benchmark itself, which stands above"
    return None


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
    parser = ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--full", action="store_true", help="all classes, and every size")
    parser.add_argument(
        "--photos",
        type=Path,
        help="a root of photos; else Fruits-360's or samples. bench-full holds all of them in memory, and "
        "four times on disk",
    )
    parser.add_argument("--weights", default="embedded", help="a value of FRUITS_WEIGHTS")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(".bench"), help="folder of the JSON")
    arguments = parser.parse_args()
    if not 1 <= arguments.cores <= available_cores():
        parser.error(f"--cores {arguments.cores}: this machine has {available_cores()}. Give 1 to so many.")
    # Else the folder of the run would stay, and with it what runs in it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = time.monotonic()
    described = machine()
    rows: list[Row] = []
    failed: list[str] = []
    size = FULL if arguments.full else QUICK
    # On the disk of the store to be, so that photos can be linked and nothing is kept in memory.
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / ("full.json" if arguments.full else "bench.json")
    # What is run has a folder of its own.
    weights, *pin = arguments.weights.partition("#")
    if Path(weights).is_file():
        weights = str(Path(weights).absolute())
    with tempfile.TemporaryDirectory(
        prefix="run-", dir=arguments.out.absolute(), ignore_cleanup_errors=True
    ) as name:
        folder = Path(name)
        try:
            photos, what = find_photos(arguments.photos, folder / "found")
            bench = Bench(photos, "".join([weights, *pin]), arguments.cores, size, folder)
            bench.convert()
        except FruitsError as error:
            parser.error(f"--photos, which are FRUITS_IMAGES of what is run: {error}")
        except subprocess.CalledProcessError as error:
            parser.error(f"--weights {arguments.weights}: {error.stderr.strip()}")
        for section in SECTIONS:
            failure = add_rows(rows, section, bench)
            failed += [failure] if failure else []
            caption = (
                f"{what} ({bench.images:,} of them), {arguments.cores} cores of {described['processor']}, "
                f"{described['memory_gib']} GiB, load {described['load_before']} before; "
                f"rounds: {size.rounds}; {datetime.now(UTC):%Y-%m-%d}, commit {described['commit']}; "
                f"{time.monotonic() - started:,.0f} s"
            )
            content = {
                "caption": caption,
                "machine": described,
                "rows": [asdict(row) for row in rows],
                "runs": bench.runs,
                "failed": failed,
            }
            # After each section: what was measured for half an hour stands, whatever comes.
            file.write_text(json.dumps(content, indent=1))
    print(f"{caption}\n\n{table(rows, arguments.full)}\n\nThe single runs are in {os.path.relpath(file)}")
    if failed:
        sys.exit("Not measured: " + "; ".join(failed))


if __name__ == "__main__":
    main()
