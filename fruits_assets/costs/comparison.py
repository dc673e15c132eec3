"""Compares runs: one row per run with its time and cost, beside the figures of the earlier project."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fruits_assets.costs.run_records import STAGES, RunRecord
from resources.prices import Prices
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_MODEL

# Rows per environment in Dagster. The files in the store contain all rows.
SHOWN = 6


class StageFigures(NamedTuple):
    """One stage of a row. `bytes` is the size of its results. A figure that is not known is None."""

    images: int
    seconds: float
    cost_usd: float | None = None
    bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One `fruits run`, one backfill, one single run, or one row of the earlier project.

    `images` and `classes` are those of the stage `mobilenet_features`, else of the stage with most images.
    The stage `pca_model` reads all classes, even if the run extracted the features of a few.
    """

    run: str
    environment: str
    images: int
    stages: Mapping[str, StageFigures]
    classes: int | None = None
    known_classes: int | None = None
    finished: str = ""
    nodes: int | None = None
    cores: int | None = None
    instance_type: str | None = None
    weights: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    reported: bool = False

    @property
    def name(self) -> str:
        details = "as reported" if self.reported else f"{self.finished[:16].replace('T', ' ')} {self.run[:8]}"
        return f"{self.environment}, {details}"

    @property
    def complete(self) -> bool:
        """True if every stage ran on about the same images, or if the row is reported.

        Only complete rows are comparable: a run on a few new photos spends its time on its start.
        """
        images = [stage.images for stage in self.stages.values()]
        return self.reported or (len(images) == len(STAGES) and min(images) > max(images) / 2)

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages.values())

    @property
    def seconds_for_1000(self) -> dict[str, float]:
        """Seconds per 1,000 images, by stage. Stages of one row may differ in their number of images."""
        return {
            name: 1000 * stage.seconds / stage.images for name, stage in self.stages.items() if stage.images
        }

    @property
    def images_per_second(self) -> float:
        """Images a second over all stages that ran, one stage after another."""
        seconds = sum(self.seconds_for_1000.values())
        return 1000 / seconds if seconds else 0.0

    @property
    def compute_usd_for_1000(self) -> float | None:
        """Price of the nodes for 1,000 images, in USD; None if a stage has no price."""
        return _total(
            None if stage.cost_usd is None else 1000 * stage.cost_usd / stage.images
            for stage in self.stages.values()
            if stage.images
        )

    def storage_usd_for_1000(self, prices: Prices) -> float | None:
        """Price of the results of 1,000 images in S3, in USD a month; None if their size is not known."""
        size = _total(
            None if stage.bytes is None else 1000 * stage.bytes / stage.images
            for stage in self.stages.values()
            if stage.images
        )
        return None if size is None else size / 1e9 * prices.s3_gb_month


# The earlier project's price of its cluster, in USD an hour.
REPORTED_HOUR = 1.44


def _reported(
    environment: str, *, images: int, seconds: Mapping[str, float], nodes: int | None = None
) -> Row:
    """Returns a row of the earlier project, from its seconds by stage. `nodes` are those of its cluster."""
    return Row(
        run="",
        environment=environment,
        images=images,
        stages={
            stage: StageFigures(
                images=images, seconds=value, cost_usd=value / 3600 * REPORTED_HOUR if nodes else None
            )
            for stage, value in seconds.items()
        },
        nodes=nodes,
        instance_type="m5.xlarge" if nodes else None,
        reported=True,
    )


# From the closing presentation of the earlier project (November 2025).
REPORTED = [
    _reported("laptop", images=5_928, seconds={MOBILENET_FEATURES: 500}),
    _reported("EMR", images=22_688, seconds={MOBILENET_FEATURES: 300}, nodes=3),
    _reported("EMR with PCA", images=22_688, seconds={MOBILENET_FEATURES: 300, PCA_MODEL: 1000}, nodes=3),
]


def rows_of(records: Iterable[RunRecord]) -> list[Row]:
    """Returns one row per owner and environment, in the order of their last records.

    `records` are sorted by time. If a run was repeated, the last record of each stage counts. A repeated run
    belongs to the owner of the run that it repeats: Dagster does not give it the backfill's tag after the
    backfill has ended.
    """
    first_owner: dict[str, str] = {}
    rows: dict[tuple[str, str], dict[tuple[str, str], RunRecord]] = {}
    for record in records:
        key = first_owner.setdefault(record.root_run, record.owner), record.environment
        # Removed and inserted again, so that the last record determines the order.
        row = rows.pop(key, {})
        row.pop((record.root_run, record.stage), None)
        row[record.root_run, record.stage] = record
        rows[key] = row
    return [_row(owner, list(row.values())) for (owner, _), row in rows.items()]


def _row(owner: str, records: Sequence[RunRecord]) -> Row:
    by_stage: dict[str, list[RunRecord]] = {}
    for stage in STAGES:
        if found := [record for record in records if record.stage == stage]:
            by_stage[stage] = found
    stages = {stage: _stage_figures(found) for stage, found in by_stage.items()}
    last = records[-1]
    known = max(record.known_classes for record in records)
    largest = max(stages, key=lambda stage: stages[stage].images)
    main = MOBILENET_FEATURES if MOBILENET_FEATURES in stages else largest
    return Row(
        run=owner,
        environment=last.environment,
        images=stages[main].images,
        stages=stages,
        classes=min(known, sum(record.classes for record in by_stage[main])),
        known_classes=known,
        finished=last.finished,
        nodes=_largest(record.nodes for record in records),
        cores=_largest(record.cores for record in records),
        instance_type=last.instance_type,
        weights=next((record.weights for record in records if record.weights), None),
        versions={name: version for record in records for name, version in record.versions.items()},
    )


def _stage_figures(records: Sequence[RunRecord]) -> StageFigures:
    return StageFigures(
        images=sum(record.images for record in records),
        seconds=sum(record.seconds for record in records),
        cost_usd=_total(record.cost_usd for record in records),
        bytes=sum(record.bytes for record in records),
    )


def _total(values: Iterable[float | None]) -> float | None:
    """Returns the sum; None if there are no values, or if one value is not known."""
    numbers = list(values)
    known = [value for value in numbers if value is not None]
    return sum(known) if known and len(known) == len(numbers) else None


def _largest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def newest(rows: Sequence[Row]) -> list[Row]:
    """Returns the newest rows of each environment, at most `SHOWN`, in their order.

    Half of these places are reserved for the newest complete rows.
    """
    chosen: list[Row] = []
    for environment in {row.environment for row in rows}:
        candidates = [row for row in rows if row.environment == environment]
        complete = [row for row in candidates if row.complete][-SHOWN // 2 :]
        others = [row for row in candidates if row not in complete]
        chosen += [*complete, *others[len(complete) - SHOWN :]]
    return [row for row in rows if row in chosen]
