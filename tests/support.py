"""Helpers of the tests: paths, waiting, sample photos, and inputs that the tests put into a store."""

import ctypes
import hashlib
import json
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fruits_assets.costs.run_records import RunRecord
from fruits_assets.model.convert import CONVERSION_JSON, converter_versions
from fruits_assets.model.weights import EMBEDDED, RANDOM, find_weights
from fruits_assets.samples import copy_samples
from spark_jobs.inference import MODEL_BIN, MODEL_XML, sha256_of
from spark_jobs.store.leases import held_lease
from spark_jobs.store.parquet import PartWriter, vectors_column
from spark_jobs.store.pointers import current_by_class, new_directory, publish
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import FEATURE_EXTRACTOR, MOBILENET_FEATURES, PCA_FEATURES_CSV, SCHEMAS
from spark_jobs.store.tables import current, replace_classes
from spark_jobs.store.versions import Version, combined_version

REPOSITORY = Path(__file__).parents[1]
DAGSTER_YAML = REPOSITORY / ".dagster" / "dagster.yaml"

# Without embedded weights in the checkout, tests use a seeded random initialisation.
_EMBEDDED_FILE = REPOSITORY / "fruits_assets" / "model" / "embedded.npz"
WEIGHTS = EMBEDDED if _EMBEDDED_FILE.exists() else RANDOM


# The record of one stage of a run on a cluster.
RECORD = RunRecord(
    run="run-1",
    root_run="run-1",
    owner="command-1",
    stage="mobilenet_features",
    environment="emr",
    finished="2026-11-23T10:00:00+00:00",
    engine="EMR cluster j-1, 2 core nodes m5.xlarge",
    images=5928,
    classes=60,
    known_classes=60,
    bytes=30_000_000,
    seconds=19.5,
    nodes=2,
    cores=8,
    instance_type="m5.xlarge",
    cost_usd=0.0044,
    weights="embedded",
    weights_sha256="ab" * 32,
    versions={"python": "3.11.9", "pyspark": "3.5.6"},
)


Truth = TypeVar("Truth")


def wait_for(condition: Callable[[], Truth | None], seconds: float = 180, pause: float = 0.2) -> Truth:
    """Calls `condition` until it returns a true value, and returns that value. Fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{condition} was not true within {seconds:.0f} s"
        time.sleep(pause)
    return value


def json_at(url: str) -> Any:
    """The JSON at an address; None while no server answers."""
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            return json.load(response)
    except OSError:
        return None


def numbered_samples(root: Path, images: int) -> list[str]:
    """Sample photos as `root/<class>/0_100.jpg`, `1_100.jpg`, ...; returns the classes, sorted."""
    classes = copy_samples(root / ".samples", images)
    for label in classes:
        (root / label).mkdir(parents=True)
        for number, photo in enumerate(sorted((root / ".samples" / label).iterdir())):
            photo.rename(root / label / f"{number}_100.jpg")
    shutil.rmtree(root / ".samples")
    return classes


def publish_extractor(store: str, extractor: Path) -> Version:
    """Makes the converted extractor current in a store, as its asset does for `WEIGHTS`."""
    root = open_root(store)
    directory = f"{new_directory(FEATURE_EXTRACTOR, 'tests')}/model"
    xml, ir = ((extractor / name).read_bytes() for name in (MODEL_XML, MODEL_BIN))
    root.write_many([(f"{directory}/{MODEL_XML}", xml), (f"{directory}/{MODEL_BIN}", ir)])
    weights, versions = find_weights(WEIGHTS), converter_versions()
    details = {
        "weights": weights.name,
        "weights_sha256": weights.sha256,
        "trained": weights.trained,
        "ir_sha256": sha256_of(xml, ir),
        "max_abs_difference": json.loads((extractor / CONVERSION_JSON).read_text())["max_abs_difference"],
        "versions": versions,
    }
    data_version = combined_version(weights.sha256, json.dumps(versions, sort_keys=True))
    version = Version(label=None, directory=directory, data_version=data_version, details=details)
    publish(root, FEATURE_EXTRACTOR, [version])
    return version


def current_versions(
    store: Root | str, output: str, labels: Iterable[str] | None = None
) -> dict[str, Version]:
    """The current version of each class of a table, or of the CSVs, by label."""
    root = open_root(store) if isinstance(store, str) else store
    return (current_by_class if output == PCA_FEATURES_CSV else current)(root, output, labels)


def current_files(store: str, output: str, labels: Iterable[str] | None = None) -> list[str]:
    """The full names of the current files of a table, or of the CSVs, sorted by class and photo."""
    versions = current_versions(store, output, labels).values()
    return [open_root(store).uri_of(part.path) for version in versions for part in version.parts]


def rewrite(file: Path | str, rows: pa.Table) -> None:
    """Replaces the rows of a file of a table; the footer goes on saying what was in it."""
    said = pq.ParquetFile(file).metadata.metadata[b"fruits"]
    pq.write_table(rows.replace_schema_metadata({b"fruits": said}), file)


def publish_features(store: str, features: dict[str, NDArray[np.float32]], group: int = 100) -> None:
    """Makes vectors, (n, 1280) for each class, the current `mobilenet_features`, in row groups of `group`."""
    root, schema = open_root(store), SCHEMAS[MOBILENET_FEATURES]
    parts = {}
    for label, vectors in features.items():
        writer = PartWriter(root, f"{MOBILENET_FEATURES}/tests", schema)
        for start in range(0, len(vectors), group):
            rows = vectors[start : start + group]
            paths = [f"{label}/{start + number:05}.jpg" for number in range(len(rows))]
            hashes = [hashlib.sha256(row.tobytes()).hexdigest() for row in rows]
            columns = [paths, [label] * len(rows), hashes, vectors_column(rows)]
            writer.write(pa.RecordBatch.from_arrays(columns, schema=schema))
        parts[label] = [writer.close()]
    with held_lease(root, "tests") as lease:
        replace_classes(root, MOBILENET_FEATURES, parts, lease)


def without_roots_powers() -> None:
    """For `preexec_fn`: makes file permissions apply to a child process of root.

    PR_CAPBSET_DROP (24) drops CAP_DAC_OVERRIDE (1) and CAP_DAC_READ_SEARCH (2). Users other than root do not
    have these capabilities, and the calls then change nothing.
    """
    libc = ctypes.CDLL(None)
    for capability in (1, 2):
        libc.prctl(24, capability, 0, 0, 0)


def leave_lock(instance: dg.DagsterInstance, name: str) -> None:
    """Leaves the lock of a run as a killed process does: its file, which nobody holds."""
    path = Path(instance.root_directory) / "running" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
