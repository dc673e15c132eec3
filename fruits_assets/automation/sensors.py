"""The sensor that terminates EMR clusters whose runs are over."""

import dagster as dg

from resources.emr.aws import aws_errors_named, client
from resources.emr.lifecycle import owners, terminate_clusters
from resources.runs import owner_is_over
from resources.settings import Settings
from spark_jobs.errors import FruitsError

EVERY_SECONDS = 30


def ended_clusters(settings: Settings) -> dg.SensorDefinition:
    """The sensor `ended_clusters`, which runs in Dagster's daemon every 30 seconds.

    It checks no settings: a wrong setting must not keep a cluster running.
    """

    @dg.sensor(
        name="ended_clusters",
        minimum_interval_seconds=EVERY_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Terminates the EMR clusters of backfills that have ended, and of runs whose process was killed. "
            "All other runs terminate their own clusters."
        ),
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        terminated: list[str] = []
        try:
            with aws_errors_named():
                emr = client("emr", settings.region)
                for owner in owners(emr):
                    if owner_is_over(context.instance, owner):
                        terminated += terminate_clusters(emr, owner)
        except FruitsError as error:
            return dg.SkipReason(str(error))
        return dg.SkipReason(
            f"Terminated {', '.join(terminated)}." if terminated else "No cluster has outlived its runs."
        )

    return sensor
