"""What Dagster is told about a step that handled many classes."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

GROUP = "fruits"
OWNERS = ["team:data-platform"]

# Metadata of a failed step: {class: reason}.
FAILED_CLASSES = "failed_classes"

# Dagster's names for what a materialization was made from; its UI derives "unsynced" from them.
_DATA_VERSION = "dagster/data_version"
_CODE_VERSION = "dagster/code_version"
_INPUT_VERSION = "dagster/input_data_version/"
_INPUT_EVENT = "dagster/input_event_pointer/"
_USER_PROVIDED = "dagster/data_version_is_user_provided"


@dataclass(frozen=True)
class ClassResult:
    """One class's outcome: the data version of what it holds now, and its metadata."""

    data_version: str
    metadata: Mapping[str, Any]


Event = dg.MaterializeResult | dg.AssetMaterialization | dg.AssetCheckResult


def provenance(context: dg.AssetExecutionContext) -> dict[str, str]:
    """The tags that say which versions of its inputs an asset is made from, as of now.

    To be taken before the inputs are read. Dagster makes such tags itself, but only for a step
    that succeeds for every class.
    """
    tags = {_USER_PROVIDED: "true"}
    code_version = context.assets_def.code_versions_by_key[context.asset_key]
    if code_version:
        tags[_CODE_VERSION] = code_version
    for key in context.assets_def.dependency_keys:
        records = (
            context.instance.fetch_materializations(key, limit=1).records
            or context.instance.fetch_observations(key, limit=1).records
        )
        # INITIAL and NULL are what Dagster writes for an input that it has never seen.
        version, event = "INITIAL", "NULL"
        if records:
            event = str(records[0].storage_id)
            entry = records[0].asset_materialization or records[0].event_log_entry.asset_observation
            version = (entry.tags or {}).get(_DATA_VERSION, version) if entry else version
        tags[_INPUT_VERSION + key.to_user_string()] = version
        tags[_INPUT_EVENT + key.to_user_string()] = event
    return tags


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
            tags={**tags, _DATA_VERSION: result.data_version},
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


def columns(descriptions: Mapping[str, tuple[str, str]]) -> dict[str, dg.TableSchema]:
    """Definition metadata: a table's columns as {name: (type, description)}."""
    return {
        "dagster/column_schema": dg.TableSchema(
            [dg.TableColumn(name, kind, text) for name, (kind, text) in descriptions.items()]
        )
    }
