"""What Dagster's daemon looks after: clusters on EMR whose runs have all ended."""

import dagster as dg

from resources.aws import AwsError, aws_errors_named, client
from resources.emr_lifecycle import BACKFILL_TAG, owners, terminate_clusters
from resources.settings import Settings

EVERY_SECONDS = 30

_UNDER_WAY = ("REQUESTED", "CANCELING", "FAILING")


@dg.sensor(
    minimum_interval_seconds=EVERY_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Terminates the EMR clusters of backfills and runs that have ended. A run terminates its own; "
        "a backfill's is ended here, and one whose process died."
    ),
)
def ended_clusters(
    context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]
) -> dg.SkipReason:
    ended: list[str] = []
    try:
        with aws_errors_named():
            emr = client("emr", settings.region)
            for owner in owners(emr):
                if _has_ended(context.instance, owner):
                    ended += terminate_clusters(emr, owner)
    except AwsError as error:
        return dg.SkipReason(str(error))
    return dg.SkipReason(f"Terminated {', '.join(ended)}." if ended else "No cluster has outlived its runs.")


def _has_ended(instance: dg.DagsterInstance, owner: str) -> bool:
    """Whether a backfill or a run of this instance has ended; what it does not know is another's."""
    backfill = instance.get_backfill(owner)
    if backfill is None:
        run = instance.get_run_by_id(owner)
        return run is not None and run.is_finished
    runs = instance.get_runs(dg.RunsFilter(tags={BACKFILL_TAG: owner}))
    return backfill.status.value not in _UNDER_WAY and all(run.is_finished for run in runs)
