"""The old name of `resources.dagster_storage`, which a `dagster.yaml` may use for one release."""

from resources.dagster_storage import EventLog

__all__ = ["EventLog"]
