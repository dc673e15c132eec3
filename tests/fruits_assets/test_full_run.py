"""A run over all classes: its materializations, metadata, records, checks and events."""

import dagster as dg

from fruits_assets.costs.run_records import STAGES
from fruits_assets.figures import CLASS_ROWS, TABLE_ROWS, size
from spark_jobs.store.schemas import ENVIRONMENT_COMPARISON, MOBILENET_FEATURES
from tests.fruits_assets.dagster_platform import BY_CLASS, CLASSES, IMAGES, MAX_EVENT_BYTES, Platform
from tests.support import current_versions


def test_a_full_run_materializes_every_asset_for_every_class(finished: Platform) -> None:
    for asset in finished.assets:
        assert finished.events(asset), asset
    for asset in BY_CLASS:
        assert {event.partition for event in finished.events(asset)} == set(CLASSES)
        assert set(finished.instance.get_materialized_partitions(dg.AssetKey(asset))) == set(CLASSES)


def test_a_full_run_leaves_nothing_out_of_sync(finished: Platform) -> None:
    assert finished.out_of_sync() == []


def test_each_partition_has_the_metadata_and_the_data_version_of_its_class(finished: Platform) -> None:
    for asset in BY_CLASS:
        pointers = current_versions(finished.store, asset)
        assert {finished.version(asset, label) for label in CLASSES} == {
            pointer.data_version for pointer in pointers.values()
        }
        for label in CLASSES:
            metadata = finished.metadata(asset, label)
            assert finished.version(asset, label) == pointers[label].data_version
            assert metadata[CLASS_ROWS] == IMAGES
            assert metadata["size"] == size(pointers[label].bytes)
            assert metadata["store_path"].startswith(finished.settings.store)
    previews = {finished.metadata("raw_images", label)["preview"] for label in CLASSES}
    assert len(previews) == len(CLASSES)
    assert finished.metadata("mobilenet_features", "Kiwi")["weights_sha256"]
    preview = finished.metadata("pca_features_csv", "Kiwi")["preview"]
    assert "Kiwi/0_100.jpg,Kiwi," in preview


def test_each_class_is_materialized_once_in_a_run(finished: Platform) -> None:
    for asset in BY_CLASS:
        assert sorted(str(event.partition) for event in finished.events(asset)) == sorted(CLASSES)


def test_the_figures_of_a_run_and_of_all_classes_are_told_once(finished: Platform) -> None:
    for asset in BY_CLASS:
        versions = current_versions(finished.store, asset)
        figures = finished.run_figures(asset)
        assert (figures["classes"], figures["classes_in_run"]) == (len(CLASSES), len(CLASSES))
        assert figures[TABLE_ROWS] == figures["images_in_run"] == IMAGES * len(CLASSES)
        assert figures["size"] == size(sum(version.bytes for version in versions.values()))
        assert figures["seconds"] > 0
        assert figures["images_per_second"] > 0
        assert figures["spark_application_id"].startswith("local-")
        assert figures["engine"].startswith("Spark 3.5")
        assert figures.keys().isdisjoint(finished.metadata(asset, "Kiwi").keys() - {"size"})


def test_the_page_of_the_csvs_shows_every_column_and_its_source(finished: Platform) -> None:
    shown = finished.metadata("pca_features_csv")  # of the last class
    names = ["path", "label", *(f"pc{number}" for number in range(1, 16))]
    assert [column.name for column in shown["dagster/column_schema"].columns] == names
    sources = shown["dagster/column_lineage"].deps_by_column
    assert sources["pc15"] == [dg.TableColumnDep(dg.AssetKey(MOBILENET_FEATURES), "features")]
    assert sources["path"] == [dg.TableColumnDep(dg.AssetKey(MOBILENET_FEATURES), "path")]


def test_every_stage_writes_a_run_record(finished: Platform) -> None:
    records = finished.records()
    assert set(records) == set(STAGES)
    for stage, record in records.items():
        metadata = finished.run_figures(stage) if stage in BY_CLASS else finished.metadata(stage)
        assert (record.images, record.classes, record.known_classes) == (IMAGES * len(CLASSES), 6, 6)
        assert (record.environment, record.cost_usd) == ("local", None)
        assert (record.seconds, record.engine) == (metadata["seconds"], metadata["engine"])
        assert record.versions["spark"].startswith("3.5")
        assert (record.weights_sha256 is not None) == (stage == MOBILENET_FEATURES)
        if stage in BY_CLASS:
            assert record.bytes == sum(
                pointer.bytes for pointer in current_versions(finished.store, stage).values()
            )
    weights = finished.metadata(MOBILENET_FEATURES, "Kiwi")
    assert records[MOBILENET_FEATURES].weights_sha256 == weights["weights_sha256"]
    assert finished.metadata(ENVIRONMENT_COMPARISON)["runs"] == 1


def test_the_model_shows_its_inputs_its_explained_variance_and_three_plots(finished: Platform) -> None:
    metadata = finished.metadata("pca_model")
    assert metadata["images"] == IMAGES * len(CLASSES)
    assert metadata["classes"] == len(CLASSES)
    assert metadata["components"] == 15
    assert 50 < metadata["explained_variance_percent"] <= 100
    for plot in ("class_counts", "scree_plot", "pc1_pc2"):
        assert metadata[plot].startswith("![preview](data:image/")


def test_a_full_run_evaluates_every_check_once_and_good_data_passes(finished: Platform) -> None:
    full_run = finished.instance.get_runs(limit=1)[0]
    names = []
    for entry in finished.instance.all_logs(full_run.run_id):
        event = entry.dagster_event
        if event and event.event_type_value == "ASSET_CHECK_EVALUATION":
            evaluation = event.asset_check_evaluation_data
            names.append(evaluation.check_name)
            assert evaluation.partition is None
            # The weights may be random here, and the photos are too few for a judgement of the features.
            if evaluation.check_name not in ("trained_weights", "enough_components"):
                assert evaluation.passed, evaluation.check_name
    photos = {"no_class_gone", "no_folder_refused"}  # an observation evaluates them
    assert sorted(names) == sorted({key.name for key in finished.graph.asset_check_keys} - photos)


def test_no_event_of_a_full_run_exceeds_30_kilobytes(finished: Platform) -> None:
    sizes = {
        len(dg.serialize_value(entry).encode()): entry.user_message
        for run in finished.instance.get_runs()
        for entry in finished.instance.all_logs(run.run_id)
    }
    assert max(sizes) < MAX_EVENT_BYTES, sizes[max(sizes)]
