"""The sensors that end the runs and the EMR clusters of killed processes."""

import dagster as dg

from resources.emr.aws import aws_errors_named, client
from resources.emr.lifecycle import owners, terminate_clusters
from resources.runs import fail_killed_runs, owner_is_over
from resources.settings import Settings
from spark_jobs.errors import FruitsError

EVERY_SECONDS = 30


@dg.sensor(
    minimum_interval_seconds=EVERY_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Marks runs as failed whose process was killed, so that the queue does not wait for them.",
)
def killed_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    killed = fail_killed_runs(context.instance)
    return dg.SkipReason(f"Runs that were killed: {len(killed)}.")


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
