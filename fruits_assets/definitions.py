"""The asset graph, with the resources of the environment that `FRUITS_ENV` names."""

import dagster as dg
from dagster_pyspark import LazyPySparkResource

from fruits_assets import assets
from fruits_assets.automation.sensors import ended_clusters
from resources.emr.residency import check_residency
from resources.emr.steps import EmrSteps
from resources.event_logs import event_log_config
from resources.job_runner import JobRunner
from resources.local.session import local_spark_config
from resources.local.spark import LocalSpark
from resources.settings import Settings, load_settings
from resources.terminal_log import terminal_log


@dg.definitions
def defs() -> dg.Definitions:
    """What Dagster's commands and its UI load: the graph with the settings of their environment."""
    return definitions_for(load_settings())


def definitions_for(settings: Settings) -> dg.Definitions:
    """The asset graph with the resources that some settings ask for."""
    checked = dg.ResourceDefinition(lambda _: _checked(settings))
    return dg.Definitions(
        assets=dg.load_assets_from_package_module(assets),
        asset_checks=dg.load_asset_checks_from_package_module(assets),
        resources={
            "settings": checked,
            "job_runner": EmrSteps(settings=checked) if settings.env == "emr" else _local_spark(settings),
        },
        sensors=[ended_clusters(settings)] if settings.makes_clusters else [],
        loggers={"console": terminal_log},
        # Spark is in this process; the default executor would start a JVM for every step.
        executor=dg.in_process_executor,
    )


def _checked(settings: Settings) -> Settings:
    """The settings as every asset takes them, so that no run begins with data in a wrong place."""
    check_residency(settings)
    return settings


def _local_spark(settings: Settings) -> JobRunner:
    config = local_spark_config(settings) | event_log_config(settings.store)
    return LocalSpark(pyspark=LazyPySparkResource(spark_config=config), store=settings.store)
