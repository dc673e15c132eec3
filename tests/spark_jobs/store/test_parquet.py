"""The Parquet files of the tables: row groups, checksums, and what their footers say."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_jobs.dimensions import FEATURES
from spark_jobs.errors import FruitsError
from spark_jobs.store.parquet import (
    PartWriter,
    read_column,
    read_part,
    read_row_groups,
    row_groups,
    rows_in,
    vectors_column,
    vectors_in,
    write_without,
)
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import MOBILENET_FEATURES, SCHEMAS
from spark_jobs.store.tables import current
from spark_jobs.store.versions import Part, Version
from tests.spark_jobs.store.written import TABLE, commit_class

SCHEMA = pa.schema([("path", pa.string()), ("label", pa.string()), ("sha256", pa.string())])


@pytest.fixture
def root(store: str) -> Root:
    return open_root(store)


def write(root: Root, paths: list[list[str]]) -> Part:
    """One file with one row group for each list of paths."""
    writer = PartWriter(root, "raw/run", SCHEMA, {"model": "1"})
    for group in paths:
        columns = [group, ["Kiwi"] * len(group), [f"hash of {path}" for path in group]]
        writer.write(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
    return writer.close()


def test_row_groups_are_read_by_number(root: Root, store: str) -> None:
    part = write(root, [["1", "2"], ["3"], ["4", "5", "6"]])
    assert part.row_groups == [2, 1, 3]
    assert part.bytes == (Path(store) / part.path).stat().st_size
    version = Version(label="Kiwi", data_version="v", parts=[part])
    groups = row_groups({"Kiwi": version})
    assert rows_in(groups) == version.rows == 6
    batches = list(read_row_groups(root, part.path, [groups[2].number, groups[0].number], ["path"]))
    assert [batch.column("path").to_pylist() for batch in batches] == [["4", "5", "6"], ["1", "2"]]
    assert read_column(root, version, "path") == ["1", "2", "3", "4", "5", "6"]


def test_the_footer_of_a_file_says_what_the_writer_returned(root: Root) -> None:
    part = write(root, [["b", "c"], ["a"]])
    assert read_part(root.uri, part.path, part.bytes) == part
    assert (part.first, part.made_with, part.counts) == ("b", {"model": "1"}, {})


def test_a_file_of_features_counts_the_vectors_that_can_be_no_features(root: Root) -> None:
    vectors = np.tile(np.arange(FEATURES, dtype=np.float32), (5, 1))
    vectors[0, 7], vectors[1, 8], vectors[2:4] = np.nan, np.inf, 3
    schema = SCHEMAS[MOBILENET_FEATURES]
    writer = PartWriter(root, "features/run", schema)
    texts = [pa.array([f"{name} {row}" for row in range(5)]) for name in ("path", "label", "sha256")]
    rows = pa.RecordBatch.from_arrays([*texts, vectors_column(vectors)], schema=schema)
    writer.write(rows)
    writer.write(rows.slice(4))
    part = writer.close()
    assert part.counts == {"non_finite": 2, "constant": 2}
    left = write_without(root, "features/run", schema, part, ["path 1", "path 2", "path 3"])
    assert left.counts == {"non_finite": 1, "constant": 0}


def test_the_digest_depends_on_the_photos_and_not_on_their_order(root: Root) -> None:
    digests = [write(root, paths).digest for paths in ([["a", "b"], ["c"]], [["c", "b", "a"]], [["a", "b"]])]
    assert digests[0] == digests[1] != digests[2]


def test_a_field_of_a_newer_release_in_a_footer_is_ignored(root: Root, store: str) -> None:
    part = write(root, [["a"]])
    table = pq.read_table(Path(store) / part.path)
    said = json.loads(pq.ParquetFile(Path(store) / part.path).metadata.metadata[b"fruits"])
    said |= {"colour": "red"}
    pq.write_table(
        table.replace_schema_metadata({b"fruits": json.dumps(said)}), Path(store) / "raw/run/newer.parquet"
    )
    newer = read_part(root.uri, "raw/run/newer.parquet", 1)
    assert (newer.first, newer.digest) == (part.first, part.digest)


def test_a_file_of_other_origin_is_refused_by_name(root: Root, store: str) -> None:
    (Path(store) / "raw").mkdir(parents=True)
    pq.write_table(pa.table({"path": ["a"]}), Path(store) / "raw/foreign.parquet")
    with pytest.raises(FruitsError, match=r"raw/foreign\.parquet was not written by this platform"):
        read_part(root.uri, "raw/foreign.parquet", 1)


SAID = {"first": "a", "digest": "0" * 64, "made_with": {}, "counts": {}}

FOOTERS = {
    "empty": "",
    "half": json.dumps(SAID)[:20],
    "a list": "[]",
    "null": "null",
    "nested deeply": "[" * 100_000,
    "not UTF-8": b"\xff\xfe",
    "no digest": json.dumps({"first": "a", "made_with": {}, "counts": {}}),
    "a digest that is a number": json.dumps(SAID | {"digest": 5}),
    "a negative digest": json.dumps(SAID | {"digest": f"-{'0' * 63}"}),
    "a long digest": json.dumps(SAID | {"digest": "0" * 100_000}),
    "a first photo that is a number": json.dumps(SAID | {"first": 5}),
    "versions in a list": json.dumps(SAID | {"made_with": []}),
    "a version that is a number": json.dumps(SAID | {"made_with": {"model": 5}}),
    "no counts": json.dumps(SAID | {"counts": None}),
    "a count that is a text": json.dumps(SAID | {"counts": {"constant": "2"}}),
}


@pytest.mark.parametrize("footer", FOOTERS.values(), ids=FOOTERS)
def test_a_file_whose_footer_says_something_else_damages_its_class_alone(
    root: Root, footer: str | bytes
) -> None:
    commit_class(root, "Banana", ["a"])
    part = commit_class(root, "Kiwi", ["a"])
    rows = pq.ParquetFile(root.uri_of(part.path)).read()
    pq.write_table(rows.replace_schema_metadata({b"fruits": footer}), root.uri_of(part.path))
    versions = current(root, TABLE)
    assert not versions["Banana"].damage
    assert f"{part.path} was not written by this platform" in versions["Kiwi"].damage


@pytest.mark.parametrize("content", [b"", b"PAR1", b"<html>not found</html>", bytes(1000)])
def test_a_damaged_file_is_refused_by_name(root: Root, content: bytes) -> None:
    root.write("raw/damaged.parquet", content)
    with pytest.raises(FruitsError, match=r"raw/damaged\.parquet cannot be read"):
        read_part(root.uri, "raw/damaged.parquet", len(content))


@pytest.mark.parametrize("path", ["../outside.parquet", "raw/../../outside.parquet", "raw//part.parquet"])
def test_a_path_that_leads_out_of_the_store_is_not_read(root: Root, path: str) -> None:
    part = write(root, [["a"]])
    (Path(root.uri).parent / "outside.parquet").write_bytes(root.read(part.path))
    with pytest.raises(FruitsError, match=f"{path}' is not the path of a file inside {root.uri}"):
        list(read_row_groups(root, path, [0], ["path"]))


def test_a_missing_file_is_refused_by_name(root: Root) -> None:
    with pytest.raises(FruitsError, match=r"raw/missing\.parquet cannot be read.*was removed or changed"):
        read_part(root.uri, "raw/missing.parquet", 1)


def test_feature_vectors_survive_the_column_of_lists() -> None:
    features = np.random.default_rng(0).normal(size=(3, FEATURES)).astype(np.float32)
    rows = pa.RecordBatch.from_arrays([vectors_column(features)], ["features"])
    assert rows.schema.field("features").type == pa.list_(pa.float32())
    assert np.array_equal(vectors_in(rows), features)
    assert np.array_equal(vectors_in(rows.slice(1, 1)), features[1:2])
