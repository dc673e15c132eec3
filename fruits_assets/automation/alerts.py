"""The sensor that tells people of failed runs, failed checks, and runs that cost too much."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from fruits_assets.by_class import failed_classes
from resources.messages import send
from resources.settings import Settings
from spark_jobs.errors import FruitsError
from spark_jobs.wording import named

EVERY_SECONDS = 30

# Classes that a message names, and characters of a cause in it.
_NAMED, _CAUSE = 10, 600

_REMEMBERED = 200  # runs, and messages, in the cursor

# The runs at which one tick looks: a sensor has a minute, and a run over 2,000 classes takes seconds to read.
_AT_ONCE = 10

_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]


@dataclass
class Seen:
    """The cursor of the sensor: what it has looked at, so that each failure is told once.

    `until` is the time until which it has looked at runs, and `runs` are the last ones: a tag that Dagster
    adds to a run makes it look changed. `checks` maps each failed check to the failure that was told.
    `unsent` are the messages, as (subject, text), that no channel has taken yet.
    """

    until: float
    runs: list[str] = field(default_factory=list)
    checks: dict[str, str] = field(default_factory=dict)
    unsent: list[tuple[str, str]] = field(default_factory=list)


def alerts(settings: Settings) -> dg.SensorDefinition:
    """The sensor `alerts`. It sees the runs of all commands, and the checks of runs that succeed."""

    @dg.sensor(
        name="alerts",
        minimum_interval_seconds=EVERY_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells of failed runs, failed checks and costs, by the channels of FRUITS_ALERT_*.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        if context.cursor is None:  # nothing is told of what happened before the sensor was there
            seen = Seen(datetime.now(UTC).timestamp())
            list(_of_checks(context, settings, seen))
            context.update_cursor(json.dumps(seen.__dict__))
            return dg.SkipReason("Alerts begin now.")
        seen = Seen(**json.loads(context.cursor))
        seen.unsent += [*_of_runs(context.instance, settings, seen), *_of_checks(context, settings, seen)]
        sent = _send(context, settings, seen)
        context.update_cursor(json.dumps(seen.__dict__))
        waiting = f" {len(seen.unsent)} wait: no channel took them." if seen.unsent else ""
        return dg.SkipReason(f"Messages sent: {sent}.{waiting}")

    return sensor


def _send(context: dg.SensorEvaluationContext, settings: Settings, seen: Seen) -> int:
    """Sends the messages in their order until one reaches no channel; returns the number of those sent."""
    sent = 0
    while seen.unsent:
        try:
            send(settings, *seen.unsent[0])
        except FruitsError as error:
            context.log.error(str(error))
            if error.retry_helps:
                seen.unsent = seen.unsent[-_REMEMBERED:]
                return sent
        seen.unsent = seen.unsent[1:]
        sent += 1
    return sent


def _of_runs(instance: dg.DagsterInstance, settings: Settings, seen: Seen) -> Iterator[tuple[str, str]]:
    """Alerts of the runs that have ended since the last tick, of the first ones of many."""
    since = datetime.fromtimestamp(seen.until, UTC)
    records = instance.get_run_records(
        dg.RunsFilter(statuses=_ENDED, updated_after=since),
        limit=_AT_ONCE,
        order_by="update_timestamp",
        ascending=True,
    )
    for record in records:
        seen.until = max(seen.until, record.update_timestamp.replace(tzinfo=UTC).timestamp())
        run, link = record.dagster_run, f"{settings.ui_url}/runs/{record.dagster_run.run_id}"
        if run.run_id in seen.runs:
            continue
        seen.runs = [*seen.runs, run.run_id][-_REMEMBERED:]
        if run.status == dg.DagsterRunStatus.FAILURE:
            cause, classes = _cause(instance, run.run_id)
            lines = [f"The run {_name(run)} failed: {cause}"]
            if classes:
                lines.append(f"Classes: {named(classes, _NAMED)}")
            yield f"Fruits: {_name(run)} failed", "\n".join([*lines, link])
        if settings.alert_cost is not None and (cost := _cost(instance, run.run_id)) > settings.alert_cost:
            yield (
                f"Fruits: {_name(run)} cost {cost:.2f} USD",
                f"The run {_name(run)} cost about {cost:.2f} USD, and FRUITS_ALERT_COST is "
                f"{settings.alert_cost:.2f}.\n{link}",
            )


def _of_checks(
    context: dg.SensorEvaluationContext, settings: Settings, seen: Seen
) -> Iterator[tuple[str, str]]:
    """Alerts of the checks that fail, and did not fail in the same way at the last tick."""
    assert context.repository_def is not None
    keys = sorted(context.repository_def.asset_graph.asset_check_keys)
    records = context.instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    for key, record in records.items():
        event = record.event.dagster_event if record.event else None
        if not event or event.event_type != dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            continue
        check, name = event.asset_check_evaluation_data, key.to_user_string()
        if check.passed:
            seen.checks.pop(name, None)
            continue
        listed: Any = check.metadata.get("failing_classes")
        classes = list(listed.value) if listed else []
        is_error = check.severity == dg.AssetCheckSeverity.ERROR
        # A warning is told once until it passes. An error is told again for other classes.
        failure = f"error: {sorted(classes)}" if is_error else "warning"
        if seen.checks.get(name) == failure:
            continue
        seen.checks[name] = failure
        said = f"The check {name} {'failed' if is_error else 'warns'}"
        lines = [f"{said}: {check.description[:_CAUSE]}" if check.description else f"{said}."]
        if classes:
            lines.append(f"Classes: {named(classes, _NAMED)}")
        link = f"{settings.ui_url}/assets/{'/'.join(key.asset_key.path)}?view=checks"
        yield f"Fruits: {name} {'failed' if is_error else 'warns'}", "\n".join([*lines, link])


def _cause(instance: dg.DagsterInstance, run_id: str) -> tuple[str, list[str]]:
    """Why a run failed, in a sentence, and the classes that failed."""
    causes, classes = [], list[str]()
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        event = entry.get_dagster_event()
        failure, error = event.step_failure_data.user_failure_data, event.step_failure_data.error
        classes += failed_classes(event) or {}
        while error and error.cause:
            error = error.cause
        text = (failure.description if failure else None) or (error.message if error else None) or ""
        causes.append(f"{entry.step_key}: {' '.join(text.split())[:_CAUSE]}")
    if not causes:
        ends = instance.all_logs(run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
        causes = [entry.message or entry.user_message for entry in ends][-1:]
    return "; ".join(causes) or "no reason is recorded", classes


def _cost(instance: dg.DagsterInstance, run_id: str) -> float:
    """The estimated cost of a run in USD. The events of all classes of an asset tell the same cost."""
    costs: dict[dg.AssetKey, float] = {}
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
        event = entry.asset_materialization
        if event and isinstance(cost := event.metadata.get("estimated_cost_usd"), dg.FloatMetadataValue):
            costs[event.asset_key] = cost.value or 0.0
    return sum(costs.values())


def _name(run: dg.DagsterRun) -> str:
    """The job of a run, or its assets where it was started for some assets."""
    selection = sorted(key.to_user_string() for key in run.asset_selection or ())
    return ", ".join(selection) if run.job_name.startswith("__") and selection else run.job_name
