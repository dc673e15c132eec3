"""Runs side by side: what each took and cost, where it ran, beside what the earlier project reported."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fruits_assets.costs.run_records import STAGES, RunRecord
from resources.prices import Prices
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_MODEL

# Of each environment, so many are shown in Dagster; the files in the store have all.
SHOWN = 6


class StageFigures(NamedTuple):
    """One stage of a row: images and seconds, what they cost, and the bytes that were stored."""

    images: int
    seconds: float
    cost_usd: float | None = None
    bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One `fruits run`, backfill or single run, or a row of the earlier project.

    `images` and `classes` are those of its features, else of its largest stage: a PCA is of all classes,
    whatever classes the run itself was of.
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
        words = "as reported" if self.reported else f"{self.finished[:16].replace('T', ' ')} {self.run[:8]}"
        return f"{self.environment}, {words}"

    @property
    def complete(self) -> bool:
        """Whether all stages ran, so that the row stands beside others; reported rows have what there is."""
        return self.reported or len(self.stages) == len(STAGES)

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages.values())

    @property
    def seconds_for_1000(self) -> dict[str, float]:
        """Seconds for 1,000 images by stage, each by its own images: a stage may have had fewer classes."""
        return {
            name: 1000 * stage.seconds / stage.images for name, stage in self.stages.items() if stage.images
        }

    @property
    def images_per_second(self) -> float:
        """Images a second through all the stages that ran, one after another."""
        seconds = sum(self.seconds_for_1000.values())
        return 1000 / seconds if seconds else 0.0

    @property
    def compute_usd_for_1000(self) -> float | None:
        """What the nodes cost for 1,000 images; None where a stage has no price."""
        return _total(
            None if stage.cost_usd is None else 1000 * stage.cost_usd / stage.images
            for stage in self.stages.values()
            if stage.images
        )

    def storage_usd_for_1000(self, prices: Prices) -> float | None:
        """What the results of 1,000 images cost a month in S3; None where their size is not known."""
        size = _total(
            None if stage.bytes is None else 1000 * stage.bytes / stage.images
            for stage in self.stages.values()
            if stage.images
        )
        return None if size is None else size / 1e9 * prices.s3_gb_month


# USD an hour that the earlier project gave for its cluster.
REPORTED_HOUR = 1.44


def _reported(environment: str, images: int, nodes: int | None = None, **seconds: float) -> Row:
    stages = {
        stage: StageFigures(
            images=images, seconds=of_stage, cost_usd=of_stage / 3600 * REPORTED_HOUR if nodes else None
        )
        for stage, of_stage in seconds.items()
    }
    instance_type = "m5.xlarge" if nodes else None
    return Row(
        run="",
        environment=environment,
        images=images,
        stages=stages,
        nodes=nodes,
        instance_type=instance_type,
        reported=True,
    )


REPORTED = [
    _reported("laptop", 5_928, **{MOBILENET_FEATURES: 500}),
    _reported("EMR", 22_688, 3, **{MOBILENET_FEATURES: 300}),
    _reported("EMR with PCA", 22_688, 3, **{MOBILENET_FEATURES: 300, PCA_MODEL: 1000}),
]


def rows_of(records: Iterable[RunRecord]) -> list[Row]:
    """A row for each owner of runs and environment, from records that come in the order of their time.

    Rows are in the order of their last record. Where a run was repeated, the last time counts, stage by
    stage; it belongs to the owner of what it repeats, as a backfill that is over owns no further runs.
    """
    first_owner: dict[str, str] = {}
    by_owner: dict[tuple[str, str], dict[tuple[str, str], RunRecord]] = {}
    for record in records:
        key = first_owner.setdefault(record.root_run, record.owner), record.environment
        by_owner[key] = of_owner = by_owner.pop(key, {})
        of_owner.pop((record.root_run, record.stage), None)
        of_owner[record.root_run, record.stage] = record
    return [_row(owner, list(of_owner.values())) for (owner, _), of_owner in by_owner.items()]


def _row(owner: str, records: Sequence[RunRecord]) -> Row:
    by_stage = {
        stage: [record for record in records if record.stage == stage]
        for stage in STAGES
        if any(record.stage == stage for record in records)
    }
    stages = {
        stage: StageFigures(
            images=sum(record.images for record in of_stage),
            seconds=sum(record.seconds for record in of_stage),
            cost_usd=_total(record.cost_usd for record in of_stage),
            bytes=sum(record.bytes for record in of_stage),
        )
        for stage, of_stage in by_stage.items()
    }
    last = records[-1]
    known = max(record.known_classes for record in records)
    main = (
        MOBILENET_FEATURES
        if MOBILENET_FEATURES in stages
        else max(stages, key=lambda one: stages[one].images)
    )
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
        versions={name: one for record in records for name, one in record.versions.items()},
    )


def _total(values: Iterable[float | None]) -> float | None:
    """The sum; None where there is nothing to add, or one value is not known."""
    found = list(values)
    known = [value for value in found if value is not None]
    return sum(known) if known and len(known) == len(found) else None


def _largest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def newest(rows: Sequence[Row]) -> list[Row]:
    """The newest rows of each environment, in their order; half of the places are for those of all stages."""
    chosen: list[Row] = []
    for environment in {row.environment for row in rows}:
        of_environment = [row for row in rows if row.environment == environment]
        whole = [row for row in of_environment if row.complete][-SHOWN // 2 :]
        others = [row for row in of_environment if row not in whole]
        chosen += [*whole, *others[len(whole) - SHOWN :]]
    return [row for row in rows if row in chosen]
