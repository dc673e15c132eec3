"""Helpers for the checks of the assets by class. Each check evaluates all classes of the store at once."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from spark_jobs.store.versions import Version


def classes_behind(
    results: Mapping[str, Version],
    sources: Mapping[str, Version],
    *,
    source: str,
    other_inputs: Mapping[str, str] | None = None,
) -> list[str]:
    """The classes whose result is missing, damaged, out of date, without a source, or has other rows.

    A result is up to date if it was made from the current version of its class in the table `source`, and
    from `other_inputs` as {asset: data version}.
    """
    shared = (other_inputs or {}).items()
    return [
        label
        for label in sorted({*sources, *results})
        if label not in results
        or label not in sources
        or results[label].rows != sources[label].rows
        or results[label].inputs.get(source) != sources[label].data_version
        or not shared <= results[label].inputs.items()
    ]


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
