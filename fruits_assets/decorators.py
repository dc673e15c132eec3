"""The shared parts of asset definitions: group, owners, backfill policy, checks and error handling."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from inspect import isgeneratorfunction
from typing import Any

import dagster as dg

from fruits_assets.disk_errors import disk_errors_explained
from spark_jobs.errors import FruitsError
from spark_jobs.store.s3_errors import s3_errors_explained

GROUP = "fruits"
OWNERS = ["team:data-platform"]

MAX_RETRIES, FIRST_WAIT_SECONDS = 3, 30


def pipeline_asset(
    *,
    name: str,
    checks: Mapping[str, str] | None = None,
    blocking: Collection[str] = (),
    **definition: Any,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """`dagster.asset` with the group, owners, backfill policy and error handling of this project.

    `checks` maps the name of each check that the asset yields to its description. The failure of a check in
    `blocking` stops the assets that follow. `definition` goes to `dagster.asset`. One run materializes a
    whole range of classes; without that backfill policy, Dagster refuses `--partition-range`.
    """

    def decorate(function: Callable[..., Any]) -> dg.AssetsDefinition:
        assets_definition: dg.AssetsDefinition = dg.asset(
            name=name,
            group_name=GROUP,
            owners=OWNERS,
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
