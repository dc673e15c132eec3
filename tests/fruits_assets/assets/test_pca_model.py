"""`pca_model`: its run config, and its check of whether the features have changed since the fit."""

import json
import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from fruits_assets.partitions import register_classes
from spark_jobs.dimensions import FEATURES
from spark_jobs.store.pointers import current_one
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_MODEL
from tests.fruits_assets.dagster_platform import Platform, add_photo, failure_message
from tests.support import current_versions, publish_features


def test_run_config_sets_the_number_of_components(finished_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished_folder, tmp_path / "platform")
    platform = Platform(folder, min_explained_variance=0.99)

    assert platform.run(["pca_model"], config=pca_config(components=2)).success
    assert platform.metadata("pca_model")["components"] == 2
    floor = platform.check("explained_variance_floor")
    assert not floor.passed
    assert floor.metadata["least_percent"].value == 99

    assert platform.run(["pca_model"]).success
    assert platform.metadata("pca_model")["components"] == 2  # as many as the current model

    assert platform.run(["pca_model"], config=pca_config(variance=0.99)).success
    assert platform.check("explained_variance_floor").passed
    model = current_one(platform.store, PCA_MODEL)
    assert model
    kept = json.loads(platform.store.read(f"{model.directory}/model.json"))["explained_variance"]
    assert sum(kept) >= 0.99 > sum(kept[:-1])

    assert platform.run(["pca_features_csv"], "Kiwi").success
    header = platform.store.read("pca_features_csv/Kiwi.csv").decode().splitlines()[0]
    assert header.replace('"', "") == ",".join(["path", "label", *(f"pc{n + 1}" for n in range(len(kept)))])

    assert "30 components need at least 31 images" in failure_message(
        platform.run(["pca_model"], config=pca_config(components=30))
    )
    platform.close()


def pca_config(**config: Any) -> dict[str, Any]:
    return {PCA_MODEL: {"config": config}}


def test_the_check_warns_if_features_have_changed_since_the_fit(platform: Platform) -> None:
    add_photo(platform, "Kiwi")
    assert platform.run(["raw_images", "mobilenet_features"], "Kiwi").success
    evaluate_check(platform, "fitted_on_current_features")
    evaluation = platform.check("fitted_on_current_features")
    assert not evaluation.passed
    assert evaluation.severity == dg.AssetCheckSeverity.WARN
    assert "1 image and 0 classes have come since it was fitted. It keeps" in str(evaluation.description)
    assert "fruits run --refit" in str(evaluation.description)
    assert platform.run(["pca_model"]).success
    assert platform.check("fitted_on_current_features").passed


@pytest.mark.parametrize(
    ("classes", "marked_by_dagster"),
    [pytest.param(99, ["pca_model"], id="99 classes"), pytest.param(100, [], id="100 classes")],
)
def test_the_check_warns_also_where_dagster_ignores_the_inputs(
    untouched: Platform, classes: int, marked_by_dagster: list[str]
) -> None:
    """Dagster ignores a dependency on 100 or more partitions when it computes staleness."""
    labels = [f"class {number}" for number in range(classes)]
    register_classes(untouched.instance, labels)
    features = np.random.default_rng(0).random((20, FEATURES), np.float32)

    def materialize(labels: list[str], images: int) -> None:
        publish_features(untouched.store.uri, dict.fromkeys(labels, features[:images]))
        for label, version in current_versions(untouched.store, MOBILENET_FEATURES, labels).items():
            untouched.instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    MOBILENET_FEATURES, partition=label, tags={"dagster/data_version": version.data_version}
                )
            )

    materialize(labels, 20)
    assert untouched.run(["pca_model"]).success
    assert untouched.out_of_sync("pca_model") == []
    assert untouched.check("fitted_on_current_features").passed

    materialize(labels[:1], 19)
    evaluate_check(untouched, "fitted_on_current_features")
    assert not untouched.check("fitted_on_current_features").passed
    assert untouched.out_of_sync("pca_model") == marked_by_dagster


def evaluate_check(platform: Platform, check: str) -> None:
    """Runs one check alone, as its button in Dagster's UI does."""
    [key] = [key for key in platform.graph.asset_check_keys if key.name == check]
    job = platform.job.get_subset(asset_selection=frozenset(), asset_check_selection={key})
    assert job.execute_in_process(instance=platform.instance).success
