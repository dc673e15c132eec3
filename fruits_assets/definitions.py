"""The asset graph, with the resources of the environment that `FRUITS_ENV` names."""

import dagster as dg
from dagster_pyspark import LazyPySparkResource

from fruits_assets.assets.environment_comparison import environment_comparison
from fruits_assets.assets.feature_extractor import feature_extractor
from fruits_assets.assets.feature_quality import feature_quality
from fruits_assets.assets.fruit_photos import fruit_photos
from fruits_assets.assets.mobilenet_features import mobilenet_features
from fruits_assets.assets.pca_features_csv import pca_features_csv
from fruits_assets.assets.pca_model import fitted_on_current_features, pca_model
from fruits_assets.assets.raw_images import raw_images
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
        assets=[
            fruit_photos,
            raw_images,
            feature_extractor,
            mobilenet_features,
            pca_model,
            pca_features_csv,
            feature_quality,
            environment_comparison,
        ],
        asset_checks=[fitted_on_current_features],
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
