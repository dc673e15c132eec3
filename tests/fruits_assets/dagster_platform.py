"""A platform for tests: photos, a store and a Dagster instance in one folder, and how a user works with them.

Runs execute in the process of the test."""

import logging
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from fruits_assets.costs.run_records import RunRecord, read_records
from fruits_assets.definitions import definitions_for
from fruits_assets.partitions import known_classes
from resources.settings import Settings
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import ENVIRONMENT_COMPARISON, REPORT
from tests.support import DAGSTER_YAML, WEIGHTS

# The classes are registered in this order.
CLASSES = ["Apple Red 1", "Banana", "Huckleberry", "Kiwi", "Lemon", "Orange"]
IMAGES = 4
BY_CLASS = ["raw_images", "mobilenet_features", "pca_features_csv"]
MAX_EVENT_BYTES = 30_000


class Platform:
    """Photos, a store and a Dagster instance in one folder."""

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
        """Materializes assets for the class `first`, for the range `first` to `last`, or for none."""
        tags = {}
        if last is not None:
            tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        elif first is not None:
            tags = {"dagster/partition": first}
        return self._execute(assets, tags, {"ops": config or {}})

    def run_everything(self, **config: Any) -> dg.ExecuteInProcessResult:
        """Materializes all assets; `config` is the configuration of each asset by class."""
        by_class = {name: {"config": config} for name in BY_CLASS}
        return self.run(self.assets, CLASSES[0], CLASSES[-1], by_class)

    def recompute(
        self, assets: Sequence[str], first: str, last: str | None = None
    ) -> dg.ExecuteInProcessResult:
        """`run`, in which the assets by class compute all photos again."""
        again = {name: {"config": {"recompute": True}} for name in assets if name in BY_CLASS}
        return self.run(assets, first, last, again)

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

    def out_of_sync(self, *assets: str) -> list[str]:
        """What Dagster's UI marks as unsynced or missing, as "asset" or "asset class", sorted.

        Without arguments, it looks at all assets that `fruits run` materializes.
        """
        assets = assets or tuple({*self.assets, "fruit_photos"} - {ENVIRONMENT_COMPARISON, REPORT})
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
        """The materializations of an asset, or of one partition of it, the newest first."""
        filters = dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=[label] if label else None)
        records = self.instance.fetch_materializations(filters, limit=1000).records
        return [record.asset_materialization for record in records if record.asset_materialization]

    def metadata(self, asset: str, label: str | None = None) -> dict[str, Any]:
        return {name: value.value for name, value in self.events(asset, label)[0].metadata.items()}

    def run_figures(self, asset: str) -> dict[str, Any]:
        """The metadata of the last observation of an asset by class: of its last run, and of all classes."""
        records = self.instance.fetch_observations(dg.AssetKey(asset), limit=1).records
        assert records[0].asset_observation
        assert records[0].partition_key is None
        return {name: value.value for name, value in records[0].asset_observation.metadata.items()}

    def version(self, asset: str, label: str | None = None) -> str:
        return str((self.events(asset, label)[0].tags or {})["dagster/data_version"])

    def check(self, name: str) -> dg.AssetCheckEvaluation:
        """The last evaluation of a check."""
        [key] = [key for key in self.graph.asset_check_keys if key.name == name]
        [record] = self.instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
        assert record.event
        assert record.event.dagster_event
        return record.event.dagster_event.asset_check_evaluation_data

    def failing_classes(self, name: str) -> list[str]:
        """The classes that the last evaluation of a check names; empty if the check passed."""
        evaluation = self.check(name)
        classes = list(evaluation.metadata["failing_classes"].value)  # type: ignore[arg-type]
        assert evaluation.passed == (not classes)
        return classes

    def records(self, run: dg.ExecuteInProcessResult | None = None) -> dict[str, RunRecord]:
        """The records of a run as {stage: record}; by default of the first run in the store."""
        records, bad = read_records(self.store)
        assert bad == []
        run_id = run.run_id if run else records[0].run
        return {record.stage: record for record in records if record.run == run_id}

    def close(self) -> None:
        self.instance.dispose()


def add_photo(platform: Platform, label: str) -> None:
    """Adds a photo to a class: its first photo, rotated by 180 degrees."""
    from PIL import Image

    photo = Image.open(platform.photos / label / "0_100.jpg")
    photo.transpose(Image.Transpose.ROTATE_180).save(platform.photos / label / "new.jpg")


def spoil_photo(platform: Platform, label: str) -> None:
    (platform.photos / label / "0_100.jpg").write_bytes(b"not an image")


def log_messages(platform: Platform, run: dg.ExecuteInProcessResult, level: str | None = None) -> list[str]:
    """The log messages of a run in Dagster's event log, of one level or of all."""
    return [
        entry.user_message
        for entry in platform.instance.all_logs(run.run_id)
        if not entry.is_dagster_event and level in (None, logging.getLevelName(entry.level))
    ]


def failed_classes(run: dg.ExecuteInProcessResult) -> dict[str, str]:
    """The classes that the one failed step of a run names, as {class: reason}."""
    [event] = run.filter_events(lambda event: event.is_step_failure)
    failure = event.step_failure_data.user_failure_data
    assert failure
    classes: Any = failure.metadata["failed_classes"].value
    assert all(label in str(failure.description) for label in classes)
    return dict(classes)


def failure_message(run: dg.ExecuteInProcessResult) -> str:
    """The message of the one failed step of a run."""
    [event] = run.filter_events(lambda event: event.is_step_failure)
    failure = event.step_failure_data.user_failure_data
    assert failure
    return str(failure.description)
