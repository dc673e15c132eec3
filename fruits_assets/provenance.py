"""What a materialization was made from, as Dagster's tags."""

import dagster as dg

# Dagster's names for what a materialization was made from; its UI derives "unsynced" from them.
DATA_VERSION = "dagster/data_version"
_CODE_VERSION = "dagster/code_version"
_INPUT_VERSION = "dagster/input_data_version/"
_INPUT_EVENT = "dagster/input_event_pointer/"
_USER_PROVIDED = "dagster/data_version_is_user_provided"


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
            version = (entry.tags or {}).get(DATA_VERSION, version) if entry else version
        tags[_INPUT_VERSION + key.to_user_string()] = version
        tags[_INPUT_EVENT + key.to_user_string()] = event
    return tags
