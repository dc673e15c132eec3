"""Helpers for the checks of the assets by class. Each check evaluates all classes of the store at once."""

from typing import Any

import dagster as dg


def check_classes(
    name: str, failing: list[str] | dict[str, Any], *, warning: str | None = None, **metadata: Any
) -> dg.AssetCheckResult:
    """The result of a check that passes if `failing` has no class.

    `failing` holds labels, or maps each label to the reason. A `warning` is the description of a failure;
    it lowers the severity from ERROR to WARN.
    """
    return dg.AssetCheckResult(
        check_name=name,
        passed=not failing,
        severity=dg.AssetCheckSeverity.ERROR if warning is None else dg.AssetCheckSeverity.WARN,
        description=warning if failing else None,
        metadata={"failing_classes": failing, **metadata},
    )
