"""The sections of the benchmark: each runs its measurements, and yields the rows that they give."""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks import s3_server
from benchmarks.bench import BARE_LOOP, BINARY_FILE, NOTEBOOK, PLATFORM, PREDICT_BATCH, Bench, Row, Variants
from benchmarks.changes import small_changes
from benchmarks.photo_sets import (
    equal_classes,
    first_classes,
    multiplied,
    phone_photos,
    photos_by_class,
    photos_in,
)
from benchmarks.processes import Figures

LATENCIES = (0.0, 0.015)  # seconds
STAGES = {
    "start": "start-up",
    "ingest": "ingest from disk",
    "features": "features",
    "read_features": "ingest and features",
    "pca_fit": "PCA fit",
    "csv": "projection and CSV",
}
TARGETS = {
    ("ingest", BINARY_FILE): ">= 1",
    ("features", NOTEBOOK): ">= 5",
    ("features", BARE_LOOP): ">= 0.9",
    ("pca_fit", NOTEBOOK): ">= 5",
}
PROCESSES = ("driver", "jvm", "worker")


def stages(bench: Bench) -> Iterator[Row]:
    """Compares each stage with the baselines and with the bare loop."""
    photos = bench.photos
    bench.alternate(
        {
            NOTEBOOK: lambda: bench.notebook_baseline(photos),
            PREDICT_BATCH: lambda: bench.notebook_baseline(photos, "predict_batch"),
            BINARY_FILE: lambda: bench.binary_file(photos),
            PLATFORM: lambda: bench.platform_jobs(photos),
            BARE_LOOP: lambda: bench.bare_loop(photos),
        },
        bench.images,
        bench.size.rounds,
    )
    for stage, description in STAGES.items():
        seconds = bench.seconds(PLATFORM, stage)
        figure, unit = (seconds, "s") if stage == "start" else (bench.images / seconds, "images/s")
        for baseline in (NOTEBOOK, PREDICT_BATCH, BINARY_FILE, BARE_LOOP):
            if stage in bench.runs_of(baseline)[0]:
                yield Row(
                    measurement=description,
                    images=bench.images,
                    figure=figure,
                    unit=unit,
                    ratio=bench.speedup(PLATFORM, baseline, stage),
                    reference=f"speed of {baseline}",
                    target=TARGETS.get((stage, baseline), ""),
                )


def s3_ingest(bench: Bench) -> Iterator[Row]:
    """Compares the ingest of photos on S3, near and far, with `binaryFile`. The store is on disk."""
    photos = first_classes(bench.photos, bench.size.s3_classes, bench.folder / "s3")
    images = len(photos_in(photos))
    for latency in LATENCIES:
        source = f"S3 with {latency * 1000:.0f} ms of latency"
        platform, baseline = f"{PLATFORM}, {source}", f"{BINARY_FILE}, {source}"
        with s3_server.running(photos, latency) as env:
            variants: Variants = {
                platform: partial(bench.platform_jobs, s3_server.URI, "--ingest-only", env=env),
                baseline: partial(bench.binary_file, s3_server.URI, env=env),
            }
            bench.alternate(variants, images, bench.size.rounds)
        yield Row(
            measurement=f"ingest from {source}",
            images=images,
            figure=images / bench.seconds(platform, "ingest"),
            unit="images/s",
            ratio=bench.speedup(platform, baseline, "ingest"),
            reference=f"speed of {BINARY_FILE}",
            target=">= 20" if latency else "",
        )


def one_core(bench: Bench) -> Iterator[Row]:
    """Compares all cores with one core, in speed and in memory."""
    single = bench.record(f"{PLATFORM}, 1 core", bench.platform_jobs(bench.photos, cores=1), bench.images)
    for stage, description in STAGES.items():
        if stage != "start":
            seconds = bench.seconds(PLATFORM, stage)
            yield Row(
                measurement=f"{description} on {bench.cores} cores",
                images=bench.images,
                figure=bench.images / seconds,
                unit="images/s",
                ratio=single[stage] / seconds,
                reference="speed on 1 core",
            )
    yield from _memory(
        prefix=f"on {bench.cores} cores",
        images=bench.images,
        runs=bench.runs_of(PLATFORM),
        base=single,
        reference="memory on 1 core",
    )


def again(bench: Bench) -> Iterator[Row]:
    """Measures `fruits run` with an existing extractor, the share of Dagster in it, and one class alone."""
    label, class_photos = min(photos_by_class(bench.photos).items())
    with bench.new_folder() as name:
        home = Path(name)
        bench.record(_run_name(1), bench.fruits_run(bench.photos, home), bench.images)
        warm = bench.record(
            "fruits run --all", bench.fruits_run(bench.photos, home, "--all", "--refit"), bench.images
        )
        class_run = bench.fruits_run(bench.photos, home, "--all", "--class", label)
        bench.record("fruits run --class", class_run, len(class_photos))
    yield Row(
        measurement="fruits run --all --class, command to exit",
        images=len(class_photos),
        figure=class_run["wall"],
        unit="s",
        ratio=class_run["wall"] / warm["wall"],
        reference="time of the run of all classes",
        target="<= 12 s",
    )
    yield Row(
        measurement="fruits run with an existing extractor",
        images=bench.images,
        figure=warm["wall"],
        unit="s",
        ratio=warm["wall"] / bench.seconds(PLATFORM, "wall"),
        reference="time of the same jobs without Dagster",
    )


def more_images(bench: Bench) -> Iterator[Row]:
    """Measures time and memory on more images, and compares the whole run with the notebook baseline."""
    base = bench.runs_of(_run_name(1))[0]
    for multiple in bench.size.multiples:
        photos = multiplied(bench.photos, multiple, bench.folder / f"times{multiple}")
        name, images = _run_name(multiple), bench.images * multiple
        variants: Variants = {name: partial(bench.first_fruits_run, photos)}
        if multiple == bench.size.notebook_multiple:
            variants[_notebook_name(multiple)] = partial(bench.notebook_baseline, photos)
        bench.alternate(variants, images, bench.size.notebook_rounds if len(variants) > 1 else 1)
        seconds = bench.seconds(name, "wall")
        yield Row(
            measurement=f"{name}: time of an image",
            images=images,
            figure=1000 * seconds / images,
            unit="ms",
            ratio=seconds / base["wall"] / multiple,
            reference="time with 1 x the images",
        )
        yield from _memory(
            prefix=name,
            images=images,
            runs=bench.runs_of(name),
            base=base,
            reference="memory with 1 x the images",
            target="1",
        )
    multiple = bench.size.notebook_multiple
    yield Row(
        measurement=_run_name(multiple),
        images=bench.images * multiple,
        figure=bench.seconds(_run_name(multiple), "wall"),
        unit="s",
        ratio=bench.speedup(_run_name(multiple), _notebook_name(multiple), "wall"),
        reference=f"speed of {NOTEBOOK}",
        target=">= 3",
    )


def many_classes(bench: Bench) -> Iterator[Row]:
    """Compares many classes with few images each with the same number of images in few classes.

    The difference is the time of listing, pointers and metadata.
    """

    def seconds_of(classes: int, images: int) -> float:
        photos = equal_classes(bench.photos, classes, images, bench.folder / f"{classes}x{images}")
        name = f"fruits run, {classes} classes of {images}"
        figures = bench.record(name, bench.first_fruits_run(photos), classes * images)
        shutil.rmtree(photos)
        return float(figures["wall"])

    few_classes = bench.size.reference_classes
    for classes, images in bench.size.many_classes:
        if few_classes is None:
            few, reference = bench.seconds(_run_name(1), "wall"), "the photos in their own classes"
        else:
            per_class = classes * images // few_classes
            few, reference = seconds_of(few_classes, per_class), f"{few_classes} classes of {per_class:,}"
        many = seconds_of(classes, images)
        yield Row(
            measurement=f"fruits run, {classes:,} classes of {images}",
            images=classes * images,
            figure=many,
            unit="s",
            ratio=many / few,
            reference=f"time of {reference}",
            target="<= 1.5" if classes == 1000 else "",
        )


def large_photos(bench: Bench) -> Iterator[Row]:
    """Compares photos of 12 megapixels, in both decodings, with the notebook baseline."""
    images = bench.size.large_photos
    photos = phone_photos(bench.photos, images, bench.folder / "phone")
    baseline = f"{NOTEBOOK}, 12 megapixels"
    names = {decode: f"{PLATFORM}, 12 megapixels, {decode}" for decode in ("exact", "scaled")}
    variants: Variants = {baseline: partial(bench.notebook_baseline, photos)}
    for decode, name in names.items():
        variants[name] = partial(bench.platform_jobs, photos, "--decode", decode)
    bench.alternate(variants, images, bench.size.rounds)
    shutil.rmtree(photos)
    for decode, name in names.items():
        yield Row(
            measurement=f"ingest and features, 12 megapixels, FRUITS_DECODE={decode}",
            images=images,
            figure=images / bench.seconds(name, "read_features"),
            unit="images/s",
            ratio=bench.speedup(name, baseline, "read_features"),
            reference=f"speed of {NOTEBOOK}",
        )


def _memory(
    *, prefix: str, images: int, runs: list[Figures], base: Figures, reference: str, target: str = ""
) -> Iterator[Row]:
    """The highest peak memory of the runs for each kind of process that the system reports."""
    for kind in filter(base["peak_mb"].__contains__, PROCESSES):
        peak = max(figures["peak_mb"][kind] for figures in runs)
        yield Row(
            measurement=f"{prefix}: peak memory, {kind}",
            images=images,
            figure=peak,
            unit="MB",
            ratio=peak / base["peak_mb"][kind],
            reference=reference,
            target=target,
        )


def _run_name(multiple: int) -> str:
    return f"fruits run, {multiple} x the images"


def _notebook_name(multiple: int) -> str:
    return NOTEBOOK if multiple == 1 else f"{NOTEBOOK}, {multiple} x the images"


SECTIONS = (stages, s3_ingest, one_core, again, more_images, many_classes, small_changes, large_photos)
