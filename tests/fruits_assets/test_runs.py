"""Runs of the assets through Dagster, in this process, against an instance and a store of their own."""

import json
import logging
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.loader import LoadingContextForTest
from pyspark.sql import SparkSession

from fruits_assets.costs.comparison import rows_of
from fruits_assets.costs.run_records import RUN_RECORDS, STAGES, RunRecord, read_records
from fruits_assets.definitions import definitions_for
from fruits_assets.partitions import known_classes, register_classes
from fruits_assets.pipeline import run_pipeline
from fruits_assets.plots import class_counts, scatter, scree
from resources.settings import Settings
from spark_jobs.dimensions import FEATURES
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import (
    ENVIRONMENT_COMPARISON,
    MOBILENET_FEATURES,
    PCA_FEATURES_CSV,
    PCA_MODEL,
    SCHEMAS,
)
from spark_jobs.store.tables import PartWriter, Pointer, current, current_one, publish
from tests.support import DAGSTER_YAML, WEIGHTS, numbered_samples, publish_extractor

# Registration follows the alphabet here; `Banana` is not the first, and its neighbours are no others.
CLASSES = ["Apple Red 1", "Banana", "Huckleberry", "Kiwi", "Lemon", "Orange"]
IMAGES = 4
BY_CLASS = ["raw_images", "mobilenet_features", "pca_features_csv"]
MAX_EVENT_BYTES = 30_000


class Platform:
    """Photos, a store and a Dagster instance in one folder, and what a user does with them."""

    def __init__(self, folder: Path, **changed: Any) -> None:
        self.photos = folder / "photos"
        self.home = folder / "dagster"
        self.home.mkdir(exist_ok=True)
        shutil.copy(DAGSTER_YAML, self.home)
        self.settings = Settings(
            images=str(self.photos),
            store=str(folder / "store"),
            spark_cores=2,
            _env_file=None,
            **{"weights": WEIGHTS, **changed},
        )
        self.store = open_root(self.settings.store)
        definitions = definitions_for(self.settings)
        self.job = definitions.resolve_implicit_global_asset_job_def()
        self.graph = definitions.resolve_asset_graph()
        self.assets = [node.key.to_user_string() for node in self.graph.asset_nodes if node.is_materializable]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DAGSTER_HOME", str(self.home))
            self.instance = dg.DagsterInstance.get()

    def observe(self) -> dg.ExecuteInProcessResult:
        return self._execute(["fruit_photos"], {})

    def run(
        self,
        assets: Iterable[str],
        first: str | None = None,
        last: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> dg.ExecuteInProcessResult:
        """Materializes some assets for one class, for a range of classes, or without any."""
        tags = {}
        if last is not None:
            tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        elif first is not None:
            tags = {"dagster/partition": first}
        return self._execute(assets, tags, {"ops": config or {}})

    def run_everything(self) -> dg.ExecuteInProcessResult:
        return self.run(self.assets, CLASSES[0], CLASSES[-1])

    def _execute(
        self, assets: Iterable[str], tags: dict[str, Any], config: dict[str, Any] | None = None
    ) -> dg.ExecuteInProcessResult:
        return self.job.execute_in_process(
            run_config=config,
            instance=self.instance,
            asset_selection=[dg.AssetKey(name) for name in assets],
            tags=tags,
            raise_on_error=False,
        )

    def not_fresh(self, *assets: str) -> list[str]:
        """What Dagster's UI marks as out of sync or missing, of some assets or of all: "asset", or
        "asset class". All are without the comparison of runs, which `fruits run` does not make."""
        assets = assets or tuple({*self.assets, "fruit_photos"} - {ENVIRONMENT_COMPARISON})
        resolver = CachingStaleStatusResolver(self.instance, self.graph, LoadingContextForTest(self.instance))
        marked = []
        for node in self.graph.asset_nodes:
            if node.key.to_user_string() not in assets:
                continue
            for label in known_classes(self.instance) if node.is_partitioned else [None]:
                if resolver.get_status(node.key, label).name != "FRESH":
                    marked.append(" ".join(filter(None, [node.key.to_user_string(), label])))
        return sorted(marked)

    def events(self, asset: str, label: str | None = None) -> list[dg.AssetMaterialization]:
        """The materializations of an asset, or of a class of it, the newest first."""
        filters = dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=[label] if label else None)
        records = self.instance.fetch_materializations(filters, limit=1000).records
        return [record.asset_materialization for record in records if record.asset_materialization]

    def metadata(self, asset: str, label: str | None = None) -> dict[str, Any]:
        return {name: value.value for name, value in self.events(asset, label)[0].metadata.items()}

    def version(self, asset: str, label: str | None = None) -> str:
        return str((self.events(asset, label)[0].tags or {})["dagster/data_version"])

    def check(self, name: str) -> dg.AssetCheckEvaluation:
        """The last evaluation of a check."""
        [key] = [key for key in self.graph.asset_check_keys if key.name == name]
        [record] = self.instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
        assert record.event
        assert record.event.dagster_event
        return record.event.dagster_event.asset_check_evaluation_data

    def failing(self, name: str) -> list[str]:
        """The classes that a check's last evaluation names; none where it passed."""
        evaluation = self.check(name)
        classes = list(evaluation.metadata["failing_classes"].value)  # type: ignore[arg-type]
        assert evaluation.passed == (not classes)
        return classes

    def records(self, run: dg.ExecuteInProcessResult | None = None) -> dict[str, RunRecord]:
        """What the stages of a run left on record, of the first run of all by default."""
        records, bad = read_records(self.store)
        assert bad == []
        run_id = run.run_id if run else records[0].run
        return {record.stage: record for record in records if record.run == run_id}

    def close(self) -> None:
        self.instance.dispose()


@pytest.fixture(scope="module")
def finished_folder(spark: SparkSession, extractor: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything is observed and materialized here, once; tests take copies, with their times."""
    folder = tmp_path_factory.mktemp("finished")
    for label in numbered_samples(folder / "photos", IMAGES):
        if label not in CLASSES:
            shutil.rmtree(folder / "photos" / label)
    publish_extractor(str(folder / "store"), extractor)
    platform = Platform(folder)
    assert platform.observe().success
    assert platform.run_everything().success
    platform.close()
    return folder


@pytest.fixture(scope="module")
def finished(finished_folder: Path) -> Iterator[Platform]:
    """To look at, not to change."""
    platform = Platform(finished_folder)
    yield platform
    platform.close()


@pytest.fixture
def platform(finished_folder: Path, tmp_path: Path) -> Iterator[Platform]:
    """A finished platform of the test's own."""
    copy = Platform(shutil.copytree(finished_folder, tmp_path / "platform"))
    yield copy
    copy.close()


@pytest.fixture
def untouched(spark: SparkSession, extractor: Path, tmp_path: Path) -> Iterator[Platform]:
    """A platform on which nothing has been run; it has an extractor, so that nothing is converted."""
    publish_extractor(str(tmp_path / "store"), extractor)
    platform = Platform(tmp_path)
    yield platform
    platform.close()


def add_photo(platform: Platform, label: str) -> None:
    """One new photo, the first of the class turned around."""
    from PIL import Image

    photo = Image.open(platform.photos / label / "0_100.jpg")
    photo.transpose(Image.Transpose.ROTATE_180).save(platform.photos / label / "new.jpg")


def spoil(platform: Platform, label: str) -> None:
    (platform.photos / label / "0_100.jpg").write_bytes(b"no picture")


def messages(platform: Platform, run: dg.ExecuteInProcessResult, level: str | None = None) -> list[str]:
    """What a run wrote to Dagster's event log beside its events."""
    return [
        entry.user_message
        for entry in platform.instance.all_logs(run.run_id)
        if not entry.is_dagster_event and level in (None, logging.getLevelName(entry.level))
    ]


# Observing


def test_observing_registers_every_class_with_a_data_version_of_its_own(finished: Platform) -> None:
    assert known_classes(finished.instance) == CLASSES
    records = finished.instance.fetch_observations(dg.AssetKey("fruit_photos"), limit=100).records
    observations = [record.asset_observation for record in records if record.asset_observation]
    versions = {o.partition: (o.tags or {})["dagster/data_version"] for o in observations if o.partition}
    assert sorted(versions) == CLASSES
    assert len(set(versions.values())) == len(CLASSES)
    [summary] = [observation.metadata for observation in observations if not observation.partition]
    assert summary["images"].value == IMAGES * len(CLASSES)
    assert summary["new_classes"].value == CLASSES
    assert summary["gone_classes"].value == []


def test_observing_many_classes_with_long_names_stays_below_30_kilobytes(untouched: Platform) -> None:
    for number in range(120):
        folder = untouched.photos / f"{number:03}{'🍎' * 62}"
        folder.mkdir(parents=True)
        (folder / "photo.jpg").touch()
    run = untouched.observe()
    assert len(known_classes(untouched.instance)) == 120
    sizes = [len(dg.serialize_value(entry)) for entry in untouched.instance.all_logs(run.run_id)]
    assert max(sizes) < MAX_EVENT_BYTES


# A run over all classes


def test_a_run_over_all_classes_materializes_everything_for_each_of_them(finished: Platform) -> None:
    for asset in finished.assets:
        assert finished.events(asset), asset
    for asset in BY_CLASS:
        assert {event.partition for event in finished.events(asset)} == set(CLASSES)
        assert set(finished.instance.get_materialized_partitions(dg.AssetKey(asset))) == set(CLASSES)


def test_after_a_full_run_nothing_is_out_of_sync(finished: Platform) -> None:
    assert finished.not_fresh() == []


def test_each_class_has_its_own_figures_and_data_version_on_its_own_partition(finished: Platform) -> None:
    for asset in BY_CLASS:
        pointers = current(finished.store, asset)
        assert {finished.version(asset, label) for label in CLASSES} == {
            pointer.data_version for pointer in pointers.values()
        }
        for label in CLASSES:
            metadata = finished.metadata(asset, label)
            assert finished.version(asset, label) == pointers[label].data_version
            assert metadata["images"] == IMAGES
            assert metadata["images_in_run"] == IMAGES * len(CLASSES)
            assert metadata["bytes"] == pointers[label].bytes
            assert metadata["seconds"] > 0
            assert metadata["images_per_second"] > 0
            assert metadata["spark_application_id"].startswith("local-")
            assert metadata["engine"].startswith("Spark 3.5")
            assert metadata["store_path"].startswith(finished.settings.store)
    previews = {finished.metadata("raw_images", label)["preview"] for label in CLASSES}
    assert len(previews) == len(CLASSES)
    assert finished.metadata("mobilenet_features", "Kiwi")["weights_sha256"]
    head = finished.metadata("pca_features_csv", "Kiwi")
    assert "Kiwi/0_100.jpg,Kiwi," in " ".join(map(str, head.values()))


def test_every_stage_leaves_a_record_of_what_it_did(finished: Platform) -> None:
    records = finished.records()
    assert set(records) == set(STAGES)
    for stage, record in records.items():
        metadata = finished.metadata(stage)
        assert (record.images, record.classes, record.known_classes) == (IMAGES * len(CLASSES), 6, 6)
        assert (record.environment, record.cost_usd) == ("local", None)
        assert (record.seconds, record.engine) == (metadata["seconds"], metadata["engine"])
        assert record.versions["spark"].startswith("3.5")
        assert (record.weights_sha256 is not None) == (stage == MOBILENET_FEATURES)
        if stage in BY_CLASS:
            assert record.bytes == sum(pointer.bytes for pointer in current(finished.store, stage).values())
    weights = finished.metadata(MOBILENET_FEATURES, "Kiwi")
    assert records[MOBILENET_FEATURES].weights_sha256 == weights["weights_sha256"]
    assert finished.metadata(ENVIRONMENT_COMPARISON)["runs"] == 1


def test_a_run_of_one_class_is_on_record_as_such_beside_the_others(platform: Platform) -> None:
    before = platform.records()
    run = platform.run(BY_CLASS, "Kiwi")
    records = platform.records(run)
    assert set(records) == set(BY_CLASS)
    for record in records.values():
        assert (record.images, record.classes, record.known_classes) == (IMAGES, 1, len(CLASSES))
    assert platform.records() == before
    assert platform.run([ENVIRONMENT_COMPARISON]).success
    assert "1 of 6" in platform.metadata(ENVIRONMENT_COMPARISON)["comparison"]


def test_a_record_that_cannot_be_written_is_a_warning_and_stops_nothing(platform: Platform) -> None:
    shutil.rmtree(Path(platform.settings.store) / RUN_RECORDS)
    (Path(platform.settings.store) / RUN_RECORDS).write_text("no folder")
    run = platform.run(["raw_images"], "Kiwi")
    assert run.success
    [warning] = messages(platform, run, "WARNING")
    assert warning.startswith("This run will be missing in environment_comparison")


def test_the_model_shows_what_it_was_fitted_on_and_how_much_it_keeps(finished: Platform) -> None:
    metadata = finished.metadata("pca_model")
    assert metadata["images"] == IMAGES * len(CLASSES)
    assert metadata["classes"] == len(CLASSES)
    assert metadata["components"] == 15
    assert 0.5 < metadata["explained_variance"] <= 1
    for plot in ("class_counts", "scree_plot", "pc1_pc2"):
        assert metadata[plot].startswith("![preview](data:image/")


def test_no_event_is_over_30_kilobytes(finished: Platform) -> None:
    sizes = {
        len(dg.serialize_value(entry).encode()): entry.user_message
        for run in finished.instance.get_runs()
        for entry in finished.instance.all_logs(run.run_id)
    }
    assert max(sizes) < MAX_EVENT_BYTES, sizes[max(sizes)]


def test_the_plots_of_hundreds_of_classes_fit_into_one_event() -> None:
    names = [f"a class with quite a long name, number {number}" for number in range(300)]
    values = np.random.default_rng(0).normal(size=(60, 20, 2))
    plots = [
        class_counts({name: 50 + index for index, name in enumerate(names)}),
        scree(np.linspace(1, 0, 400).tolist()),
        scatter(dict(zip(names, values.tolist(), strict=False))),
    ]
    assert sum(len(str(plot.value)) for plot in plots) < MAX_EVENT_BYTES - 1_000


def test_every_check_is_evaluated_once_in_a_run_and_passes_on_good_data(finished: Platform) -> None:
    full_run = finished.instance.get_runs(limit=1)[0]
    names = []
    for entry in finished.instance.all_logs(full_run.run_id):
        event = entry.dagster_event
        if event and event.event_type_value == "ASSET_CHECK_EVALUATION":
            evaluation = event.asset_check_evaluation_data
            names.append(evaluation.check_name)
            assert evaluation.partition is None
            # The weights may be random here, and there are too few photos to judge features by.
            if evaluation.check_name not in ("trained_weights", "enough_components"):
                assert evaluation.passed, evaluation.check_name
    assert sorted(names) == sorted(key.name for key in finished.graph.asset_check_keys)


# Staleness


def test_observing_unchanged_photos_again_leaves_everything_in_sync(platform: Platform) -> None:
    assert platform.observe().success
    assert platform.not_fresh() == []


def test_one_new_photo_makes_its_class_stale_and_step_by_step_what_is_made_from_it(
    platform: Platform,
) -> None:
    model = current_one(platform.store, PCA_MODEL)
    assert model
    add_photo(platform, "Kiwi")
    assert platform.not_fresh() == []
    platform.observe()
    assert platform.not_fresh() == ["raw_images Kiwi"]

    assert platform.run(["raw_images"], "Kiwi").success
    assert platform.not_fresh() == ["mobilenet_features Kiwi"]
    assert platform.metadata("raw_images", "Kiwi")["images"] == IMAGES + 1
    assert platform.failing("counts_reconcile") == []

    # Another class's run says that this one's features are behind.
    assert platform.run(["mobilenet_features"], "Lemon").success
    assert platform.failing("one_feature_per_image") == ["Kiwi"]
    assert platform.run(["mobilenet_features"], "Kiwi").success
    assert platform.failing("one_feature_per_image") == []
    assert platform.not_fresh("pca_model") == ["pca_model"]
    assert platform.not_fresh(*BY_CLASS) == ["pca_features_csv Kiwi"]

    # A class is projected by the model that there is, which is named, and not fitted again.
    assert platform.run(["pca_features_csv"], "Lemon").success
    assert platform.failing("one_row_per_feature") == ["Kiwi"]
    run = platform.run(["pca_features_csv"], "Kiwi")
    assert platform.failing("one_row_per_feature") == []
    assert platform.failing("one_model") == []
    assert current_one(platform.store, PCA_MODEL) == model
    assert any(
        f"{IMAGES * len(CLASSES)} images of {len(CLASSES)} classes" in message and model.directory in message
        for message in messages(platform, run)
    )
    assert platform.not_fresh("pca_model") == ["pca_model"]

    # The model, once it is fitted on the new photo too, makes the others' CSVs stale: one run at the end.
    assert platform.run(["pca_model"]).success
    assert platform.metadata("pca_model")["images"] == IMAGES * len(CLASSES) + 1
    csvs = [f"pca_features_csv {label}" for label in CLASSES]
    assert platform.not_fresh(*BY_CLASS) == csvs
    assert platform.run(["pca_features_csv"], "Kiwi").success
    assert platform.failing("one_model") == [label for label in CLASSES if label != "Kiwi"]
    assert platform.check("one_model").severity != dg.AssetCheckSeverity.ERROR


def test_photos_written_anew_with_the_same_bytes_are_read_again_and_change_nothing_else(
    platform: Platform,
) -> None:
    before = platform.version("raw_images", "Banana")
    for photo in (platform.photos / "Banana").iterdir():
        os.utime(photo, (1_700_000_000, 1_700_000_000))
    platform.observe()
    assert platform.not_fresh() == ["raw_images Banana"]
    assert platform.run(["raw_images"], "Banana").success
    assert platform.version("raw_images", "Banana") == before
    assert platform.not_fresh() == []


def test_a_photo_taken_away_makes_its_class_stale(platform: Platform) -> None:
    (platform.photos / "Banana" / "0_100.jpg").unlink()
    platform.observe()
    assert platform.not_fresh() == ["raw_images Banana"]


def test_a_class_without_photos_any_more_keeps_its_last_version_with_a_warning(platform: Platform) -> None:
    last = current(platform.store, "raw_images")["Huckleberry"]
    shutil.rmtree(platform.photos / "Huckleberry")
    observation = platform.observe()
    assert any("Huckleberry" in message for message in messages(platform, observation, "WARNING"))
    assert platform.not_fresh() == []
    run = platform.run(["raw_images"], "Banana", "Kiwi")
    assert run.success
    assert any("Huckleberry" in message for message in messages(platform, run, "WARNING"))
    assert current(platform.store, "raw_images")["Huckleberry"] == last
    assert platform.metadata("raw_images", "Huckleberry")["gone"] is True
    assert platform.version("raw_images", "Huckleberry") == last.data_version
    assert platform.records(run)["raw_images"].classes == 2
    assert platform.not_fresh() == []


def test_a_class_that_is_registered_but_has_neither_photos_nor_a_version_fails_by_name(
    platform: Platform,
) -> None:
    register_classes(platform.instance, ["Dragonfruit"])
    run = platform.run(["raw_images"], "Orange", "Dragonfruit")
    assert failed_classes(run).keys() == {"Dragonfruit"}
    assert platform.run(["mobilenet_features"], "Dragonfruit").success is False
    assert platform.run(["pca_features_csv"], "Dragonfruit").success is False
    assert current(platform.store, PCA_FEATURES_CSV).keys() == set(CLASSES)


def test_a_range_of_classes_leaves_the_others_alone(platform: Platform) -> None:
    before = {label: len(platform.events("raw_images", label)) for label in CLASSES}
    files = current(platform.store, PCA_FEATURES_CSV)
    assert platform.run(BY_CLASS, "Huckleberry", "Lemon").success
    after = {label: len(platform.events("raw_images", label)) for label in CLASSES}
    assert [label for label in CLASSES if after[label] > before[label]] == ["Huckleberry", "Kiwi", "Lemon"]
    replaced = current(platform.store, PCA_FEATURES_CSV)
    assert [label for label in CLASSES if replaced[label] != files[label]] == ["Huckleberry", "Kiwi", "Lemon"]
    assert platform.not_fresh() == []


# Failures


def failed_classes(run: dg.ExecuteInProcessResult) -> dict[str, str]:
    """The classes that a run's one failed step names, with the reasons."""
    [event] = run.filter_events(lambda event: event.is_step_failure)
    failure = event.step_failure_data.user_failure_data
    assert failure
    classes: Any = failure.metadata["failed_classes"].value
    assert all(label in str(failure.description) for label in classes)
    return dict(classes)


def test_a_class_with_too_many_bad_photos_fails_by_name_and_keeps_its_last_version(
    platform: Platform,
) -> None:
    last = current(platform.store, "raw_images")
    spoil(platform, "Kiwi")
    add_photo(platform, "Lemon")
    platform.observe()
    run = platform.run_everything()
    assert not run.success
    [(label, reason)] = failed_classes(run).items()
    assert label == "Kiwi"
    assert f"1 of {IMAGES} photos are bad" in reason
    assert "FRUITS_MAX_BAD_SHARE" in reason

    now = current(platform.store, "raw_images")
    assert now["Kiwi"] == last["Kiwi"]
    assert now["Lemon"].rows == IMAGES + 1
    assert [label for label in CLASSES if len(platform.events("raw_images", label)) == 2] == ["Kiwi"]
    assert platform.failing("nothing_quarantined") == ["Kiwi"]
    assert platform.failing("counts_reconcile") == []
    # What is made from it waits; only what is behind is marked.
    assert not run.asset_materializations_for_node("mobilenet_features")
    assert platform.not_fresh() == ["mobilenet_features Lemon", "raw_images Kiwi"]


def test_a_retry_from_the_failure_runs_what_is_missing_and_nothing_else(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = (platform.photos / "Kiwi" / "0_100.jpg").read_bytes()
    spoil(platform, "Kiwi")
    platform.observe()
    failed = platform.run_everything()
    assert not failed.success
    (platform.photos / "Kiwi" / "0_100.jpg").write_bytes(good)
    platform.observe()
    for name, value in platform.settings.model_dump(include={"images", "store", "weights"}).items():
        monkeypatch.setenv(f"FRUITS_{name.upper()}", value)
    repository = ReconstructableRepository.for_module("fruits_assets.definitions", "defs")
    retry = dg.execute_job(
        repository.get_reconstructable_job("__ASSET_JOB"),
        instance=platform.instance,
        reexecution_options=dg.ReexecutionOptions.from_failure(failed.run_id, platform.instance),
        # As the button in Dagster's UI does: a retry is of the same range of classes.
        tags=failed.dagster_run.tags,
    )
    assert retry.success
    steps = {event.step_key for event in retry.all_events if event.event_type_value == "STEP_SUCCESS"}
    assert "feature_extractor" not in steps
    assert {"raw_images", "mobilenet_features", "pca_model", "pca_features_csv"} <= steps
    assert platform.not_fresh() == []
    assert platform.failing("nothing_quarantined") == []
    records = [one for one in read_records(platform.store)[0] if one.root_run == failed.run_id]
    assert {one.run for one in records if one.stage == "raw_images"} == {failed.run_id, retry.run_id}
    [row] = rows_of(records)
    assert (row.run, row.images, len(row.stages)) == (failed.run_id, IMAGES * len(CLASSES), len(STAGES))


def test_checks_name_every_class_that_fails_whatever_class_is_run(platform: Platform) -> None:
    def doctor(table: str, label: str, **details: Any) -> None:
        pointer = current(platform.store, table)[label]
        publish(platform.store, table, [replace(pointer, details={**pointer.details, **details})])

    doctor("raw_images", "Apple Red 1", found=IMAGES + 1)
    doctor("raw_images", "Orange", found=IMAGES + 1)
    doctor(MOBILENET_FEATURES, "Lemon", non_finite=2)
    doctor(MOBILENET_FEATURES, "Orange", constant=1)
    assert platform.run(BY_CLASS, "Kiwi").success
    assert platform.failing("counts_reconcile") == ["Apple Red 1", "Orange"]
    assert platform.failing("finite_and_varied") == ["Lemon", "Orange"]
    assert platform.failing("one_feature_per_image") == []


def failure_of(run: dg.ExecuteInProcessResult) -> str:
    """The sentence of a run's one failed step."""
    [event] = run.filter_events(lambda event: event.is_step_failure)
    failure = event.step_failure_data.user_failure_data
    assert failure
    return str(failure.description)


def test_what_is_missing_is_asked_for_by_name(untouched: Platform) -> None:
    register_classes(untouched.instance, ["Kiwi"])
    untouched.store.fs.delete_file("feature_extractor/current.json")
    no_extractor = failure_of(untouched.run(["mobilenet_features"], "Kiwi"))
    assert no_extractor == "There is no feature_extractor yet. Materialize it first."
    assert "There is no pca_model yet" in failure_of(untouched.run(["pca_features_csv"], "Kiwi"))
    assert "15 components need at least 16 images" in failure_of(untouched.run(["pca_model"]))
    assert "FRUITS_IMAGES" in failure_of(untouched.run(["raw_images"], "Kiwi"))
    assert "FRUITS_IMAGES" in failure_of(untouched.observe())


def test_weights_that_cannot_be_read_fail_with_the_name_of_the_variable(tmp_path: Path) -> None:
    platform = Platform(tmp_path, weights="/no/such/file.h5")
    assert "FRUITS_WEIGHTS=/no/such/file.h5" in failure_of(platform.run(["feature_extractor"]))
    platform.close()


# The PCA


def test_run_config_says_how_many_components_the_model_keeps(finished_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished_folder, tmp_path / "platform")
    platform = Platform(folder, min_explained_variance=0.99)

    assert platform.run(["pca_model"], config=pca(components=2)).success
    assert platform.metadata("pca_model")["components"] == 2
    floor = platform.check("explained_variance_floor")
    assert not floor.passed
    assert floor.metadata["floor"].value == 0.99

    assert platform.run(["pca_model"], config=pca(variance=0.99)).success
    assert platform.check("explained_variance_floor").passed
    model = current_one(platform.store, PCA_MODEL)
    assert model
    kept = json.loads(platform.store.read(f"{model.directory}/model.json"))["explained_variance"]
    assert sum(kept) >= 0.99 > sum(kept[:-1])

    assert platform.run(["pca_features_csv"], "Kiwi").success
    header = platform.store.read("pca_features_csv/Kiwi.csv").decode().splitlines()[0]
    assert header.replace('"', "") == ",".join(["path", "label", *(f"pc{n + 1}" for n in range(len(kept)))])

    assert "30 components need at least 31 images" in failure_of(
        platform.run(["pca_model"], config=pca(components=30))
    )
    platform.close()


def pca(**config: Any) -> dict[str, Any]:
    return {PCA_MODEL: {"config": config}}


def test_the_model_says_when_features_have_changed_since_it_was_fitted(platform: Platform) -> None:
    add_photo(platform, "Kiwi")
    assert platform.run(["raw_images", "mobilenet_features"], "Kiwi").success
    evaluate(platform, "fitted_on_current_features")
    evaluation = platform.check("fitted_on_current_features")
    assert not evaluation.passed
    assert evaluation.severity == dg.AssetCheckSeverity.WARN
    assert "Materialize pca_model" in str(evaluation.description)
    assert platform.run(["pca_model"]).success
    assert platform.check("fitted_on_current_features").passed


def evaluate(platform: Platform, check: str) -> None:
    """Runs a check alone, as its button in Dagster's UI does."""
    [key] = [key for key in platform.graph.asset_check_keys if key.name == check]
    job = platform.job.get_subset(asset_selection=frozenset(), asset_check_selection={key})
    assert job.execute_in_process(instance=platform.instance).success


@pytest.mark.parametrize(
    ("classes", "dagster_says"),
    [pytest.param(99, ["pca_model"], id="99 classes"), pytest.param(100, [], id="100 classes")],
)
def test_the_model_says_so_too_where_dagster_looks_at_its_inputs_no_more(
    untouched: Platform, classes: int, dagster_says: list[str]
) -> None:
    """Dagster ignores a dependency on 100 or more partitions when it works out what is stale."""
    labels = [f"class {number}" for number in range(classes)]
    register_classes(untouched.instance, labels)
    features = np.random.default_rng(0).random((20, FEATURES), np.float32)
    writer = PartWriter(untouched.store, f"{MOBILENET_FEATURES}/version=made/up", SCHEMAS[MOBILENET_FEATURES])
    text = pa.array(["made up"] * len(features))
    vectors = pa.FixedSizeListArray.from_arrays(features.reshape(-1), FEATURES)
    writer.write(pa.RecordBatch.from_arrays([text, text, text, vectors], schema=SCHEMAS[MOBILENET_FEATURES]))
    part = writer.close()

    def materialize(label: str, version: str) -> None:
        publish(
            untouched.store,
            MOBILENET_FEATURES,
            [Pointer(label=label, directory="made/up", data_version=version, parts=[part])],
        )
        untouched.instance.report_runless_asset_event(
            dg.AssetMaterialization(
                MOBILENET_FEATURES, partition=label, tags={"dagster/data_version": version}
            )
        )

    for label in labels:
        materialize(label, "1")
    assert untouched.run(["pca_model"]).success
    assert untouched.not_fresh("pca_model") == []
    assert untouched.check("fitted_on_current_features").passed

    materialize(labels[0], "2")
    evaluate(untouched, "fitted_on_current_features")
    assert not untouched.check("fitted_on_current_features").passed
    assert untouched.not_fresh("pca_model") == dagster_says


# All of it by one call: what `fruits run` does


@pytest.fixture
def run_platform(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, list[str]]]:
    """`fruits run` on a finished platform: (classes, PCA config) to the summary, with `failed`'s lines."""
    monkeypatch.setenv("DAGSTER_HOME", str(platform.home))

    def run(*labels: str, **config: Any) -> dict[str, list[str]]:
        summary = run_pipeline(platform.settings, labels, config)
        lines: dict[str, list[str]] = {"failed": []}
        for name, value in summary.lines:
            lines.setdefault(name, []).append(value)
        assert summary.failed == bool(lines["failed"])
        return lines

    return run


Run = Callable[..., dict[str, list[str]]]


def runs_of(platform: Platform) -> int:
    return platform.instance.get_runs_count()


def test_one_call_does_all_classes_in_one_run(platform: Platform, run_platform: Run) -> None:
    runs = runs_of(platform)
    add_photo(platform, "Kiwi")
    lines = run_platform()
    assert lines["classes"] == [f"{len(CLASSES)} done"]
    assert lines["images"] == [f"{IMAGES * len(CLASSES) + 1}, and 0 in quarantine"]
    assert lines["failed"] == []
    assert runs_of(platform) == runs + 2  # one observes
    assert platform.not_fresh() == []


def test_a_bad_class_stops_no_other(platform: Platform, run_platform: Run) -> None:
    last = current(platform.store, "raw_images")["Kiwi"]
    model = current_one(platform.store, PCA_MODEL)
    spoil(platform, "Kiwi")
    shutil.copytree(platform.photos / "Kiwi", platform.photos / "Durian")  # it has no good version
    for label in ("Apple Red 1", "Orange"):
        add_photo(platform, label)
    lines = run_platform()
    assert lines["classes"] == [f"{len(CLASSES) - 1} done, 2 failed"]
    assert [reason.partition(": ")[0] for reason in lines["failed"]] == ["Kiwi", "Durian"]
    assert current(platform.store, "raw_images")["Kiwi"] == last
    # Kiwi's last version went through the new model like the others.
    assert platform.not_fresh() == [*(f"{asset} Durian" for asset in sorted(BY_CLASS)), "raw_images Kiwi"]
    assert platform.check("fitted_on_current_features").passed
    assert current_one(platform.store, PCA_MODEL) != model
    assert platform.metadata("pca_model")["images"] == IMAGES * len(CLASSES) + 2


def test_where_every_class_is_bad_nothing_is_replaced(platform: Platform, run_platform: Run) -> None:
    before = pointers(platform)
    for label in CLASSES:
        spoil(platform, label)
    lines = run_platform()
    assert len(lines["failed"]) == len(CLASSES)
    assert pointers(platform) == before


def pointers(platform: Platform) -> dict[str, Any]:
    """What is current in every table that holds results."""
    tables = [*BY_CLASS, PCA_MODEL]
    return {table: [current(platform.store, table), current_one(platform.store, table)] for table in tables}


def test_some_classes_alone_are_replaced_and_the_model_is_not_fitted_again(
    platform: Platform, run_platform: Run
) -> None:
    """Acai is registered last, so that these three are three stretches of Dagster's partitions."""
    shutil.copytree(platform.photos / "Lemon", platform.photos / "Acai")
    before = pointers(platform)
    lines = run_platform("Acai", "Banana", "Kiwi")
    assert lines["classes"] == ["3 done"]
    assert known_classes(platform.instance) == [*CLASSES, "Acai"]
    after = pointers(platform)
    assert after[PCA_MODEL] == before[PCA_MODEL]
    for table in BY_CLASS:
        old, new = before[table][0], after[table][0]
        assert [label for label in new if new[label] != old.get(label)] == ["Acai", "Banana", "Kiwi"]
    assert platform.not_fresh(*BY_CLASS) == []


def test_classes_that_are_gone_stay_in_the_model(platform: Platform, run_platform: Run) -> None:
    register_classes(platform.instance, ["Never seen"])
    shutil.rmtree(platform.photos / "Huckleberry")
    lines = run_platform()
    assert lines["failed"] == []
    assert lines["classes"] == [f"{len(CLASSES)} done"]
    assert platform.metadata("pca_model")["classes"] == len(CLASSES)


def test_a_class_whose_partition_is_deleted_too_is_left_out_of_everything(
    platform: Platform, run_platform: Run
) -> None:
    shutil.rmtree(platform.photos / "Huckleberry")
    platform.instance.delete_dynamic_partition("fruit_class", "Huckleberry")
    lines = run_platform(components=3)
    left = [label for label in CLASSES if label != "Huckleberry"]
    assert lines["classes"] == [f"{len(left)} done"]
    assert platform.metadata("pca_model")["classes"] == len(left)
    # Its CSV is of an older model now, and no check speaks of it.
    for check in ("one_model", "one_row_per_feature", "one_feature_per_image", "counts_reconcile"):
        assert platform.failing(check) == []
    assert platform.not_fresh(*BY_CLASS) == []


def test_a_class_that_does_not_exist_is_refused_with_those_that_do(
    platform: Platform, run_platform: Run
) -> None:
    before = pointers(platform)
    with pytest.raises(FruitsError, match=r"--class 'Durian'.*no such class.*Apple Red 1, Banana"):
        run_platform("Kiwi", "Durian")
    assert pointers(platform) == before


def test_a_class_alone_needs_a_model(platform: Platform, run_platform: Run) -> None:
    platform.store.fs.delete_file("pca_model/current.json")
    with pytest.raises(FruitsError, match=r"--class needs a PCA model.*fruits run"):
        run_platform("Kiwi")


def test_too_few_images_for_the_components_are_said_to_be_too_few(
    platform: Platform, run_platform: Run
) -> None:
    with pytest.raises(FruitsError, match=r"pca_model failed: 40 components need at least 41 images"):
        run_platform(components=40)


def test_a_root_without_photos_is_refused_and_nothing_is_written(
    platform: Platform, run_platform: Run
) -> None:
    before, runs = pointers(platform), runs_of(platform)
    shutil.rmtree(platform.photos)
    with pytest.raises(FruitsError, match=r"FRUITS_IMAGES=.* does not exist"):
        run_platform()
    platform.photos.mkdir()
    (platform.photos / "loose.jpg").write_bytes(b"no folder")
    with pytest.raises(FruitsError, match=r"FRUITS_IMAGES=.* holds no photo in a class folder"):
        run_platform()
    assert pointers(platform) == before
    assert runs_of(platform) == runs


def test_a_run_whose_process_was_killed_is_marked_as_failed_by_the_next_one(run_platform: Run) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    with dg.DagsterInstance.get() as instance:
        dead, alive, elsewhere = (
            instance.add_run(
                dg.DagsterRun(
                    "pipeline",
                    status=dg.DagsterRunStatus.STARTED,
                    tags={"fruits/host": host, "fruits/process": str(process)},
                )
            ).run_id
            for host, process in (
                (socket.gethostname(), ended.pid),
                (socket.gethostname(), os.getpid()),
                ("another-host", ended.pid),
            )
        )
        with pytest.raises(FruitsError, match="has no such class"):
            run_platform("Durian")
        states = {run.run_id: run.status for run in instance.get_runs()}
    assert states[dead] == dg.DagsterRunStatus.FAILURE
    assert states[alive] == states[elsewhere] == dg.DagsterRunStatus.STARTED
