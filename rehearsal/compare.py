"""Compares the outputs in two stores: for instance of a run on a cluster and of a local run."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from spark_jobs.store.pointers import current_by_class, current_one
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import (
    MOBILENET_FEATURES,
    PCA_FEATURES_CSV,
    PCA_MODEL,
    QUARANTINED_IMAGES,
    RAW_IMAGES,
)
from spark_jobs.store.tables import current
from spark_jobs.store.versions import Version

# Numbers may differ by this much: float32 sums depend on their order and on the CPU.
TOLERANCE = 1e-5


class Comparison(NamedTuple):
    """The name of an output, whether both stores have the same, and a description of the result."""

    output: str
    same: bool
    details: str


def compare(first_uri: str, second_uri: str) -> list[Comparison]:
    """Compares all outputs of two stores. Both should hold a whole run on the same photos."""
    first, second = open_root(first_uri), open_root(second_uri)
    return [
        *(_classes(first, second, table) for table in (RAW_IMAGES, MOBILENET_FEATURES, PCA_FEATURES_CSV)),
        _quarantine(first, second),
        _features(first, second),
        _model(first, second),
        _csvs(first, second),
    ]


def _classes(first: Root, second: Root, table: str) -> Comparison:
    """Compares the classes of a table, their numbers of rows, and their data versions (content hashes)."""
    first_classes, second_classes = (
        {label: (version.rows, version.data_version) for label, version in _current(store, table).items()}
        for store in (first, second)
    )
    different = _different_keys(first_classes, second_classes)
    rows = sum(count for count, _ in first_classes.values())
    details = f"{rows:,} rows in {len(first_classes):,} classes, counts and data versions"
    return Comparison(table, bool(first_classes) and not different, details + _named(different))


def _quarantine(first: Root, second: Root) -> Comparison:
    first_reasons, second_reasons = (
        {row["path"]: row["reason"] for row in _table(store, QUARANTINED_IMAGES, ["path", "reason"])}
        for store in (first, second)
    )
    different = _different_keys(first_reasons, second_reasons)
    details = f"{len(first_reasons):,} photos and reasons" + _named(different)
    return Comparison(QUARANTINED_IMAGES, not different, details)


def _features(first: Root, second: Root) -> Comparison:
    first_features, second_features = (
        {row["path"]: row["features"] for row in _table(store, MOBILENET_FEATURES, ["path", "features"])}
        for store in (first, second)
    )
    unmatched = sorted(first_features.keys() ^ second_features.keys())
    if unmatched:
        return Comparison("features", False, "different photos" + _named(unmatched))
    differences = (
        np.abs(np.subtract(first_features[path], second_features[path])) for path in first_features
    )
    difference = max((float(values.max()) for values in differences), default=np.inf)
    details = f"a maximum difference of {difference:.1e} in 1280 features of each photo"
    return Comparison("features", difference <= TOLERANCE, details)


def _model(first: Root, second: Root) -> Comparison:
    first_model, second_model = current_one(first, PCA_MODEL), current_one(second, PCA_MODEL)
    if first_model is None or second_model is None:
        return Comparison(PCA_MODEL, False, "is missing")
    explained, second_explained = (
        model.details["explained_variance"] for model in (first_model, second_model)
    )
    same_version = first_model.data_version == second_model.data_version
    same = same_version and abs(explained - second_explained) <= TOLERANCE
    components = first_model.details["components"]
    details = f"{components} components explain {explained:.4%} and {second_explained:.4%} of the variance"
    return Comparison(PCA_MODEL, same, details)


def _csvs(first: Root, second: Root) -> Comparison:
    first_parts, second_parts = (
        {label: version.parts for label, version in _current(store, PCA_FEATURES_CSV).items()}
        for store in (first, second)
    )
    import pandas as pd

    difference, different = 0.0, sorted(first_parts.keys() ^ second_parts.keys())
    for label in first_parts.keys() & second_parts.keys():
        a, b = (
            pd.concat(pd.read_csv(store.fs.open_input_stream(part.path)) for part in parts)
            for store, parts in ((first, first_parts[label]), (second, second_parts[label]))
        )
        if list(a) != list(b) or not a[["path", "label"]].equals(b[["path", "label"]]):
            different.append(label)
        else:
            class_difference = np.abs(a.filter(like="pc") - b.filter(like="pc")).to_numpy().max()
            difference = max(difference, float(class_difference))
    same = bool(first_parts) and not different and difference <= TOLERANCE
    return Comparison(
        "components in CSVs", same, f"a maximum difference of {difference:.1e}" + _named(different)
    )


def _current(store: Root, output: str) -> dict[str, Version]:
    """The current version of each class of a table, or of the CSVs."""
    return current_by_class(store, output) if output == PCA_FEATURES_CSV else current(store, output)


def _different_keys(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """The keys whose values differ, and the keys of one dictionary alone; sorted."""
    return [key for key in sorted(first | second) if first.get(key) != second.get(key)]


def _table(store: Root, table: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    """The current rows of a table."""
    for version in current(store, table).values():
        for part in version.parts:
            yield from pq.read_table(part.path, columns=columns, filesystem=store.fs).to_pylist()


def _named(different: list[str]) -> str:
    """Names the first three differences."""
    more = f" and {len(different) - 3:,} more" if len(different) > 3 else ""
    return f"; not the same: {', '.join(map(repr, different[:3]))}{more}" if different else ""
