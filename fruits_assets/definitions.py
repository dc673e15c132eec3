"""The asset graph, with the resources of the execution target that `FRUITS_ENV` names."""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import dagster as dg

from fruits_assets import assets
from fruits_assets.automation.alerts import alerts
from fruits_assets.automation.new_photos import keep_up_to_date, late_classes, nightly, photo_observation
from fruits_assets.automation.old_runs import old_runs
from fruits_assets.automation.sensors import ended_clusters, killed_runs
from fruits_assets.jobs import jobs, observe_photos
from fruits_assets.run_plan import RunPlan
from fruits_assets.store_checks import store_checks
from resources.emr.residency import check_residency
from resources.emr.steps import EmrSteps
from resources.job_runner import JobRunner
from resources.local.spark import local_spark
from resources.photo_folders import PhotoFolders
from resources.run_locks import held_lock
from resources.settings import Settings, load_settings, settings_table
from resources.terminal_log import terminal_log
from spark_jobs.store.schemas import FRUIT_PHOTOS


@dg.definitions
def defs() -> dg.Definitions:
    """The entry point of Dagster's commands and UI, with settings from the environment and `.env`."""
    return definitions_for(load_settings(Settings))


def definitions_for(
    settings: Settings, photos: PhotoFolders | None = None, plan: RunPlan | None = None
) -> dg.Definitions:
    """The asset graph with resources for `settings.env`: Spark on this machine, or steps of an EMR cluster.

    Each run checks the settings before its first step starts, and lists the photos once; with `photos`, all
    runs share that listing. With `plan`, the jobs follow that plan.
    """
    return dg.Definitions(
        assets=_located(settings),
        asset_checks=[store_checks],
        jobs=[*jobs(plan), observe_photos],
        resources={
            "settings": _checked(settings),
            "photos": dg.ResourceDefinition(lambda _: photos or PhotoFolders(settings)),
            "job_runner": _job_runner(settings),
            # Assets hand no values to each other. With Dagster's default, a job has another snapshot in
            # `execute_in_process` than in the UI, which then warns before it repeats a run of a command.
            "io_manager": dg.mem_io_manager,
        },
        sensors=[
            killed_runs,
            photo_observation(settings),
            keep_up_to_date,
            old_runs(settings),
            *([ended_clusters(settings)] if settings.makes_clusters else []),
            *([alerts(settings)] if settings.has_alerts else []),
        ],
        schedules=[nightly, late_classes(settings)],
        loggers={"console": terminal_log},
        # Spark runs in this process. The default executor would start a JVM for each step.
        executor=dg.in_process_executor,
    )


def _located(settings: Settings) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """The assets, with their places in the store and their modules, which have their names.

    The first one shows the settings.
    """

    def located(spec: dg.AssetSpec) -> dg.AssetSpec:
        name = spec.key.to_user_string()
        is_first = name == FRUIT_PHOTOS
        place = settings.images if is_first else f"{settings.store}/{name}"
        module = str(Path(assets.__file__).with_name(f"{name}.py"))
        source = dg.LocalFileCodeReference(file_path=module, line_number=1)
        return spec.merge_attributes(
            metadata={
                "dagster/uri": place,
                "dagster/code_references": dg.CodeReferencesMetadataValue(code_references=[source]),
                # Not on the resource: jobs with other settings would be other jobs for Dagster.
                **({"settings": dg.MetadataValue.md(settings_table(settings))} if is_first else {}),
            }
        )

    loaded: Iterable[Any] = dg.load_assets_from_package_module(assets, include_specs=True)
    return [*dg.map_asset_specs(located, loaded)]


def _checked(settings: Settings) -> dg.ResourceDefinition:
    """The settings of a run, which holds its lock.

    A run fails with a `FruitsError` if data would leave the allowed regions.
    """

    @dg.resource
    def checked(context: dg.InitResourceContext) -> Iterator[Settings]:
        check_residency(settings)
        instance, run = context.instance, context.run
        with held_lock(instance, run.run_id) if instance and run else nullcontext():
            yield settings

    return checked


def _job_runner(settings: Settings) -> JobRunner:
    if settings.env == "local":
        return local_spark(settings)
    # Not the resource `settings`: it is a generator, which cannot be a part of another resource.
    return EmrSteps(settings=dg.ResourceDefinition(lambda _: settings))
