"""The op that brings all assets up to date, over any classes, in one run.

Dagster's run of an asset job is of one contiguous range of partitions, and ends at the first asset that fails
for a class (https://github.com/dagster-io/dagster/issues/17836). So this op calls the functions of the assets
for the classes that need it, and yields the events of each class itself.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import dagster as dg
from dagster._core.events import AssetMaterializationPlannedData, DagsterEventBatchMetadata
from pydantic import Field

from fruits_assets.assets.feature_extractor import feature_extractor
from fruits_assets.assets.feature_quality import QualityConfig, feature_quality
from fruits_assets.assets.fruit_photos import fruit_photos
from fruits_assets.assets.mobilenet_features import mobilenet_features
from fruits_assets.assets.pca_features_csv import pca_features_csv
from fruits_assets.assets.pca_model import PcaConfig, model_event, pca_model
from fruits_assets.assets.raw_images import IngestConfig, raw_images
from fruits_assets.by_class import FAILED_CLASSES, STORE_PATH, UNCHANGED, ClassConfig, classes_failed
from fruits_assets.decorators import errors_end_the_step
from fruits_assets.partitions import register_classes
from fruits_assets.provenance import DATA_VERSION, provenance, versions_by_class
from fruits_assets.run_plan import RunPlan, StoreState, plan_run, read_state
from fruits_assets.store_checks import evaluate, evaluation
from resources.job_runner import JobRunner
from resources.local.spark import begin_session
from resources.photo_folders import Listing, PhotoFolders
from resources.photo_names import label_of
from resources.settings import Settings
from spark_jobs.errors import FruitsError
from spark_jobs.store.pointers import current_one
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_FEATURES_CSV, PCA_MODEL, RAW_IMAGES
from spark_jobs.store.tables import current_files, rows_by_class

# The name of the op.
OP = "all_assets"

# Metadata of a run that ends at an asset, {class: reason}: the classes that had failed before.
FAILED_BEFORE = "failed_classes_before"

Event = dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation


class UpToDateConfig(PcaConfig, IngestConfig):
    """Which classes a run brings up to date, and how far it goes."""

    classes: list[str] = Field(
        default=[], description="Only these classes; by default all classes of the photos and of the store."
    )
    refit: bool = Field(
        default=False, description="Fit a new PCA model on all classes, and project them with it."
    )
    ingest: bool = Field(
        default=True,
        description="Read new and changed photos. Without it, photos and extractor of the store are used.",
    )

    @property
    def fit(self) -> bool:
        """Whether a new model is asked for."""
        return self.refit or self.components is not None or self.variance is not None


def unknown_to_dagster(instance: dg.DagsterInstance, state: StoreState) -> set[str]:
    """The classes of the store whose versions differ from those that Dagster has heard of last.

    They are the classes that Dagster has never seen, as after the loss of its home, and those that another
    machine has changed.
    """
    tables = {RAW_IMAGES: state.images, MOBILENET_FEATURES: state.features, PCA_FEATURES_CSV: state.csvs}
    unknown: set[str] = set()
    for table, versions in tables.items():
        kind = dg.DagsterEventType.ASSET_MATERIALIZATION
        told = versions_by_class(instance, dg.AssetKey(table), kind)
        unknown |= {
            label
            for label, version in versions.items()
            if not version.damage and told.get(label) != version.data_version
        }
    return unknown


def all_assets_op(plan: RunPlan | None) -> dg.OpDefinition:
    """The op of the jobs. With `plan`, it does not read the state of the store again."""

    @dg.op(name=OP, out={})
    @errors_end_the_step
    def all_assets(
        context: dg.OpExecutionContext,
        config: UpToDateConfig,
        settings: dg.ResourceParam[Settings],
        photos: dg.ResourceParam[PhotoFolders],
        job_runner: JobRunner,
    ) -> Iterator[Event]:
        resources = {"settings": settings, "photos": photos, "job_runner": job_runner}
        yield from _Run(context, config, resources).bring_up_to_date(plan)

    return all_assets


class _AssetContext(dg.AssetExecutionContext):
    """The context of an asset whose function this op calls for some classes."""

    def __init__(
        self, context: dg.OpExecutionContext, asset: dg.AssetsDefinition, labels: Iterable[str]
    ) -> None:
        super().__init__(context)
        self._asset, self._labels = asset, sorted(labels)

    @property
    def asset_key(self) -> dg.AssetKey:
        return self._asset.key

    @property
    def assets_def(self) -> dg.AssetsDefinition:
        return self._asset

    @property
    def partition_keys(self) -> list[str]:
        return self._labels

    @property
    def log(self) -> "_AssetLog":  # type: ignore[override]  # it has the methods of Dagster's own
        return _AssetLog(super().log, {"asset": self._asset.key.to_user_string()})


class _AssetLog(logging.LoggerAdapter[logging.Logger]):
    """The log of an asset whose function this op calls: a message begins with the name of the asset."""

    def log(self, level: Any, msg: object, *args: object, **kwargs: Any) -> None:
        # Dagster Pipes gives the name of the level, which Dagster's own logger knows.
        prefix = f"{(self.extra or {})['asset']}: "
        text = str(msg)
        self.logger.log(level, text if text.startswith(prefix) else f"{prefix}{text}", *args, **kwargs)


class _Run:
    """A run of the op: what it was asked for, its resources, and the classes that have failed so far."""

    def __init__(
        self, context: dg.OpExecutionContext, config: UpToDateConfig, resources: Mapping[str, Any]
    ) -> None:
        self.context, self.config, self.resources = context, config, resources
        self.settings: Settings = resources["settings"]
        self.store = open_root(self.settings.store)
        self.failed: dict[str, str] = {}

    def bring_up_to_date(self, plan: RunPlan | None) -> Iterator[Event]:
        """Does what the plan says, and fails at the end if classes have failed."""
        plan = plan or self._plan()
        if not plan.state.images and not self.config.accept_removals:
            self._check_not_vanished()
        for name, value in plan.lines:
            self.context.log.info(f"{name}: {value}")
        # Dagster may not know what is in the store. Then the assets look at these classes, and tell it.
        unknown = unknown_to_dagster(self.context.instance, plan.state) & plan.classes
        if self.config.ingest:
            yield from self._events(fruit_photos)
        register_classes(self.context.instance, sorted(plan.classes))
        if not plan.is_empty and self.settings.env == "local":
            begin_session(self.settings)  # it starts while steps without Spark run
        self._fail(raw_images, plan.photos.failed)
        try:
            yield from self._materialize(plan, unknown)
        except dg.Failure:
            yield from self._store_checks()
            raise
        yield from self._store_checks()
        if self.failed:
            raise classes_failed(self.failed, len({*plan.classes, *self.failed}))

    def _check_not_vanished(self) -> None:
        """Raises `FruitsError` where the store has no table, and Dagster knows of one in it.

        A run would begin a new store in the empty folder on which the disk is mounted at other times.
        """
        event = self.context.instance.get_latest_materialization_event(raw_images.key)
        said = event.asset_materialization.metadata if event and event.asset_materialization else {}
        known = said[STORE_PATH].value if STORE_PATH in said else None
        if known == self.store.uri_of(RAW_IMAGES) and current_files(self.store, RAW_IMAGES) is None:
            raise FruitsError(
                f"FRUITS_STORE={self.settings.store} has no photos, and Dagster knows of photos in it: its "
                "disk is not mounted, or the folder was moved or removed. Mount the disk or put the folder "
                "back, and run again. To begin a new store there: fruits run --accept-removals"
            )

    def _plan(self) -> RunPlan:
        state = read_state(self.store)
        listing = self.resources["photos"].listing if self.config.ingest else Listing()
        labels = [label_of(label) for label in self.config.classes]
        # A class may have gone since the run was asked for. It does not stop the others.
        there = [label for label in labels if label in listing.classes or label in state.images]
        if there:
            gone = "it has no photos, and the store does not have it"
            self.failed |= dict.fromkeys(set(labels).difference(there), gone)
        return plan_run(
            self.settings,
            self.store,
            state,
            listing,
            there or labels,
            fit=self.config.fit,
            recompute=self.config.recompute,
            accept_removals=self.config.accept_removals,
        )

    def _materialize(self, plan: RunPlan, unknown: set[str]) -> Iterator[Event]:
        config, again = self.config, ClassConfig(recompute=self.config.recompute)
        if plan.is_empty and not unknown:
            return
        if config.ingest:
            yield from self._events(feature_extractor)
            to_ingest = {*plan.photos.changed, *unknown} - plan.photos.failed.keys()
            ingest = IngestConfig(recompute=config.recompute, accept_removals=config.accept_removals)
            yield from self._events(raw_images, to_ingest, ingest)
        # The last version of a failed class passes through the same extractor and model as the others.
        usable = (plan.to_do | unknown) & rows_by_class(self.store, RAW_IMAGES).keys()
        yield from self._events(mobilenet_features, usable, again)
        if plan.fit:
            fit = PcaConfig(components=config.components, variance=config.variance)
            yield from self._events(pca_model, config=fit)
            yield from self._events(feature_quality, config=QualityConfig())
            # The new model projects every class of the store, also one that another machine has just added.
            usable |= rows_by_class(self.store, MOBILENET_FEATURES).keys()
        elif (model := current_one(self.store, PCA_MODEL)) is not None:
            yield from model_event(self.context.instance, self.store, model)
            if self.context.instance.get_latest_materialization_event(feature_quality.key) is None:
                yield from self._events(feature_quality, config=QualityConfig())
        yield from self._events(pca_features_csv, usable, again)

    def _store_checks(self) -> Iterator[dg.AssetCheckEvaluation]:
        return map(evaluation, evaluate(self.context.instance, self.settings))

    def _fail(self, asset: dg.AssetsDefinition, classes: Mapping[str, str]) -> None:
        """Keeps the reasons of failed classes, and lets Dagster mark their partitions.

        Dagster marks a partition as failed that a failed run had planned, and did not materialize.
        """
        self.failed |= classes
        for number, label in enumerate(classes, start=1):
            planned = dg.DagsterEvent.build_asset_materialization_planned_event(
                self.context.job_name,
                OP,
                AssetMaterializationPlannedData(asset.key, partition=label, partitions_subset=None),
            )
            # One transaction stores many events.
            batch = DagsterEventBatchMetadata(f"{self.context.run_id}-failed", number == len(classes))
            self.context.instance.report_dagster_event(planned, self.context.run_id, batch_metadata=batch)

    def _events(
        self,
        asset: dg.AssetsDefinition,
        labels: Iterable[str] | None = None,
        config: dg.Config | None = None,
    ) -> Iterator[Event]:
        """Calls the function of an asset, for classes if it has partitions, and yields its events."""
        if labels is not None and not (labels := sorted(labels)):
            return
        context = _AssetContext(self.context, asset, labels or ())
        arguments = {
            name: self.resources[name] for name in asset.required_resource_keys & self.resources.keys()
        }
        if config is not None:
            arguments["config"] = config
        told = {}
        if labels:
            kind = dg.DagsterEventType.ASSET_MATERIALIZATION
            told = versions_by_class(self.context.instance, asset.key, kind)
        function: Any = asset.op.compute_fn
        tags = provenance(context)
        try:
            result = function.decorated_fn(context, **arguments)
            for event in result if isinstance(result, Iterator) else [result]:
                match event:
                    case dg.AssetMaterialization(description=str(text), partition=str(label)) if (
                        text == UNCHANGED and told.get(label) == (event.tags or {}).get(DATA_VERSION)
                    ):
                        continue
                    case dg.AssetMaterialization() | dg.AssetObservation():
                        yield event
                    case dg.AssetCheckResult():
                        yield from self._evaluated([event], asset)
                    case dg.ObserveResult():
                        yield dg.AssetObservation(asset.key, metadata=event.metadata)
                    case dg.MaterializeResult() if labels is None:
                        version = event.data_version.value if event.data_version else context.run.run_id
                        yield dg.AssetMaterialization(
                            asset.key, metadata=event.metadata, tags={**tags, DATA_VERSION: version}
                        )
                if isinstance(event, dg.MaterializeResult | dg.ObserveResult):
                    yield from self._evaluated(event.check_results or (), asset)
        except dg.Failure as failure:
            classes: Any = failure.metadata.get(FAILED_CLASSES)
            if classes is None:
                raise dg.Failure(
                    f"{asset.key.to_user_string()} failed: {failure.description}",
                    metadata={FAILED_BEFORE: self.failed},
                    allow_retries=False,
                ) from failure
            context.log.error(failure.description)
            self._fail(asset, classes.value)

    def _evaluated(
        self, checks: Iterable[dg.AssetCheckResult], asset: dg.AssetsDefinition
    ) -> Iterator[dg.AssetCheckEvaluation]:
        """The evaluations of checks. As in a run of assets, a blocking check that fails ends the run."""
        blocking = {spec.name for spec in asset.check_specs if spec.blocking}
        failed = []
        for check in checks:
            yield evaluation(check, asset.key)
            if not check.passed and check.check_name in blocking:
                failed.append(check.check_name)
        if failed:
            raise dg.Failure(
                f"the check {', '.join(map(str, failed))} failed, so nothing is computed from it",
                allow_retries=False,
            )
