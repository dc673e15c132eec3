"""Writes the record of a stage, which environment_comparison and `fruits plan` read."""

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import dagster as dg

from fruits_assets.costs.run_records import RunRecord, write_record
from fruits_assets.partitions import known_classes
from resources.job_runner import JobRun
from resources.runs import owner_of
from resources.settings import Settings
from spark_jobs.store.root import open_root


def record_stage(
    context: dg.AssetExecutionContext,
    settings: Settings,
    run: JobRun[Any],
    *,
    images: int,
    classes: int,
    bytes_written: int,
    extractor: Mapping[str, Any] | None = None,
) -> None:
    """Writes the record of a stage whose job has ended.

    `images` and `classes` are the job's input, `bytes_written` what it added to the store. `extractor` is the
    description of the feature extractor: it gives the record `weights` and `weights_sha256`. If the store
    refuses the record, the run continues with a warning.
    """
    stage = context.asset_key.to_user_string()
    extractor = extractor or {}
    record = RunRecord(
        run=context.run.run_id,
        root_run=context.run.root_run_id or context.run.run_id,
        owner=owner_of(context.run),
        stage=stage,
        environment=settings.env,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        engine=run.execution.engine,
        images=images,
        classes=classes,
        known_classes=len(known_classes(context.instance)),
        bytes=bytes_written,
        seconds=run.measured.seconds,
        nodes=run.execution.nodes,
        cores=run.execution.cores,
        instance_type=run.execution.instance_type,
        cost_usd=run.execution.estimated_cost_usd,
        weights=extractor.get("weights"),
        weights_sha256=extractor.get("weights_sha256"),
        versions={
            **run.measured.versions,
            "fruits-platform": version("fruits-platform"),
            stage: str(context.assets_def.code_versions_by_key[context.asset_key]),
        },
    )
    try:
        write_record(open_root(settings.store), record)
    except OSError as error:
        context.log.warning(
            f"This run will be missing in environment_comparison: its record cannot be written ({error})."
        )
