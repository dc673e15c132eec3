"""The asset graph, with the resources of the environment that `FRUITS_ENV` names."""

import dagster as dg
from dagster_pyspark import LazyPySparkResource

from fruits_assets.assets.feature_extractor import feature_extractor
from fruits_assets.assets.fruit_photos import fruit_photos
from fruits_assets.assets.mobilenet_features import mobilenet_features
from fruits_assets.assets.pca_features_csv import pca_features_csv
from fruits_assets.assets.pca_model import fitted_on_current_features, pca_model
from fruits_assets.assets.raw_images import raw_images
from resources.local_spark import LocalSpark, local_spark_config
from resources.settings import load_settings

settings = load_settings()

defs = dg.Definitions(
    assets=[fruit_photos, raw_images, feature_extractor, mobilenet_features, pca_model, pca_features_csv],
    asset_checks=[fitted_on_current_features],
    resources={
        "settings": settings,
        "job_runner": LocalSpark(pyspark=LazyPySparkResource(spark_config=local_spark_config(settings))),
    },
    # Spark is in this process; the default executor would start a JVM for every step.
    executor=dg.in_process_executor,
)
