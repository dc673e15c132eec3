"""Two stores that should hold the same: one filled on a cluster, one on this machine."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import (
    MOBILENET_FEATURES,
    PCA_FEATURES_CSV,
    PCA_MODEL,
    QUARANTINED_IMAGES,
    RAW_IMAGES,
)
from spark_jobs.store.tables import current, current_one

# How far two numbers may be apart: float32 sums in another order, and CPUs of other makes.
TOLERANCE = 1e-5


class Comparison(NamedTuple):
    """What was compared, whether it is the same, and a sentence on it."""

    what: str
    same: bool
    found: str


def compare(one_uri: str, other_uri: str) -> list[Comparison]:
    """Compares the outputs in two stores, of the same photos, that each have run the whole graph."""
    one, other = open_root(one_uri), open_root(other_uri)
    return [
        *(_classes(one, other, table) for table in (RAW_IMAGES, MOBILENET_FEATURES, PCA_FEATURES_CSV)),
        _quarantine(one, other),
        _features(one, other),
        _model(one, other),
        _csvs(one, other),
    ]


def _classes(one: Root, other: Root, table: str) -> Comparison:
    """Classes, their counts, and their data versions, which name content."""
    ours, theirs = (
        {label: (pointer.rows, pointer.data_version) for label, pointer in current(store, table).items()}
        for store in (one, other)
    )
    unlike = [label for label in sorted(ours | theirs) if ours.get(label) != theirs.get(label)]
    rows = sum(count for count, _ in ours.values())
    found = f"{rows:,} rows in {len(ours):,} classes, counts and data versions"
    return Comparison(table, bool(ours) and not unlike, found + _named(unlike))


def _quarantine(one: Root, other: Root) -> Comparison:
    ours, theirs = (
        {row["path"]: row["reason"] for row in _table(store, QUARANTINED_IMAGES, ["path", "reason"])}
        for store in (one, other)
    )
    unlike = [path for path in sorted(ours | theirs) if ours.get(path) != theirs.get(path)]
    return Comparison(QUARANTINED_IMAGES, not unlike, f"{len(ours):,} photos and reasons" + _named(unlike))


def _features(one: Root, other: Root) -> Comparison:
    ours, theirs = (
        {row["path"]: row["features"] for row in _table(store, MOBILENET_FEATURES, ["path", "features"])}
        for store in (one, other)
    )
    if ours.keys() != theirs.keys():
        return Comparison("features", False, "other photos" + _named(sorted(ours.keys() ^ theirs.keys())))
    apart = max((float(np.abs(np.subtract(ours[p], theirs[p])).max()) for p in ours), default=np.inf)
    return Comparison("features", apart <= TOLERANCE, f"at most {apart:.1e} apart, of 1280 for each photo")


def _model(one: Root, other: Root) -> Comparison:
    ours, theirs = current_one(one, PCA_MODEL), current_one(other, PCA_MODEL)
    if ours is None or theirs is None:
        return Comparison(PCA_MODEL, False, "is missing")
    kept, theirs_kept = (model.details["explained_variance"] for model in (ours, theirs))
    same = ours.data_version == theirs.data_version and abs(kept - theirs_kept) <= TOLERANCE
    components = ours.details["components"]
    return Comparison(PCA_MODEL, same, f"{components} components keep {kept:.4%} and {theirs_kept:.4%}")


def _csvs(one: Root, other: Root) -> Comparison:
    ours, theirs = (
        {label: pointer.parts for label, pointer in current(store, PCA_FEATURES_CSV).items()}
        for store in (one, other)
    )
    import pandas as pd

    apart, unlike = 0.0, sorted(ours.keys() ^ theirs.keys())
    for label in ours.keys() & theirs.keys():
        a, b = (
            pd.concat(pd.read_csv(store.fs.open_input_stream(part.path)) for part in parts)
            for store, parts in ((one, ours[label]), (other, theirs[label]))
        )
        if list(a) != list(b) or not a[["path", "label"]].equals(b[["path", "label"]]):
            unlike.append(label)
        else:
            apart = max(apart, float(np.abs(a.filter(like="pc") - b.filter(like="pc")).to_numpy().max()))
    same = bool(ours) and not unlike and apart <= TOLERANCE
    return Comparison("components in CSVs", same, f"at most {apart:.1e} apart" + _named(unlike))


def _table(store: Root, table: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    for pointer in current(store, table).values():
        for part in pointer.parts:
            yield from pq.read_table(part.path, columns=columns, filesystem=store.fs).to_pylist()


def _named(unlike: list[str]) -> str:
    """The first things that differ, by name."""
    more = f" and {len(unlike) - 3:,} more" if len(unlike) > 3 else ""
    return f"; not the same: {', '.join(map(repr, unlike[:3]))}{more}" if unlike else ""
