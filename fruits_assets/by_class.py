"""What Dagster is told about a step that handled many classes."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from fruits_assets.provenance import DATA_VERSION

GROUP = "fruits"
OWNERS = ["team:data-platform"]

# Metadata of a failed step: {class: reason}.
FAILED_CLASSES = "failed_classes"


@dataclass(frozen=True)
class ClassResult:
    """One class's outcome: the data version of what it holds now, and its metadata."""

    data_version: str
    metadata: Mapping[str, Any]


Event = dg.MaterializeResult | dg.AssetMaterialization | dg.AssetCheckResult


def materialize_classes(
    context: dg.AssetExecutionContext,
    tags: Mapping[str, str],
    classes: Mapping[str, ClassResult],
    failed: Mapping[str, str],
    checks: Iterable[dg.AssetCheckResult],
) -> Iterator[Event]:
    """Yields the events of a step over many classes, each with its own figures and data version.

    Dagster gives one data version to all partitions of a step, so every class gets an event of its
    own after the step's. Where classes failed, the step's own result is left out: it would mark
    them as materialized too. Then raises `dagster.Failure`, which names each of them.
    """
    if failed:
        yield from checks
    else:
        yield dg.MaterializeResult(check_results=list(checks))
    for label, result in classes.items():
        yield dg.AssetMaterialization(
            context.asset_key,
            partition=label,
            metadata=dict(result.metadata),
            tags={**tags, DATA_VERSION: result.data_version},
        )
    if failed:
        shown = "; ".join(f"{label}: {reason}" for label, reason in list(failed.items())[:20])
        raise dg.Failure(
            f"{len(failed)} of {len(failed) + len(classes)} classes failed, the others are done. {shown}",
            metadata={FAILED_CLASSES: dict(failed)},
            allow_retries=False,
        )


def share_of_run(metadata: Mapping[str, Any], images: int, of_all: int) -> dict[str, Any]:
    """A run's metadata with the rate of all its images, and one class's figure in front."""
    seconds = float(metadata["seconds"])
    rate = round(of_all / seconds, 1) if seconds else 0.0
    return {"images": images, **metadata, "images_in_run": of_all, "images_per_second": rate}
