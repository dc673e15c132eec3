"""The four Spark jobs on a real local session: what they write, and what they refuse."""

import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from pyspark.ml.feature import PCA, PCAModel
from pyspark.ml.functions import array_to_vector
from pyspark.sql import SparkSession
from pyspark.sql.functions import col
from sklearn.decomposition import PCA as SklearnPCA

from spark_jobs import ingest_images as ingest_module
from spark_jobs.dimensions import FEATURES
from spark_jobs.errors import FruitsError
from spark_jobs.fit_pca import FitReport, Moments, decompose, inputs_version, moments_of
from spark_jobs.images import decode, model_input
from spark_jobs.inference import MODEL_BIN, MODEL_XML, compile_ir
from spark_jobs.project_to_csv import csv_path
from spark_jobs.spark_model import read_components
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import (
    MOBILENET_FEATURES,
    PCA_FEATURES_CSV,
    PCA_MODEL,
    QUARANTINED_IMAGES,
    RAW_IMAGES,
    SCHEMAS,
)
from spark_jobs.store.tables import Pointer, current, current_one, files
from tests.conftest import CLASSES, IMAGES_PER_CLASS
from tests.support import (
    REPOSITORY,
    extract,
    fit,
    ingest,
    project,
    publish_extractor,
    publish_features,
    run_jobs,
    table,
    without_roots_powers,
)

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


def pointers(store: str, name: str) -> dict[str, Pointer]:
    return current(open_root(store), name)


def images_in(photos: Path, label: str) -> dict[str, bytes]:
    """Contents of a class's photos by path, in the order of their paths."""
    return {f"{label}/{path.name}": path.read_bytes() for path in sorted((photos / label).iterdir())}


# Photos to raw_images.


@pytest.fixture(scope="module")
def pipeline(
    spark: SparkSession, sample_photos: Path, extractor: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A store in which all jobs have run on `sample_photos`, and which no test may change."""
    store = str(tmp_path_factory.mktemp("pipeline") / "store")
    run_jobs(spark, sample_photos, store, extractor, CLASSES)
    return store


def test_raw_images_hold_every_photo_as_it_is(pipeline: str, sample_photos: Path) -> None:
    rows = table(pipeline, RAW_IMAGES)
    expected = {
        path: content for label in CLASSES for path, content in images_in(sample_photos, label).items()
    }
    assert list(rows["path"]) == list(expected)
    assert list(rows["content"]) == list(expected.values())
    assert list(rows["sha256"]) == [hashlib.sha256(content).hexdigest() for content in expected.values()]
    assert list(rows["bytes"]) == [len(content) for content in expected.values()]
    assert list(rows["label"]) == [label for label in CLASSES for _ in range(IMAGES_PER_CLASS)]
    times = [datetime.fromtimestamp((sample_photos / path).stat().st_mtime, UTC) for path in expected]
    assert [time.to_pydatetime() for time in rows["modified"]] == times
    assert set(zip(rows["width"], rows["height"], rows["format"], strict=True)) == {(100, 100, "JPEG")}


@pytest.mark.parametrize("name", [RAW_IMAGES, MOBILENET_FEATURES])
def test_a_table_has_the_columns_that_it_declares(pipeline: str, name: str) -> None:
    for file in files(pipeline, name):
        assert pq.read_schema(file).equals(SCHEMAS[name])


def test_spark_reads_the_files_of_a_table_with_no_column_more(spark: SparkSession, pipeline: str) -> None:
    frame = spark.read.parquet(*files(pipeline, MOBILENET_FEATURES))
    assert frame.columns == SCHEMAS[MOBILENET_FEATURES].names
    assert frame.count() == len(CLASSES) * IMAGES_PER_CLASS


def test_the_report_counts_each_class(spark: SparkSession, photos: Path, store: str) -> None:
    (photos / "Kiwi/bad.jpg").write_text("no image")
    report = ingest(spark, photos, store, CLASSES, max_bad_share=0.5)
    assert report.failed == {}
    assert {label: (c.found, c.images, c.quarantined) for label, c in report.classes.items()} == {
        "Apple Red 1": (8, 8, 0),
        "Banana": (8, 8, 0),
        "Kiwi": (9, 8, 1),
    }
    assert [len(table(store, RAW_IMAGES, [label])) for label in CLASSES] == [8, 8, 8]


def picture(size: tuple[int, int] = (20, 20), colour: tuple[int, int, int] = (200, 30, 60)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_each_bad_photo_is_quarantined_with_its_reason_and_the_good_ones_stay(
    spark: SparkSession, photos: Path, store: str
) -> None:
    good = images_in(photos, "Kiwi")
    jpeg = next(iter(good.values()))
    bad = {
        "empty.jpg": (b"", "empty file"),
        "text.jpg": (b"<html>", "not an image in a supported format"),
        "torn.jpg": (jpeg[: len(jpeg) // 2], "truncated or damaged"),
        "bomb.png": (picture((200, 200)), "200 x 200 pixels are over the limit of 20000"),
        "long.jpg": (jpeg + bytes(9000), "bytes are over the limit of 9,000"),
    }
    for name, (content, _) in bad.items():
        (photos / "Kiwi" / name).write_bytes(content)
    limits = {"max_bytes": 9000, "max_pixels": 20_000, "max_bad_share": 0.5}
    report = ingest(spark, photos, store, ["Kiwi"], **limits)
    assert report.failed == {}
    assert dict(table(store, RAW_IMAGES).set_index("path")["content"]) == good
    rows = table(store, QUARANTINED_IMAGES).set_index("path")
    assert sorted(rows.index) == sorted(f"Kiwi/{name}" for name in bad)
    assert set(rows["label"]) == {"Kiwi"}
    for name, (content, reason) in bad.items():
        row = rows.loc[f"Kiwi/{name}"]
        assert reason in row["reason"]
        assert row["bytes"] == len(content)
        if name == "long.jpg":
            assert pd.isna(row["sha256"])  # it is not read at all
        else:
            assert row["sha256"] == hashlib.sha256(content).hexdigest()


# Spark's workers cannot be made to lose root's powers, so a loop stands in for Spark.
UNREADABLE = """
import json, sys
from types import SimpleNamespace
from spark_jobs import ingest_images as module
from tests.support import ingest
no_spark = SimpleNamespace(sparkContext=SimpleNamespace(defaultParallelism=1))
module.run_tasks = lambda spark, stage, function, work, images, report: [function(w) for w in work]
report = ingest(no_spark, sys.argv[1], sys.argv[2], ["Kiwi"], max_bad_share=0.5)
print(json.dumps([report.failed, report.classes["Kiwi"].images]))
"""


def test_a_photo_that_may_not_be_read_is_quarantined(photos: Path, store: str) -> None:
    (photos / "Kiwi/3_100.jpg").chmod(0)
    result = subprocess.run(
        [sys.executable, "-c", UNREADABLE, str(photos), store],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        preexec_fn=without_roots_powers,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(result.stdout) == [{}, 7]
    [row] = table(store, QUARANTINED_IMAGES).to_dict("records")
    assert (row["path"], row["reason"]) == ("Kiwi/3_100.jpg", "cannot be read: Permission denied")


def test_a_class_with_too_many_bad_photos_fails_by_name_and_keeps_its_last_version(
    spark: SparkSession, photos: Path, store: str
) -> None:
    ingest(spark, photos, store, CLASSES)
    before = pointers(store, RAW_IMAGES)
    for number in range(4):
        (photos / f"Kiwi/{number}_100.jpg").write_bytes(b"")
    (photos / "Banana/0_100.jpg").unlink()
    report = ingest(spark, photos, store, CLASSES)
    after = pointers(store, RAW_IMAGES)
    assert list(report.failed) == ["Kiwi"]
    assert "4 of 8 photos are bad" in report.failed["Kiwi"]
    assert "FRUITS_MAX_BAD_SHARE" in report.failed["Kiwi"]
    assert sorted(report.classes) == ["Apple Red 1", "Banana"]
    assert after["Kiwi"] == before["Kiwi"]
    assert after["Banana"].rows == 7
    assert list(table(store, QUARANTINED_IMAGES, ["Kiwi"])["reason"]) == ["empty file"] * 4


def test_a_class_that_is_all_bad_fails_whatever_share_is_allowed(
    spark: SparkSession, photos: Path, store: str
) -> None:
    for path in (photos / "Kiwi").iterdir():
        path.write_bytes(b"")
    report = ingest(spark, photos, store, CLASSES, max_bad_share=1.0)
    assert list(report.failed) == ["Kiwi"]
    assert sorted(pointers(store, RAW_IMAGES)) == ["Apple Red 1", "Banana"]


def test_a_repaired_class_leaves_nothing_in_quarantine(spark: SparkSession, photos: Path, store: str) -> None:
    photo = photos / "Kiwi/0_100.jpg"
    content = photo.read_bytes()
    photo.write_bytes(b"")
    ingest(spark, photos, store, ["Kiwi"], max_bad_share=0.5)
    assert pointers(store, QUARANTINED_IMAGES)["Kiwi"].rows == 1
    photo.write_bytes(content)
    ingest(spark, photos, store, ["Kiwi"], max_bad_share=0.5)
    assert pointers(store, QUARANTINED_IMAGES)["Kiwi"].rows == 0


def test_a_class_whose_photos_are_gone_keeps_its_last_version_and_says_so(
    spark: SparkSession, photos: Path, store: str
) -> None:
    ingest(spark, photos, store, CLASSES)
    before = pointers(store, RAW_IMAGES)
    shutil.rmtree(photos / "Kiwi")
    report = ingest(spark, photos, store, CLASSES)
    assert report.failed == {}
    assert {label: figures.gone for label, figures in report.classes.items()} == {
        "Apple Red 1": False,
        "Banana": False,
        "Kiwi": True,
    }
    assert report.classes["Kiwi"].images == IMAGES_PER_CLASS
    assert pointers(store, RAW_IMAGES)["Kiwi"] == before["Kiwi"]


def test_a_class_that_never_was_or_is_refused_fails_by_name(
    spark: SparkSession, photos: Path, store: str
) -> None:
    shutil.copytree(photos / "Kiwi", photos / "a...b")
    report = ingest(spark, photos, store, ["Kiwi", "a...b", "none"])
    assert list(report.classes) == ["Kiwi"]
    assert "holds '...'" in report.failed["a...b"]
    assert f"there are no photos of it under FRUITS_IMAGES={photos}" in report.failed["none"]


def test_nothing_is_written_where_the_root_is_unusable(
    spark: SparkSession, tmp_path: Path, store: str
) -> None:
    (tmp_path / "empty").mkdir()
    for root in ("empty", "missing"):
        with pytest.raises(FruitsError):
            ingest(spark, tmp_path / root, store, CLASSES)
    assert not Path(store).exists()


def test_the_same_photos_give_the_same_data_version_in_any_order_and_any_pieces(
    spark: SparkSession, photos: Path, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ingest(spark, photos, store, ["Kiwi"]).classes["Kiwi"].data_version
    again = tmp_path / "again"
    (again / "Kiwi").mkdir(parents=True)
    for path in sorted((photos / "Kiwi").iterdir(), reverse=True):
        (again / "Kiwi" / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(ingest_module, "CHUNK_IMAGES", 3)
    second = ingest(spark, again, store, ["Kiwi"])
    assert second.classes["Kiwi"].data_version == first
    assert [part.rows for part in pointers(store, RAW_IMAGES)["Kiwi"].parts] == [3, 3, 2]
    assert list(table(store, RAW_IMAGES)["path"]) == list(images_in(photos, "Kiwi"))


@pytest.mark.parametrize("change", ["new", "changed", "renamed", "gone"])
def test_a_change_to_one_photo_changes_the_data_version_of_its_class_alone(
    spark: SparkSession, photos: Path, store: str, change: str
) -> None:
    before = ingest(spark, photos, store, CLASSES)
    photo = photos / "Kiwi/0_100.jpg"
    if change == "new":
        (photos / "Kiwi/new.png").write_bytes(picture())
    elif change == "changed":
        photo.write_bytes(picture())
    elif change == "renamed":
        photo.rename(photos / "Kiwi/renamed.jpg")
    else:
        photo.unlink()
    after = ingest(spark, photos, store, CLASSES)
    changed = {
        label for label in CLASSES if after.classes[label].data_version != before.classes[label].data_version
    }
    assert changed == {"Kiwi"}


def test_a_run_of_one_class_leaves_the_others_untouched(
    spark: SparkSession, photos: Path, store: str
) -> None:
    ingest(spark, photos, store, CLASSES)
    before = pointers(store, RAW_IMAGES)
    ingest(spark, photos, store, ["Kiwi"])
    after = pointers(store, RAW_IMAGES)
    assert {label for label in CLASSES if before[label] != after[label]} == {"Kiwi"}


def test_row_groups_are_small_enough_to_split(spark: SparkSession, photos: Path, store: str) -> None:
    photo = photos / "Kiwi/0_100.jpg"
    for number in range(300):
        os.link(photo, photos / f"Kiwi/more-{number}.jpg")
    ingest(spark, photos, store, ["Kiwi"])
    [part] = pointers(store, RAW_IMAGES)["Kiwi"].parts
    assert sum(part.row_groups) == 308
    assert max(part.row_groups) <= 128
    assert len(set(table(store, RAW_IMAGES)["path"])) == 308


# raw_images to mobilenet_features.


def test_features_are_those_of_a_plain_loop_to_the_last_bit(
    pipeline: str, sample_photos: Path, extractor: Path
) -> None:
    network = compile_ir((extractor / MODEL_XML).read_bytes(), (extractor / MODEL_BIN).read_bytes())
    for label in CLASSES:
        contents = list(images_in(sample_photos, label).values())
        expected = np.stack([network(model_input(decode(content, 10**9).image)) for content in contents])
        features = np.stack(table(pipeline, MOBILENET_FEATURES, [label])["features"])
        assert features.dtype == np.float32
        assert np.array_equal(features, expected)


def test_a_photos_features_do_not_depend_on_its_neighbours(
    spark: SparkSession, photos: Path, store: str, pipeline: str, extractor: Path
) -> None:
    for number in range(IMAGES_PER_CLASS - 1):
        (photos / f"Kiwi/{number}_100.jpg").unlink()
    publish_extractor(store, extractor)
    ingest(spark, photos, store, ["Kiwi"])
    extract(spark, store, ["Kiwi"])
    [alone] = table(store, MOBILENET_FEATURES)["features"]
    among = table(pipeline, MOBILENET_FEATURES, ["Kiwi"])["features"].iloc[-1]
    np.testing.assert_array_equal(alone, among)


def test_features_are_in_the_order_of_the_paths_with_the_photos_sha256(pipeline: str) -> None:
    raw, features = table(pipeline, RAW_IMAGES), table(pipeline, MOBILENET_FEATURES)
    for column in ("path", "label", "sha256"):
        assert list(features[column]) == list(raw[column])


def test_features_tell_what_they_were_made_from(pipeline: str) -> None:
    raw, features = pointers(pipeline, RAW_IMAGES), pointers(pipeline, MOBILENET_FEATURES)
    for label in CLASSES:
        assert features[label].inputs[RAW_IMAGES] == raw[label].data_version
        assert features[label].details == {"non_finite": 0, "constant": 0}


def test_an_extractor_that_was_changed_is_refused_by_its_sha256(
    spark: SparkSession, photos: Path, store: str, extractor: Path
) -> None:
    pointer = publish_extractor(store, extractor)
    ingest(spark, photos, store, CLASSES)
    weights = Path(store) / pointer.directory / MODEL_BIN
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(FruitsError, match=r"SHA-256 \w+, not \w+: it was changed after it was written"):
        extract(spark, store, CLASSES)
    assert pointers(store, MOBILENET_FEATURES) == {}


def test_a_class_without_raw_images_fails_by_name_and_the_others_are_done(
    spark: SparkSession, photos: Path, store: str, extractor: Path
) -> None:
    publish_extractor(store, extractor)
    ingest(spark, photos, store, ["Kiwi"])
    report = extract(spark, store, ["Kiwi", "Banana"])
    assert list(report.classes) == ["Kiwi"]
    assert report.failed == {"Banana": "it has no raw_images yet; materialize raw_images for it first"}


def test_another_extractor_gives_other_data_versions(
    spark: SparkSession, photos: Path, store: str, extractor: Path
) -> None:
    publish_extractor(store, extractor)
    ingest(spark, photos, store, ["Kiwi"])
    versions = [
        extract(spark, store, ["Kiwi"], extractor_version=version).classes["Kiwi"].data_version
        for version in ("1", "1", "2")
    ]
    assert versions[0] == versions[1] != versions[2]


# mobilenet_features to pca_model.


class Fitted(NamedTuple):
    """A model on made-up features, which no test may change, and what it was fitted on."""

    store: str
    features: dict[str, NDArray[np.float32]]
    report: FitReport
    components: NDArray[np.float64]
    description: dict[str, Any]


@lru_cache
def directions() -> NDArray[np.float64]:
    """1280 orthonormal directions, at random."""
    return np.linalg.qr(np.random.default_rng(0).normal(size=(FEATURES, FEATURES)))[0]


def made_up_features(images: int = 100) -> dict[str, NDArray[np.float32]]:
    """Vectors of three classes, whose variances fall by a tenth from one direction to the next."""
    rng = np.random.default_rng(1)
    scale = 0.95 ** np.arange(FEATURES)
    return {
        label: ((rng.normal(size=(images, FEATURES)) * scale) @ directions().T + 0.5).astype(np.float32)
        for label in CLASSES
    }


@pytest.fixture(scope="module")
def fitted(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    store = str(tmp_path_factory.mktemp("pca") / "store")
    features = made_up_features()
    publish_features(store, features, group=30)
    report = fit(spark, store, CLASSES)
    project(spark, store, CLASSES)
    description = json.loads((Path(store) / report.directory / "model.json").read_text())
    return Fitted(
        store=store,
        features=features,
        report=report,
        components=read_components(store, report.directory),
        description=description,
    )


def subspace_error(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """The largest difference of the projections onto two subspaces with orthonormal columns."""
    return float(np.abs(one @ one.T - other @ other.T).max())


def test_the_pca_is_scikit_learns(fitted: Fitted) -> None:
    features = np.concatenate(list(fitted.features.values())).astype(np.float64)
    reference = SklearnPCA(n_components=15, svd_solver="full").fit(features)
    shares = fitted.report.explained_variance
    np.testing.assert_allclose(shares, reference.explained_variance_ratio_, rtol=1e-9)
    np.testing.assert_allclose(fitted.description["variances"][:15], reference.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(fitted.description["mean"], reference.mean_, rtol=1e-9)
    assert subspace_error(fitted.components, reference.components_.T) < 1e-9
    signs = np.sign((fitted.components * reference.components_.T).sum(axis=0))
    np.testing.assert_allclose(fitted.components * signs, reference.components_.T, atol=1e-9)


def test_the_pca_is_that_of_spark(spark: SparkSession, fitted: Fitted) -> None:
    frame = spark.read.parquet(*files(fitted.store, MOBILENET_FEATURES))
    vectors = frame.select(array_to_vector(col("features")).alias("features"))
    reference = PCA(k=15, inputCol="features", outputCol="pca").fit(vectors)
    np.testing.assert_allclose(
        fitted.report.explained_variance, reference.explainedVariance.toArray(), rtol=1e-9
    )
    assert subspace_error(fitted.components, reference.pc.toArray()) < 1e-9


def test_components_are_orthonormal_with_their_largest_entry_positive(fitted: Fitted) -> None:
    np.testing.assert_allclose(fitted.components.T @ fitted.components, np.eye(15), atol=1e-12)
    assert fitted.report.orthonormality_error < 1e-12
    largest = fitted.components[np.abs(fitted.components).argmax(axis=0), np.arange(15)]
    assert (largest > 0).all()


def test_the_same_features_in_other_pieces_give_the_same_model_and_others_another(
    spark: SparkSession, store: str, fitted: Fitted
) -> None:
    publish_features(store, dict(reversed(fitted.features.items())), group=7)
    again = fit(spark, store, CLASSES)
    np.testing.assert_allclose(read_components(store, again.directory), fitted.components, atol=1e-9)
    assert again.data_version == fitted.report.data_version
    features = pointers(store, MOBILENET_FEATURES)
    publish_features(store, {"Kiwi": fitted.features["Kiwi"][1:]})
    others = [{label: features[label] for label in CLASSES[:2]}, pointers(store, MOBILENET_FEATURES)]
    assert inputs_version(features) == fitted.description["fitted_on"]
    assert all(inputs_version(other) != fitted.description["fitted_on"] for other in others)


def test_spark_ml_loads_the_model(spark: SparkSession, fitted: Fitted) -> None:
    model = PCAModel.load(str(Path(fitted.store) / fitted.report.directory / "spark"))
    assert np.array_equal(model.pc.toArray(), fitted.components)
    assert list(model.explainedVariance.toArray()) == fitted.report.explained_variance
    assert (model.getK(), model.getInputCol()) == (15, "features")


def test_a_model_is_in_the_files_that_spark_ml_writes(fitted: Fitted, tmp_path: Path) -> None:
    ours = Path(fitted.store) / fitted.report.directory / "spark"
    PCAModel.load(str(ours)).write().save(str(tmp_path / "model"))

    def data(model: Path) -> pa.Table:
        [file] = model.glob("data/part-*.parquet")
        return pq.read_table(file)

    def parameters(model: Path) -> dict[str, Any]:
        [line] = (model / "metadata/part-00000").read_text().splitlines()
        # Python puts its own default into a model that it loads.
        return {**json.loads(line), "timestamp": None, "defaultParamMap": None}

    assert data(ours).equals(data(tmp_path / "model"))
    row_types = b"org.apache.spark.sql.parquet.row.metadata"
    [our_types, its_types] = [
        json.loads(data(model).schema.metadata[row_types]) for model in (ours, tmp_path / "model")
    ]
    assert our_types == its_types
    assert parameters(ours) == parameters(tmp_path / "model")


def test_the_json_beside_the_model_is_complete(fitted: Fitted) -> None:
    description = fitted.description
    assert description.keys() == {
        "components",
        "images",
        "classes",
        "mean",
        "variances",
        "explained_variance",
        "fitted_on",
    }
    assert (description["components"], description["images"]) == (15, 300)
    assert description["classes"] == dict.fromkeys(CLASSES, 100)
    assert [len(description[name]) for name in ("mean", "variances", "explained_variance")] == [
        1280,
        1280,
        15,
    ]
    variances = np.array(description["variances"])
    assert (np.diff(variances) <= 0).all()
    np.testing.assert_allclose(variances[:15] / variances.sum(), description["explained_variance"])


def test_the_pointer_to_the_model_sums_it_up(fitted: Fitted) -> None:
    pointer = current_one(open_root(fitted.store), PCA_MODEL)
    assert pointer is not None
    assert pointer.details == {
        "components": 15,
        "images": 300,
        "classes": 3,
        "explained_variance": pytest.approx(sum(fitted.report.explained_variance)),
    }


def test_the_scatter_holds_projected_points_of_every_class(fitted: Fitted) -> None:
    assert list(fitted.report.scatter) == CLASSES
    for label, points in fitted.report.scatter.items():
        projected = fitted.features[label].astype(np.float64) @ fitted.components[:, :2]
        assert points
        assert {tuple(point) for point in points} <= {tuple(point) for point in projected.round(3)}


@pytest.fixture(scope="module")
def moments() -> Moments:
    return moments_of(np.concatenate(list(made_up_features().values())))


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.999, 1.0])
def test_a_share_of_the_variance_keeps_the_fewest_components_that_reach_it(
    moments: Moments, share: float
) -> None:
    model = decompose(moments, components=15, variance=share)
    reached = np.cumsum(model.variances) / model.variances.sum()
    kept = model.components.shape[1]
    assert reached[kept - 1] >= share - 1e-9
    assert kept == 1 or reached[kept - 2] < share


def test_a_share_of_the_variance_decides_over_the_number_of_components(
    spark: SparkSession, store: str
) -> None:
    publish_features(store, made_up_features(images=4))
    report = fit(spark, store, CLASSES, components=15, variance=0.5)  # 15 components need 16 images
    assert report.components < 12
    assert sum(report.explained_variance[:-1]) < 0.5 <= sum(report.explained_variance)


@pytest.mark.parametrize(("images", "components"), [(5, 15), (0, 1)])
def test_too_few_images_are_refused_by_a_sentence(
    spark: SparkSession, store: str, images: int, components: int
) -> None:
    publish_features(store, made_up_features(images=images) if images else {})
    sentence = (
        rf"{components + 1} images.*number of images is {3 * images}, in .* classes. Materialize.*or ask"
    )
    with pytest.raises(FruitsError, match=sentence):
        fit(spark, store, CLASSES, components)
    assert current_one(open_root(store), PCA_MODEL) is None


# pca_features_csv.


def test_a_csv_is_what_sparks_own_model_projects(spark: SparkSession, fitted: Fitted) -> None:
    model = PCAModel.load(str(Path(fitted.store) / fitted.report.directory / "spark"))
    for label in CLASSES:
        frame = spark.read.parquet(*files(fitted.store, MOBILENET_FEATURES, [label]))
        vectors = frame.select("path", array_to_vector(col("features")).alias("features"))
        expected = np.stack([row[2].toArray() for row in model.transform(vectors).orderBy("path").collect()])
        rows = pd.read_csv(Path(fitted.store) / csv_path(label))
        np.testing.assert_allclose(rows.iloc[:, 2:].to_numpy(), expected, rtol=1e-9, atol=1e-12)


def test_a_csv_has_a_header_and_one_row_for_each_image_in_the_order_of_paths(pipeline: str) -> None:
    for label in CLASSES:
        rows = pd.read_csv(Path(pipeline) / f"pca_features_csv/{label}.csv")
        assert list(rows.columns) == ["path", "label", *(f"pc{number}" for number in range(1, 16))]
        assert list(rows["path"]) == list(table(pipeline, MOBILENET_FEATURES, [label])["path"])
        assert set(rows["label"]) == {label}
        assert rows.notna().all(axis=None)


def test_the_pointer_of_a_csv_tells_its_name_rows_and_size(pipeline: str) -> None:
    for label, pointer in pointers(pipeline, PCA_FEATURES_CSV).items():
        [part] = pointer.parts
        assert part.path == f"pca_features_csv/{label}.csv"
        assert part.rows == IMAGES_PER_CLASS
        assert part.bytes == (Path(pipeline) / part.path).stat().st_size


def test_nothing_but_the_csvs_and_their_pointers_is_left(pipeline: str) -> None:
    found = sorted(path.name for path in (Path(pipeline) / PCA_FEATURES_CSV).iterdir())
    assert found == sorted(["current", *(f"{label}.csv" for label in CLASSES)])


def test_classes_of_any_name_go_through_all_jobs(
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
        fit(spark, store, AWKWARD, 2),
        project(spark, store, AWKWARD),
    ]
    assert [getattr(report, "failed", {}) for report in reports] == [{}] * 4
    names = {label: csv_path(label) for label in AWKWARD}
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
    """A store like that of `fitted`, of the test's own to change."""
    return str(shutil.copytree(fitted.store, store))


def test_only_text_that_starts_a_formula_gets_an_apostrophe(
    spark: SparkSession, copied: str, fitted: Fitted
) -> None:
    formulas = ["=cmd()", "+1", "-1", "@SUM(A1)", "\tx", "\rx", '=HYPERLINK("http:", "y")']
    plain = ["a=b", "1+1", "'quoted'", " x", "é", '"', "a,b", "x-"]
    vectors = fitted.features["Kiwi"][:5]
    publish_features(copied, dict.fromkeys(formulas + plain, vectors))
    project(spark, copied, formulas + plain)
    for label in formulas + plain:
        with (Path(copied) / csv_path(label)).open(encoding="utf-8", newline="") as file:
            _, *rows = csv.reader(file)
        shown = f"'{label}" if label in formulas else label
        assert [row[1] for row in rows] == [shown] * 5
        assert [row[0] for row in rows] == [f"{shown}/{number:05}.jpg" for number in range(5)]
        numbers = [[float(cell) for cell in row[2:]] for row in rows]
        np.testing.assert_allclose(numbers, vectors.astype(np.float64) @ fitted.components, rtol=1e-9)


def csvs(store: str) -> dict[str, bytes]:
    return {label: (Path(store) / csv_path(label)).read_bytes() for label in CLASSES}


def test_a_class_is_replaced_whole_and_alone(spark: SparkSession, copied: str, fitted: Fitted) -> None:
    before = csvs(copied)
    publish_features(copied, {label: vectors[:4] for label, vectors in fitted.features.items()})
    report = project(spark, copied, ["Kiwi"])
    after = csvs(copied)
    assert {label for label in CLASSES if before[label] != after[label]} == {"Kiwi"}
    assert before["Kiwi"].splitlines()[:5] == after["Kiwi"].splitlines()
    assert report.classes["Kiwi"].images == 4


def test_a_class_without_features_fails_by_name_and_the_others_are_done(
    spark: SparkSession, copied: str
) -> None:
    report = project(spark, copied, ["Kiwi", "none"])
    assert list(report.classes) == ["Kiwi"]
    assert report.failed == {
        "none": "it has no mobilenet_features yet; materialize mobilenet_features for it first"
    }
