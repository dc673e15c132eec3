"""Finds faults in a store: for readers, and against the store of a run that nothing disturbed."""

import hashlib
import io
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from fruits_assets.readers import read_pandas
from spark_jobs.errors import FruitsError
from spark_jobs.spark_model import read_components
from spark_jobs.store.csv_copies import stale_copies
from spark_jobs.store.parquet import read_column, read_row_groups, vectors_in
from spark_jobs.store.pointers import current_by_class, current_one
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import (
    MOBILENET_FEATURES,
    PCA_FEATURES_CSV,
    PCA_MODEL,
    QUARANTINED_IMAGES,
    RAW_IMAGES,
    SCHEMAS,
)
from spark_jobs.store.tables import current
from spark_jobs.store.versions import Version

# Sums of float64 depend on their order.
TOLERANCE = 1e-9


def torn(uri: str) -> list[str]:
    """The faults that a reader finds now, also while runs write, in files, rows and CSVs.

    A class may be behind its inputs. It may never disagree with its own pointer or log.
    """
    store = open_root(uri)
    return [*_torn_tables(store), *_torn_csvs(store)]


def _torn_tables(store: Root) -> Iterator[str]:
    for table, schema in SCHEMAS.items():
        for label, version in current(store, table).items():
            name = f"{table}, {label}"
            if version.damage:
                yield f"{name}: {version.damage}"
                continue
            try:
                rows = sum(
                    batch.num_rows
                    for part in version.parts
                    for batch in read_row_groups(store, part.path, range(len(part.row_groups)), schema.names)
                )
            except FruitsError as error:
                yield f"{name}: {error}"
                continue
            if rows != version.rows:
                yield f"{name}: {rows} rows, not {version.rows}"


def _torn_csvs(store: Root) -> Iterator[str]:
    features, model = current(store, MOBILENET_FEATURES), current_one(store, PCA_MODEL)
    for label, csv in current_by_class(store, PCA_FEATURES_CSV).items():
        content = b"".join(store.read(part.path) for part in csv.parts)
        rows = read_csv(content)
        if len(rows) != csv.rows or hashlib.sha256(content).hexdigest() != csv.details["sha256"]:
            yield f"CSV, {label}: not what its pointer says"
            continue
        if model is None or label not in features:
            continue
        inputs = {MOBILENET_FEATURES: features[label].data_version, PCA_MODEL: model.data_version}
        try:
            if csv.inputs == inputs and not _is_projection(store, rows, features[label], model):
                yield f"CSV, {label}: not the features times the components"
        except FruitsError as error:
            yield f"CSV, {label}: {error}"


def read_csv(content: bytes) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(content), dtype={"path": str, "label": str}, keep_default_na=False)


def _is_projection(store: Root, csv: pd.DataFrame, features: Version, model: Version) -> bool:
    paths = read_column(store, features, "path")
    vectors = np.concatenate(
        [
            vectors_in(rows)
            for part in features.parts
            for rows in read_row_groups(store, part.path, range(len(part.row_groups)), ["features"])
        ]
    ).astype(np.float64)
    components = vectors @ read_components(store.uri, model.directory)
    order = np.argsort(paths)
    return (
        csv["path"].tolist() == sorted(paths)
        and csv.shape[1] == components.shape[1] + 2
        and np.allclose(csv.iloc[:, 2:], components[order], rtol=0, atol=TOLERANCE)
    )


def behind(uri: str) -> list[str]:
    """The classes whose CSV, or its copy, does not follow from their features and the model of today."""
    store = open_root(uri)
    features, model = current(store, MOBILENET_FEATURES), current_one(store, PCA_MODEL)
    csvs = current_by_class(store, PCA_FEATURES_CSV)
    inputs = {
        label: {MOBILENET_FEATURES: version.data_version, PCA_MODEL: model and model.data_version}
        for label, version in features.items()
    }
    late = [
        label
        for label in sorted(csvs.keys() | features)
        if label not in csvs or csvs[label].inputs != inputs.get(label)
    ]
    return [
        *(f"CSV, {label}: not of the current features and model" for label in late),
        *(f"stale copy of the CSV of {label}" for label in stale_copies(store)),
    ]


def differences(
    uri: str,
    expected: str,
    outputs: Sequence[str] = (RAW_IMAGES, QUARANTINED_IMAGES, MOBILENET_FEATURES, PCA_FEATURES_CSV),
) -> list[str]:
    """Where outputs of a store differ from those of an undisturbed run on the same photos."""
    found = []
    for output in outputs:
        rows, wanted = (_sorted_rows(store, output) for store in (uri, expected))
        if list(rows.columns) != list(wanted.columns) or len(rows) != len(wanted):
            found.append(f"{output}: {rows.shape} instead of {wanted.shape}")
        elif output == PCA_FEATURES_CSV:
            if not np.allclose(rows.iloc[:, 2:], wanted.iloc[:, 2:], rtol=0, atol=TOLERANCE):
                found.append(f"{output}: other components")
        elif output == MOBILENET_FEATURES:
            if not np.array_equal(np.stack(rows["features"]), np.stack(wanted["features"])):
                found.append(f"{output}: other features")
        elif not rows.drop(columns="modified", errors="ignore").equals(
            wanted.drop(columns="modified", errors="ignore")
        ):
            found.append(f"{output}: other rows")
    return found


def _sorted_rows(uri: str, output: str) -> pd.DataFrame:
    """The rows of an output by their path; it has no columns where the store has no CSV."""
    rows = read_pandas(uri, output)
    return rows.sort_values("path").reset_index(drop=True) if "path" in rows else rows
