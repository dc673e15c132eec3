"""The number of bad photos of each class, whatever happened to the files of its class."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_jobs.store.leases import held_lease
from spark_jobs.store.parquet import PartWriter
from spark_jobs.store.quarantine import bad_photos
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import RAW_IMAGES, SCHEMAS
from spark_jobs.store.tables import replace_classes
from spark_jobs.store.versions import Part
from tests.spark_jobs.store.written import commit_class


@pytest.fixture
def root(store: str) -> Root:
    return open_root(store)


def commit_images(root: Root, label: str, paths: list[str]) -> Part:
    """Replaces a class of `raw_images`. A photo is 10 bytes, which no test decodes."""
    row = {"label": label, "content": b"0123456789", "sha256": "0" * 64, "bytes": 10, "width": 1, "height": 1}
    row |= {"format": "JPEG", "modified": datetime.now(UTC)}
    with held_lease(root, "run") as lease:
        writer = PartWriter(root, f"{RAW_IMAGES}/run", SCHEMAS[RAW_IMAGES])
        rows = [row | {"path": path} for path in paths]
        writer.write(pa.RecordBatch.from_pylist(rows, SCHEMAS[RAW_IMAGES]))
        part = writer.close()
        replace_classes(root, RAW_IMAGES, {label: [part]}, lease)
    return part


def lose(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-50])


def damage_the_paths(file: Path) -> None:
    """Changes the last byte of the column `path`. The footer stays whole, from which the version comes."""
    content, column = bytearray(file.read_bytes()), pq.ParquetFile(file).metadata.row_group(0).column(0)
    content[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    file.write_bytes(content)


DAMAGE = pytest.mark.parametrize("damage", [lose, cut, damage_the_paths])


def test_a_photo_that_is_an_image_too_is_not_bad(root: Root) -> None:
    commit_class(root, "Kiwi", ["Kiwi/1.jpg", "Kiwi/2.jpg"])
    commit_class(root, "Lemon", ["Lemon/1.jpg"])
    commit_class(root, "Banana", ["Banana/1.jpg"])
    commit_images(root, "Kiwi", ["Kiwi/1.jpg"])
    commit_images(root, "Lemon", ["Lemon/1.jpg"])
    assert bad_photos(root) == {"Banana": 1, "Kiwi": 1}
    assert bad_photos(root, ["Banana", "none"]) == {"Banana": 1}


@DAMAGE
def test_a_damaged_quarantine_counts_by_its_rows_and_stops_no_other_class(
    root: Root, damage: Callable[[Path], None]
) -> None:
    part = commit_class(root, "Kiwi", ["Kiwi/1.jpg", "Kiwi/2.jpg"])
    commit_class(root, "Banana", ["Banana/1.jpg"])
    damage(Path(root.uri_of(part.path)))
    assert bad_photos(root) == {"Banana": 1, "Kiwi": 2}


@DAMAGE
def test_damaged_images_take_no_photo_out_of_the_count(root: Root, damage: Callable[[Path], None]) -> None:
    commit_class(root, "Kiwi", ["Kiwi/1.jpg", "Kiwi/2.jpg"])
    commit_class(root, "Banana", ["Banana/1.jpg"])
    part = commit_images(root, "Kiwi", ["Kiwi/1.jpg"])
    damage(Path(root.uri_of(part.path)))
    assert bad_photos(root) == {"Banana": 1, "Kiwi": 2}
