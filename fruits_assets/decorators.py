"""What the definitions of all assets share: group, owners, backfill policy, and how an error ends a step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import isgeneratorfunction
from typing import Any

import dagster as dg

from fruits_assets.partitions import fruit_classes
from spark_jobs.errors import FruitsError

GROUP = "fruits"
OWNERS = ["team:data-platform"]

MAX_RETRIES, FIRST_WAIT_SECONDS = 3, 30


def pipeline_asset(**definition: Any) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """`dagster.asset` with the group, the owners, the backfill policy and the errors of this project.

    One run takes a whole range of classes; without that policy, `--partition-range` is refused.
    """

    def decorate(function: Callable[..., Any]) -> dg.AssetsDefinition:
        return dg.asset(
            group_name=GROUP,
            owners=OWNERS,
            backfill_policy=dg.BackfillPolicy.single_run(),
            **definition,
        )(errors_end_the_step(function))

    return decorate


def class_asset(**definition: Any) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """A `pipeline_asset` with one partition for each fruit class."""
    return pipeline_asset(partitions_def=fruit_classes, **definition)


def errors_end_the_step(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of an asset, of which a `FruitsError` ends the step with its sentence, or repeats it.

    Dagster shows the sentence alone, and repeats the step up to 3 times, after 30, 60 and 120 seconds, where
    the error says that a retry helps.
    """
    if isgeneratorfunction(function):

        @wraps(function)
        def generate(context: dg.AssetExecutionContext, *args: Any, **resources: Any) -> Iterator[Any]:
            with _errors_told_to_dagster(context):
                yield from function(context, *args, **resources)

        return generate

    @wraps(function)
    def call(context: dg.AssetExecutionContext, *args: Any, **resources: Any) -> Any:
        with _errors_told_to_dagster(context):
            return function(context, *args, **resources)

    return call


@contextmanager
def _errors_told_to_dagster(context: dg.AssetExecutionContext) -> Iterator[None]:
    try:
        yield
    except FruitsError as error:
        if error.retry_helps and context.retry_number < MAX_RETRIES:
            wait = FIRST_WAIT_SECONDS * 2**context.retry_number
            context.log.warning(f"{error} Dagster tries again in {wait} s, {MAX_RETRIES} times at most.")
            raise dg.RetryRequested(MAX_RETRIES, seconds_to_wait=wait) from error
        raise dg.Failure(str(error), allow_retries=False) from error.__cause__
