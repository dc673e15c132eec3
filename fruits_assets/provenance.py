"""The versions of the inputs of a materialization, as Dagster's tags."""

from collections.abc import Iterable, Mapping

import dagster as dg

# Dagster's own names for these tags. Its UI compares them with the current versions to mark "unsynced".
DATA_VERSION = "dagster/data_version"
_CODE_VERSION = "dagster/code_version"
_INPUT_VERSION = "dagster/input_data_version/"
_INPUT_EVENT = "dagster/input_event_pointer/"
_USER_PROVIDED = "dagster/data_version_is_user_provided"

# Dagster's values for an input without materializations or observations.
_NO_VERSION, _NO_EVENT = "INITIAL", "NULL"

# The materializations of a class among which an earlier data version is looked for.
_EARLIER = 1000

# The most records that Dagster returns at once, and the most classes that one query names.
_AT_ONCE = 1000


def provenance(context: dg.AssetExecutionContext) -> dict[str, str]:
    """The tags that name the current code version of an asset and the current version of each input.

    Call it before the asset reads its inputs: a later version of an input then marks the result as unsynced.
    Dagster sets these tags itself only on the result of a step, and a result cannot have a data version for
    each class (https://github.com/dagster-io/dagster/issues/18649,
    https://github.com/dagster-io/dagster/issues/34013).
    """
    tags = {_USER_PROVIDED: "true"}
    code_version = context.assets_def.code_versions_by_key[context.asset_key]
    if code_version:
        tags[_CODE_VERSION] = code_version
    return tags | _inputs(context.instance, context.assets_def.dependency_keys)


def _inputs(instance: dg.DagsterInstance, keys: Iterable[dg.AssetKey]) -> dict[str, str]:
    """The tags of inputs in their current versions."""
    tags = {}
    for key in keys:
        records = (
            instance.fetch_materializations(key, limit=1).records
            or instance.fetch_observations(key, limit=1).records
        )
        version, event = _NO_VERSION, _NO_EVENT
        if records:
            event = str(records[0].storage_id)
            entry = records[0].asset_materialization or records[0].event_log_entry.asset_observation
            version = (entry.tags or {}).get(DATA_VERSION, version) if entry else version
        tags[_INPUT_VERSION + key.to_user_string()] = version
        tags[_INPUT_EVENT + key.to_user_string()] = event
    return tags


def renewed_provenance(instance: dg.DagsterInstance, tags: Mapping[str, str]) -> dict[str, str]:
    """The tags of a materialization, with the current versions of the inputs that they name."""
    names = [name.removeprefix(_INPUT_VERSION) for name in tags if name.startswith(_INPUT_VERSION)]
    return {**tags, **_inputs(instance, map(dg.AssetKey.from_user_string, names))}


def versions_by_class(
    instance: dg.DagsterInstance, key: dg.AssetKey, kind: dg.DagsterEventType
) -> dict[str, str]:
    """The data version of the last event of this kind of each class."""
    found = instance.event_log_storage.get_latest_tags_by_partition(key, kind, [DATA_VERSION])
    return {label: tags[DATA_VERSION] for label, tags in found.items()}


def last_observations(
    instance: dg.DagsterInstance, key: dg.AssetKey, before: Mapping[str, int]
) -> dict[str, dg.EventLogRecord]:
    """The last observation of each class whose storage id is below the given one, where there is any.

    One query serves up to 1,000 classes. With a query for each class, 2,000 classes take half a minute.
    """
    found: dict[str, dg.EventLogRecord] = {}
    labels = list(before)
    for first in range(0, len(labels), _AT_ONCE):
        left = set(labels[first : first + _AT_ONCE])
        until = max(before[label] for label in left)
        while left:
            filters = dg.AssetRecordsFilter(key, asset_partitions=sorted(left), before_storage_id=until)
            page = instance.fetch_observations(filters, limit=_AT_ONCE)
            for record in page.records:  # the newest first
                label = str(record.partition_key)
                if label in left and record.storage_id < before[label]:
                    found[label] = record
                    left.remove(label)
            if not page.has_more:
                break
            until = page.records[-1].storage_id
    return found


def earlier_provenance(
    instance: dg.DagsterInstance, key: dg.AssetKey, label: str, data_version: str
) -> dict[str, str]:
    """The tags of the last materialization that gave a class this data version.

    A class that is restored has the inputs of that time. Where Dagster does not know that materialization,
    the tags name no inputs.
    """
    records = dg.AssetRecordsFilter(key, asset_partitions=[label])
    for record in instance.fetch_materializations(records, limit=_EARLIER).records:
        tags = dict(record.asset_materialization.tags or {}) if record.asset_materialization else {}
        if tags.get(DATA_VERSION) == data_version:
            return tags
    return {_USER_PROVIDED: "true"}
