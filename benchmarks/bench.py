"""What all sections of the benchmark share: the sizes, the rows of the table, and the runs so far."""

import shutil
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.photo_sets import first_classes, photos_in
from benchmarks.processes import Figures, run, run_module
from spark_jobs.errors import FruitsError

DAGSTER_YAML = Path(__file__).parents[1] / ".dagster" / "dagster.yaml"

PLATFORM, BARE_LOOP = "the platform", "the bare loop"
NOTEBOOK, PREDICT_BATCH, BINARY_FILE = "the notebook baseline", "predict_batch_udf", "binaryFile"

Variants = dict[str, Callable[[], Figures]]


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much the benchmark measures.

    `classes` and `s3_classes` are the numbers of classes on disk and on S3; None means all of them. `rounds`
    is the number of times that each comparison runs.

    `fruits run` is measured on the images repeated by each number of `multiples`. The notebook baseline runs
    on the images repeated `notebook_multiple` times, in `notebook_rounds` rounds.

    `many_classes` lists pairs (classes, images in each class). Each set is compared with the same number of
    images in `reference_classes` classes, or with the unchanged photos if that is None.

    Small changes are measured on `unchanged_classes` (classes, images in each), on a class of `large_class`
    images, and on the images repeated by the largest of `multiples`. `large_photos` is the number of photos
    of 12 megapixels.
    """

    classes: int | None
    s3_classes: int | None
    rounds: int
    multiples: tuple[int, ...]
    notebook_multiple: int
    notebook_rounds: int
    many_classes: tuple[tuple[int, int], ...]
    reference_classes: int | None
    unchanged_classes: tuple[int, int]
    large_class: int
    large_photos: int


QUICK = Size(
    classes=2,
    s3_classes=1,
    rounds=1,
    multiples=(2,),
    notebook_multiple=1,
    notebook_rounds=1,
    many_classes=((66, 3),),
    reference_classes=None,
    unchanged_classes=(40, 2),
    large_class=150,
    large_photos=24,
)
FULL = Size(
    classes=None,
    s3_classes=None,
    rounds=3,
    multiples=(2, 4),
    notebook_multiple=4,
    notebook_rounds=2,
    many_classes=((130, 20), (1000, 20)),
    reference_classes=20,
    unchanged_classes=(1000, 100),
    large_class=5000,
    large_photos=120,
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table: a figure of the platform, and its ratio to a reference.

    `target` is the ratio or the figure that the full size should reach; empty for a row without a target.
    """

    measurement: str
    images: int
    figure: float
    unit: str
    ratio: float
    reference: str
    target: str = ""


class Bench:
    """The photos, the cores, the weights and the folder of all measurements, and the runs so far.

    `weights` is a value of FRUITS_WEIGHTS; `folder` receives every file that a measurement writes.
    """

    def __init__(self, *, photos: Path, weights: str, cores: int, size: Size, folder: Path) -> None:
        self.weights, self.cores, self.size, self.folder = weights, cores, size, folder
        self.photos = first_classes(photos, size.classes, folder / "photos")
        chosen = photos_in(self.photos)
        # Fills the disk cache; else only the variant that runs first would wait for the disk.
        for photo in chosen:
            photo.read_bytes()
        self.images = len(chosen)
        self.ir = folder / "ir"
        self.runs: dict[str, list[Figures]] = defaultdict(list)

    def convert(self) -> None:
        """Converts the weights to the extractor. Raises `CalledProcessError` for unusable weights."""
        program = [sys.executable, "-m", "fruits_assets.model.convert"]
        run([*program, "--out", str(self.ir), "--weights", self.weights])

    def record(self, name: str, figures: Figures, images: int) -> Figures:
        """Keeps the figures of a run, and returns them.

        Raises `FruitsError` if the run reports another number of images than `images`.
        """
        print(f"{name}: {figures}", file=sys.stderr, flush=True)
        if figures.get("images", images) != images:
            raise FruitsError(
                f"{name} read {figures['images']:,} of {images:,} photos. "
                "Choose photos that every variant can read."
            )
        self.runs[name].append(figures)
        return figures

    def alternate(self, variants: Variants, images: int, rounds: int) -> None:
        """Runs every variant once a round, and reverses their order after each round."""
        for number in range(rounds):
            for name in sorted(variants, reverse=bool(number % 2)):
                self.record(name, variants[name](), images)

    def runs_of(self, name: str) -> list[Figures]:
        """The figures of all runs with this name. Raises `FruitsError` if there are none."""
        if not self.runs[name]:
            raise FruitsError(f"no run of {name} succeeded, so it can't be compared")
        return self.runs[name]

    def speedup(self, name: str, baseline: str, stage: str) -> float:
        """The baseline's seconds divided by those of `name`: the median over the rounds."""
        pairs = zip(self.runs_of(name), self.runs_of(baseline), strict=True)
        return float(statistics.median(theirs[stage] / figures[stage] for figures, theirs in pairs))

    def seconds(self, name: str, stage: str) -> float:
        """The median of a stage's seconds over the rounds."""
        return float(statistics.median(figures[stage] for figures in self.runs_of(name)))

    def platform_jobs(
        self,
        photos: Path | str,
        *arguments: str,
        cores: int | None = None,
        env: dict[str, str] | None = None,
    ) -> Figures:
        """Runs the platform's jobs without Dagster; `env` has the variables that lead to S3."""
        with self.new_folder() as out:
            return run_module(
                "platform_jobs",
                *arguments,
                cores=cores or self.cores,
                env=env,
                photos=photos,
                ir=self.ir,
                out=out,
            )

    def notebook_baseline(self, photos: Path, udf: str = "pandas") -> Figures:
        """Runs the notebook baseline with one of its two UDFs, `pandas` or `predict_batch`."""
        with self.new_folder() as out:
            return run_module(
                "notebook_baseline",
                cores=self.cores,
                photos=photos,
                weights=self.weights,
                out=out,
                udf=udf,
            )

    def binary_file(self, photos: Path | str, env: dict[str, str] | None = None) -> Figures:
        """Reads the photos with `binaryFile`; `env` has the variables that lead to S3."""
        return run_module("binary_file", photos=photos, cores=self.cores, env=env)

    def bare_loop(self, photos: Path) -> Figures:
        """Runs the same work in plain Python processes, without Spark."""
        return run_module("bare_loop", photos=photos, ir=self.ir, cores=self.cores)

    def fruits_run(
        self,
        photos: Path,
        home: Path,
        *arguments: str,
        env: dict[str, str] | None = None,
        uris: tuple[str | None, str | None] = (None, None),
    ) -> Figures:
        """Runs `fruits run` as a user types it; the store and the Dagster home are in `home`.

        `uris` are those of photos and store where they are on S3, and `env` leads there.
        """
        (home / "dagster").mkdir(exist_ok=True)
        shutil.copy(DAGSTER_YAML, home / "dagster")
        settings = {
            "FRUITS_IMAGES": uris[0] or str(photos),
            "FRUITS_STORE": uris[1] or str(home / "store"),
            "FRUITS_WEIGHTS": self.weights,
            "FRUITS_SPARK_CORES": str(self.cores),
            "DAGSTER_HOME": str(home / "dagster"),
        }
        command = [str(Path(sys.executable).with_name("fruits")), "run", *arguments]
        return run(command, {**settings, **(env or {})}, self.cores)

    def first_fruits_run(self, photos: Path) -> Figures:
        """Runs `fruits run` with a new store and a new Dagster home, and removes both."""
        with self.new_folder() as home:
            return self.fruits_run(photos, Path(home))

    def new_folder(self) -> "tempfile.TemporaryDirectory[str]":
        """A temporary folder below the folder of the benchmark."""
        return tempfile.TemporaryDirectory(dir=self.folder, ignore_cleanup_errors=True)
