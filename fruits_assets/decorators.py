"""The shared parts of asset definitions: group, owners, tags, columns, backfill policy, checks and errors."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from inspect import isgeneratorfunction
from typing import Any, Literal

import dagster as dg

from fruits_assets.disk_errors import disk_errors_explained
from spark_jobs.errors import FruitsError
from spark_jobs.store.s3_errors import s3_errors_explained

# The parts of the pipeline, by which Dagster's UI groups the assets.
Group = Literal["photos", "features", "model", "reports"]

_OWNERS = ["team:data-platform"]

MAX_RETRIES, FIRST_WAIT_SECONDS = 3, 30


def attributes(group: Group, *, personal: bool) -> dict[str, Any]:
    """The attributes that every asset has: its group, its owners, and whether it may hold personal data.

    Photos are personal data where they show people, and so are their names and features.
    """
    tags = {"personal-data": "possible" if personal else "none"}
    return {"group_name": group, "owners": _OWNERS, "tags": tags}


def column_schema(columns: Mapping[str, tuple[str, str]]) -> dict[str, dg.TableSchema]:
    """The metadata of a table's columns, from {name: (type, description)}."""
    schema = [dg.TableColumn(column, kind, text) for column, (kind, text) in columns.items()]
    return {"dagster/column_schema": dg.TableSchema(schema)}


def column_lineage(sources: Mapping[str, tuple[str, Sequence[str]]]) -> dict[str, dg.TableColumnLineage]:
    """The metadata of where columns come from, as {column: (table, its columns)}."""
    lineage = {
        column: [dg.TableColumnDep(dg.AssetKey(table), name) for name in names]
        for column, (table, names) in sources.items()
    }
    return {"dagster/column_lineage": dg.TableColumnLineage(lineage)}


def pipeline_asset(
    *,
    name: str,
    group: Group,
    personal: bool = False,
    checks: Mapping[str, str] | None = None,
    blocking: Collection[str] = (),
    **definition: Any,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """`dagster.asset` with the attributes, backfill policy and error handling of this project.

    `group` and `personal` are those of `attributes`. `checks` maps the name of each check that the asset
    yields to its description. The failure of a check in `blocking` stops the assets that follow. `definition`
    goes to `dagster.asset`. One run materializes a whole range of classes; without that backfill policy,
    Dagster refuses `--partition-range`.
    """

    def decorate(function: Callable[..., Any]) -> dg.AssetsDefinition:
        assets_definition: dg.AssetsDefinition = dg.asset(
            name=name,
            **attributes(group, personal=personal),
            backfill_policy=dg.BackfillPolicy.single_run(),
            check_specs=[
                dg.AssetCheckSpec(check, asset=name, description=text, blocking=check in blocking)
                for check, text in (checks or {}).items()
            ],
            **definition,
        )(errors_end_the_step(function))
        return assets_definition

    return decorate


def errors_end_the_step(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps the function of an asset so that a `FruitsError` fails or repeats its step.

    Dagster then shows the message of the error without a traceback. If the error says that a retry helps,
    Dagster repeats the step up to 3 times, after 30, 60 and 120 seconds.
    """
    if isgeneratorfunction(function):

        @wraps(function)
        def generate(context: dg.AssetExecutionContext, *args: Any, **resources: Any) -> Iterator[Any]:
            with _errors_for_dagster(context, resources):
                yield from function(context, *args, **resources)

        return generate

    @wraps(function)
    def call(context: dg.AssetExecutionContext, *args: Any, **resources: Any) -> Any:
        with _errors_for_dagster(context, resources):
            return function(context, *args, **resources)

    return call


@contextmanager
def _errors_for_dagster(context: dg.AssetExecutionContext, resources: Mapping[str, Any]) -> Iterator[None]:
    try:
        with disk_errors_explained(resources.get("settings")), s3_errors_explained():
            yield
    except FruitsError as error:
        if error.retry_helps and context.retry_number < MAX_RETRIES:
            wait = FIRST_WAIT_SECONDS * 2**context.retry_number
            context.log.warning(
                f"{error} Dagster repeats the step in {wait} s: retry {context.retry_number + 1} of "
                f"{MAX_RETRIES}."
            )
            raise dg.RetryRequested(MAX_RETRIES, seconds_to_wait=wait) from error
        raise dg.Failure(str(error), allow_retries=False) from error.__cause__
