"""`project_to_csv`: the CSV of each class, on a local Spark session."""

import csv
import hashlib
import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyspark.ml.feature import PCAModel
from pyspark.ml.functions import array_to_vector
from pyspark.sql import SparkSession
from pyspark.sql.functions import col

from spark_jobs.store.csv_copies import csv_paths
from spark_jobs.store.csv_rows import read_csv, write_csv
from spark_jobs.store.pointers import current_by_class, publish
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_FEATURES_CSV
from tests.conftest import CLASSES, IMAGES_PER_CLASS
from tests.jobs import extract, fit, ingest, project, table
from tests.spark_jobs.support import Fitted, pointers
from tests.support import current_files, publish_extractor, publish_features

LONGEST = "é" * 127 + "x"  # 255 bytes
AWKWARD = [
    "=cmd()",
    "-lead",
    "a b",
    "😀" * 60,
    LONGEST,
    LONGEST[:-1] + "y",
    '50% "off", #1 a=b',
    "current",
    "version=1",
    "l'été",
]


def test_a_csv_equals_the_projection_of_the_spark_ml_model(spark: SparkSession, fitted: Fitted) -> None:
    model = PCAModel.load(str(Path(fitted.store) / fitted.report.directory / "spark"))
    for label in CLASSES:
        frame = spark.read.parquet(*current_files(fitted.store, MOBILENET_FEATURES, [label]))
        vectors = frame.select("path", array_to_vector(col("features")).alias("features"))
        expected = np.stack([row[2].toArray() for row in model.transform(vectors).orderBy("path").collect()])
        rows = pd.read_csv(Path(fitted.store) / f"pca_features_csv/{label}.csv")
        np.testing.assert_allclose(rows.iloc[:, 2:].to_numpy(), expected, rtol=1e-9, atol=1e-12)


def test_a_csv_has_a_header_and_one_row_per_image_sorted_by_path(pipeline: str) -> None:
    for label in CLASSES:
        rows = pd.read_csv(Path(pipeline) / f"pca_features_csv/{label}.csv")
        assert list(rows.columns) == ["path", "label", *(f"pc{number}" for number in range(1, 16))]
        assert list(rows["path"]) == list(table(pipeline, MOBILENET_FEATURES, [label])["path"])
        assert set(rows["label"]) == {label}
        assert rows.notna().all(axis=None)


def test_the_pointer_of_a_csv_holds_its_path_rows_size_and_sha256(pipeline: str) -> None:
    for pointer in pointers(pipeline, PCA_FEATURES_CSV).values():
        [part] = pointer.parts
        content = (Path(pipeline) / part.path).read_bytes()
        assert part.path.startswith("pca_features_csv_versions/version=")
        assert (part.rows, part.bytes) == (IMAGES_PER_CLASS, len(content))
        assert pointer.details["sha256"] == hashlib.sha256(content).hexdigest()


def test_the_folder_of_csvs_holds_a_copy_of_each_current_version_and_nothing_else(pipeline: str) -> None:
    folder = Path(pipeline) / PCA_FEATURES_CSV
    copies = {path.name: path.read_bytes() for path in folder.iterdir()}
    versions = [Path(file).read_bytes() for file in current_files(pipeline, PCA_FEATURES_CSV)]
    assert copies == dict(zip((f"{label}.csv" for label in CLASSES), versions, strict=True))


def test_all_jobs_accept_classes_of_any_name(
    spark: SparkSession, sample_photos: Path, tmp_path: Path, store: str, extractor: Path
) -> None:
    root = tmp_path / "awkward"
    for number, label in enumerate(AWKWARD):
        (root / label).mkdir(parents=True)
        for name in (f"{number % 8}_100.jpg", f"{(number + 3) % 8}_100.jpg"):
            shutil.copy(sample_photos / CLASSES[number % 3] / name, root / label)
    publish_extractor(store, extractor)
    reports = [
        ingest(spark, root, store, AWKWARD),
        extract(spark, store, AWKWARD),
        fit(spark, store, 2),
        project(spark, store, AWKWARD),
    ]
    assert [getattr(report, "failed", {}) for report in reports] == [{}] * 4
    names = csv_paths(AWKWARD)
    assert len(set(names.values())) == len(AWKWARD)
    for label, name in names.items():
        path = Path(store) / name
        assert len(path.name.encode()) <= 255
        assert path.name == f"{label}.csv" or (label.startswith("ééé") and path.name.startswith("ééé"))
        rows = pd.read_csv(path)
        shown = f"'{label}" if label[0] in "=-" else label
        assert list(rows["label"]) == [shown] * 2
        assert [text.rpartition("/")[0] for text in rows["path"]] == [shown] * 2


@pytest.fixture
def copied(fitted: Fitted, store: str) -> str:
    """A copy of the store of `fitted`, which the test may change."""
    return str(shutil.copytree(fitted.store, store))


def test_only_text_that_starts_a_formula_gets_an_apostrophe(
    spark: SparkSession, copied: str, fitted: Fitted
) -> None:
    formulas = [
        "=cmd()",
        "+1",
        "-1",
        "@SUM(A1)",
        "\tx",
        "\rx",
        "\nx",
        "\uff1dcmd()",
        "\uff20x",
        '=HYPERLINK("http:", "y")',
        # A text with an apostrophe of its own stays another text than the formula.
        "'=cmd()",
        "''+1",
    ]
    plain = ["a=b", "1+1", "'quoted'", " x", "é", '"', "a,b", "x-"]
    vectors = fitted.features["Kiwi"][:5]
    publish_features(copied, dict.fromkeys(formulas + plain, vectors))
    project(spark, copied, formulas + plain)
    for label in formulas + plain:
        with (Path(copied) / f"pca_features_csv/{label}.csv").open(encoding="utf-8", newline="") as file:
            _, *rows = csv.reader(file)
        shown = f"'{label}" if label in formulas else label
        assert [row[1] for row in rows] == [shown] * 5
        assert [row[0] for row in rows] == [f"{shown}/{number:05}.jpg" for number in range(5)]
        numbers = [[float(cell) for cell in row[2:]] for row in rows]
        np.testing.assert_allclose(numbers, vectors.astype(np.float64) @ fitted.components, rtol=1e-9)


NAMES = [
    *("=x", "'=x", "''=x", "'x", "x", ";=x", ";'=x", "a;-1;\t=", "\t=x", "\n\n=x", "'", ";", "", '";=x"'),
    *("\uff0dx", "'\uff0dx", "\r;'+", "a,=b", "a\n=b", "nan", "1"),
]


def test_every_text_comes_back_from_a_csv_as_it_was() -> None:
    names = pa.array(NAMES, pa.string())
    rows = pa.table({"path": names, "label": names, "pc1": pa.array(range(len(NAMES)), pa.float64())})
    content = write_csv(rows)
    assert read_csv(content).equals(rows)
    written = [row[0] for row in csv.reader(io.StringIO(content.decode(), newline=""))][1:]
    assert len(set(written)) == len(NAMES)


@pytest.mark.parametrize("separator", [",", ";"])
def test_no_cell_is_a_formula_whichever_sign_separates_cells(separator: str) -> None:
    """Attackers start a new cell with a separator: https://owasp.org/www-community/attacks/CSV_Injection"""
    names = pa.array(['a;=1+1;"', "=1+1", ";;-1", "\uff1dx"], pa.string())
    rows = pa.table({"path": names, "label": names, "pc1": pa.array([1.0] * 4)})
    cells = csv.reader(io.StringIO(write_csv(rows).decode(), newline=""), delimiter=separator)
    assert [cell for row in cells for cell in row if cell and cell[0] in "=+-@\t\r\n\uff1d"] == []


def test_rows_of_an_earlier_release_that_look_alike_are_computed_again(
    spark: SparkSession, copied: str, fitted: Fitted
) -> None:
    """That release wrote the names '=x and =x alike."""
    label = "'=Kiwi"
    publish_features(copied, {label: fitted.features["Kiwi"][:2]})
    project(spark, copied, [label])
    root = open_root(copied)
    version = current_by_class(root, PCA_FEATURES_CSV)[label]
    content = (Path(copied) / version.parts[0].path).read_bytes().replace(b"''=", b"'=")
    (Path(copied) / version.parts[0].path).write_bytes(content)
    details = {**version.details, "sha256": hashlib.sha256(content).hexdigest()}
    publish(root, PCA_FEATURES_CSV, [replace(version, details=details)])
    publish_features(copied, {label: fitted.features["Kiwi"][:3]})
    project(spark, copied, [label])
    rows = read_csv((Path(copied) / f"pca_features_csv/{label}.csv").read_bytes())
    assert rows.column("path").to_pylist() == [f"{label}/{number:05}.jpg" for number in range(3)]
    assert rows.column("label").to_pylist() == [label] * 3


def csvs(store: str) -> dict[str, bytes]:
    return {label: (Path(store) / f"pca_features_csv/{label}.csv").read_bytes() for label in CLASSES}


def test_only_the_given_class_is_replaced(spark: SparkSession, copied: str, fitted: Fitted) -> None:
    before = csvs(copied)
    publish_features(copied, {label: vectors[:4] for label, vectors in fitted.features.items()})
    report = project(spark, copied, ["Kiwi"])
    after = csvs(copied)
    assert {label for label in CLASSES if before[label] != after[label]} == {"Kiwi"}
    assert before["Kiwi"].splitlines()[:5] == after["Kiwi"].splitlines()
    assert report.classes["Kiwi"].images == 4


def test_a_class_without_features_fails_and_other_classes_succeed(spark: SparkSession, copied: str) -> None:
    report = project(spark, copied, ["Kiwi", "none"])
    assert list(report.classes) == ["Kiwi"]
    assert report.failed == {
        "none": "it has no mobilenet_features yet; materialize mobilenet_features for it first"
    }
