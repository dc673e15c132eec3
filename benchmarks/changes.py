"""The section of the benchmark on small changes: what `fruits run` takes when little has changed."""

import json
import random
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import s3_server
from benchmarks.bench import Bench, Row
from benchmarks.photo_sets import equal_classes, multiplied, photos_in, variant
from benchmarks.processes import Figures

LATENCY = 0.015  # seconds
TABLES = ("raw_images", "mobilenet_features")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Photos and a store, on disk or on S3, and a home for Dagster. On disk, `env` is empty."""

    bench: Bench
    name: str
    photos: Path
    home: Path
    env: dict[str, str]

    def run(self, images: int) -> Figures:
        """Runs `fruits run`. Raises `FruitsError` if it ends with another number of images."""
        uris = (s3_server.URI, s3_server.STORE_URI) if self.env else (None, None)
        figures = self.bench.fruits_run(
            self.photos, self.home, "--accept-removals", "--json", env=self.env, uris=uris
        )
        return self.bench.record(f"fruits run, {self.name}, {images:,} images", figures, images)

    def write(self, path: str, content: bytes) -> None:
        if self.env:
            _request(self.env, "PUT", f"{s3_server.PREFIX}/{path}", content)
        else:
            (self.photos / path).write_bytes(content)

    def remove(self, path: str) -> None:
        if self.env:
            _request(self.env, "DELETE", f"{s3_server.PREFIX}/{path}")
        else:
            (self.photos / path).unlink()

    def moved(self) -> dict[str, Any]:
        """The bytes that the server has read and written of each table since the last call."""
        return dict(json.loads(_request(self.env, "GET", "?moved")))


def _request(env: dict[str, str], method: str, key: str, content: bytes | None = None) -> bytes:
    """A request to the S3 server of the benchmark, which checks no signature."""
    separator = "" if key.startswith("?") else "/"
    url = f"{env['AWS_ENDPOINT_URL']}/{s3_server.BUCKET}{separator}{key.replace(' ', '%20')}"
    with urllib.request.urlopen(urllib.request.Request(url, content, method=method)) as answer:
        return bytes(answer.read())


def _places(bench: Bench, make: Callable[[Path], Path]) -> Iterator[Place]:
    """The same photos on disk, and then on S3. `make` writes them to a folder."""
    for name in ("disk", f"S3 with {LATENCY * 1000:.0f} ms of latency"):
        with bench.new_folder() as folder:
            home, photos = Path(folder), make(Path(folder) / "photos")
            if name == "disk":
                yield Place(bench=bench, name=name, photos=photos, home=home, env={})
            else:
                with s3_server.running(photos, LATENCY) as env:
                    yield Place(bench=bench, name=name, photos=photos, home=home, env=env)


def small_changes(bench: Bench) -> Iterator[Row]:
    """Measures a run without changes, with one photo added or removed, and with 1 % of the photos changed."""
    unchanged: dict[str, float] = {}
    for place in _places(bench, lambda folder: multiplied(bench.photos, 1, folder)):
        first = place.run(bench.images)["wall"]
        unchanged[place.name] = place.run(bench.images)["wall"]
        yield _row(
            "nothing changed",
            place,
            bench.images,
            unchanged[place.name],
            first,
            "the first run",
            "<= 5 s",
        )
    classes, each = bench.size.unchanged_classes
    for place in _places(bench, lambda folder: equal_classes(bench.photos, classes, each, folder)):
        place.run(classes * each)
        wall = place.run(classes * each)["wall"]
        name = f"nothing changed in {classes:,} classes of {each}"
        reference = f"{bench.images:,} images, nothing changed"
        yield _row(name, place, classes * each, wall, unchanged[place.name], reference, "<= 2 x")
    yield from _large_class(bench)
    yield from _one_percent(bench)


def _large_class(bench: Bench) -> Iterator[Row]:
    images = bench.size.large_class
    for place in _places(bench, lambda folder: equal_classes(bench.photos, 1, images, folder)):
        first = place.run(images)
        tables = place.moved()["written"] if place.env else {}
        place.write("class 0000/new.jpg", variant(photos_in(bench.photos)[0], 399))
        added = place.run(images + 1)
        name = f"one photo added to a class of {images:,}"
        yield _row(name, place, images + 1, added["wall"], first["wall"], "the first run", "<= 10 s")
        if place.env:
            moved = place.moved()
            for verb in ("read", "written"):
                for table in TABLES:
                    share = 100 * moved[verb].get(table, 0) / tables[table]
                    yield Row(
                        measurement=f"{name}: {table} {verb}",
                        images=images + 1,
                        figure=share,
                        unit="%",
                        ratio=share / 100,
                        reference="bytes of the first run",
                        target="< 0.05",
                    )
        place.remove("class 0000/0000.jpg")
        removed = place.run(images)
        name = f"one photo removed from a class of {images:,}"
        yield _row(name, place, images, removed["wall"], first["wall"], "the first run", "<= 10 s")


def _one_percent(bench: Bench) -> Iterator[Row]:
    """Half of the changed photos are new, a quarter are other photos now, and a quarter are gone."""
    multiple = max(bench.size.multiples)
    images = multiple * bench.images
    for place in _places(bench, lambda folder: multiplied(bench.photos, multiple, folder)):
        first = place.run(images)["wall"]
        known = [photo.relative_to(place.photos).as_posix() for photo in photos_in(place.photos)]
        chosen = random.Random(1).sample(known, max(4, images // 100))
        source = photos_in(bench.photos)
        left = images
        for number, path in enumerate(chosen):
            content = variant(source[number % len(source)], 390 + number // len(source))
            match number % 4:
                case 0:
                    place.remove(path)
                    left -= 1
                case 1:
                    place.write(path, content)
                case _:
                    place.write(f"{path.rpartition('/')[0]}/new-{number}.jpg", content)
                    left += 1
        wall = place.run(left)["wall"]
        yield _row("1 % of the photos changed", place, left, wall, first, "the first run", "<= 0.1")


def _row(what: str, place: Place, images: int, wall: float, reference: float, name: str, target: str) -> Row:
    return Row(
        measurement=f"fruits run, {place.name}: {what}",
        images=images,
        figure=wall,
        unit="s",
        ratio=wall / reference,
        reference=f"time of {name}",
        target=target,
    )
