"""What Dagster's daemon looks after: clusters on EMR whose runs have all ended."""

import dagster as dg

from resources.emr.aws import aws_errors_named, client
from resources.emr.lifecycle import owners, terminate_clusters
from resources.runs import BACKFILL_TAG, OWNER_TAG, is_over
from resources.settings import Settings
from spark_jobs.errors import FruitsError

EVERY_SECONDS = 30

_UNDER_WAY = ("REQUESTED", "CANCELING", "FAILING")


def ended_clusters(settings: Settings) -> dg.SensorDefinition:
    """The sensor that terminates clusters. Its settings are not checked: nothing is to keep it from that."""

    @dg.sensor(
        name="ended_clusters",
        minimum_interval_seconds=EVERY_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Terminates the EMR clusters of backfills and runs that have ended. A run terminates its own; "
            "a backfill's is ended here, and one whose process on this machine died."
        ),
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        ended: list[str] = []
        try:
            with aws_errors_named():
                emr = client("emr", settings.region)
                for owner in owners(emr):
                    if _has_ended(context.instance, owner):
                        ended += terminate_clusters(emr, owner)
        except FruitsError as error:
            return dg.SkipReason(str(error))
        return dg.SkipReason(
            f"Terminated {', '.join(ended)}." if ended else "No cluster has outlived its runs."
        )

    return sensor


def _has_ended(instance: dg.DagsterInstance, owner: str) -> bool:
    """Whether all runs of an owner have ended; one that this instance does not know is another's."""
    backfill = instance.get_backfill(owner)
    if backfill is not None:
        runs = instance.get_runs(dg.RunsFilter(tags={BACKFILL_TAG: owner}))
        return backfill.status.value not in _UNDER_WAY and all(run.is_finished for run in runs)
    first = instance.get_run_by_id(owner)
    runs = [
        *([first] if first else []),
        *instance.get_runs(dg.RunsFilter(tags={"dagster/root_run_id": owner})),
        *instance.get_runs(dg.RunsFilter(tags={OWNER_TAG: owner})),
    ]
    return bool(runs) and all(is_over(run) for run in runs)
