"""The old name of `resources.dagster_storage`, for a `dagster.yaml` that still has it."""

from resources.dagster_storage import EventLog

__all__ = ["EventLog"]
