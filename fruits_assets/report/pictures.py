"""The thumbnails of a report: photos of `raw_images`, each read and decoded once, in a bounded size."""

import base64
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from PIL import Image

from fruits_assets.model.holdout import natural_order
from spark_jobs.errors import FruitsError
from spark_jobs.photos.guarded import decode_guarded
from spark_jobs.photos.images import BadImage
from spark_jobs.photos.limits import DEFAULT_LIMITS
from spark_jobs.store.parquet import read_row_groups
from spark_jobs.store.photos import check_sha256
from spark_jobs.store.root import Root, concurrently
from spark_jobs.store.versions import Part, Version

# The bytes of all thumbnails together, before base64 makes them a third larger.
BUDGET = 4_500_000
# A thumbnail gets the first of these (longer side in pixels, quality of WebP) that fits into its share.
_SIZES = ((128, 75), (96, 70), (80, 60), (64, 55), (48, 45), (32, 30), (16, 10))
_LARGEST = 8_000
# No thumbnail is worth the decoding of more pixels. Of large photos, the store has the input of the model.
_MAX_PIXELS = 50_000_000

# Row groups in memory at once; each has 4 MB, or one photo.
_AT_ONCE = 8

_COLUMNS = ["path", "sha256", "sha256_stored", "width", "height"]


class _Place(NamedTuple):
    """A row of a file."""

    part: Part
    row_group: int
    row: int


class Pictures:
    """Photos by class and path, with a number for each. `encoded` then has their thumbnails by number."""

    def __init__(self, store: Root, images: Mapping[str, Version]) -> None:
        self._store = store
        self._images = images
        self._numbers: dict[tuple[str, str], int] = {}
        self.problems: list[str] = []

    def number_of(self, label: str, path: str) -> int:
        """The number of a photo, by which the page finds its thumbnail. It may turn out that it has none."""
        return self._numbers.setdefault((label, path), len(self._numbers))

    def encoded(self) -> list[str]:
        """The thumbnails of all photos that have a number: base64 of a WebP, or nothing.

        A photo that is damaged, or not in `raw_images`, has none. The damage is in `problems`.
        """
        found = [""] * len(self._numbers)
        most = min(_LARGEST, BUDGET // max(1, len(found)))
        groups: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
        for number, place in self._places():
            groups[place.part.path, place.row_group].append((place.row, number))
        wanted = sorted(groups)
        for start in range(0, len(wanted), _AT_ONCE):
            chosen = wanted[start : start + _AT_ONCE]
            rows = concurrently(lambda group: self._rows(*group, [row for row, _ in groups[group]]), chosen)
            for group, photos in zip(chosen, rows, strict=True):
                for (_, number), photo in zip(groups[group], photos, strict=False):
                    found[number] = self._thumbnail(group[0], photo, most)
        return found

    def _places(self) -> Iterator[tuple[int, _Place]]:
        """Where the photos are that are in `raw_images`, by their numbers."""
        wanted: dict[str, dict[str, int]] = defaultdict(dict)
        for (label, path), number in self._numbers.items():
            wanted[label][path] = number
        for label, numbers in wanted.items():
            for part in self._images[label].parts if label in self._images else ():
                for row_group, paths in enumerate(self._paths(part)):
                    if not numbers:
                        break
                    for row, path in enumerate(paths):
                        if path in numbers:
                            yield numbers.pop(path), _Place(part, row_group, row)

    def _paths(self, part: Part) -> Iterator[list[str]]:
        """The paths of each row group of a file."""
        try:
            for rows in read_row_groups(self._store, part.path, range(len(part.row_groups)), ["path"]):
                yield rows.column("path").to_pylist()
        except FruitsError as error:
            self.problems.append(str(error))

    def _rows(self, path: str, row_group: int, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Some photos of a row group: with the model's input if all have it, or with the content."""

        def columns(shared: Mapping[str, Any]) -> list[str]:
            return [*_COLUMNS, *(("input", "sha256_input") if shared.get("preprocessing") else ("content",))]

        try:
            [batch] = read_row_groups(self._store, path, [row_group], columns)
            return batch.take(pa.array(rows)).to_pylist()  # type: ignore[no-any-return]
        except (FruitsError, ValueError, IndexError) as error:
            self.problems.append(str(error))
            return []

    def _thumbnail(self, file: str, photo: Mapping[str, Any], most: int) -> str:
        """The thumbnail of one row, of at most `most` bytes; nothing where the photo is damaged."""
        of_input = "input" in photo
        content = photo["input" if of_input else "content"]
        expected = photo["sha256_input"] if of_input else photo["sha256_stored"] or photo["sha256"]
        name = self._store.uri_of(file)
        try:
            check_sha256(name, repr(photo["path"]), content or b"", expected or "")
            decoded = decode_guarded(content, _MAX_PIXELS, DEFAULT_LIMITS, scaled=True)
        except BadImage as error:
            self.problems.append(f"{photo['path']} in {name}: {error}")
            return ""
        except FruitsError as error:
            self.problems.append(str(error))
            return ""
        size = (photo["width"], photo["height"]) if of_input else (decoded.width, decoded.height)
        return base64.b64encode(_reduced(decoded.image, size, most)).decode()


def _reduced(picture: Image.Image, size: tuple[int | None, int | None], most: int) -> bytes:
    """A WebP of at most `most` bytes with the proportions of a size: the picture may be squeezed."""
    width, height = (max(1, side or 1) for side in size)
    for side, quality in _SIZES:
        scale = min(1.0, side / max(width, height))
        target = max(1, round(width * scale)), max(1, round(height * scale))
        file = io.BytesIO()
        picture.resize(target, Image.Resampling.BICUBIC, reducing_gap=2.0).save(file, "WEBP", quality=quality)
        if file.tell() <= most:
            break
    return file.getvalue()


def first_photos(store: Root, version: Version, share: int) -> list[str]:
    """The paths of at most `share` photos of a class: evenly, in natural order, from its first row groups.

    Raises `FruitsError` where a file is missing or damaged.
    """
    paths: list[str] = []
    for part in version.parts:
        for rows in read_row_groups(store, part.path, _first(part.row_groups, share - len(paths)), ["path"]):
            paths += rows.column("path").to_pylist()
        if len(paths) >= share:
            break
    paths.sort(key=natural_order)
    return spread(paths, share)


def _first(row_groups: Sequence[int], rows: int) -> range:
    """The numbers of the first row groups that have this many rows together."""
    number = total = 0
    while number < len(row_groups) and total < rows:
        total += row_groups[number]
        number += 1
    return range(number)


def spread(items: Sequence[str], most: int) -> list[str]:
    """At most `most` items, at equal distances."""
    if len(items) <= most:
        return list(items)
    return [items[index * len(items) // most] for index in range(most)]
