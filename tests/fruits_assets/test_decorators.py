"""How a `FruitsError` of an asset ends or repeats its step."""

from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import pytest

from fruits_assets.decorators import MAX_RETRIES, errors_end_the_step
from spark_jobs.errors import FruitsError

SENTENCE = "AWS has no room for it."


def run_asset(fail: Callable[[], None], generator: bool) -> dg.ExecuteInProcessResult:
    """Materializes an asset that calls `fail`, as a plain function or as a generator."""

    def photos(context: dg.AssetExecutionContext) -> None:
        fail()

    def generate(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any]]:
        fail()
        yield dg.MaterializeResult()

    asset = dg.asset(name="photos")(errors_end_the_step(generate if generator else photos))
    return dg.materialize([asset], raise_on_error=False)


@pytest.mark.parametrize("generator", [False, True])
@pytest.mark.parametrize(("retry_helps", "attempts"), [(True, 1 + MAX_RETRIES), (False, 1)])
def test_a_step_fails_with_the_sentence_after_its_last_attempt(
    monkeypatch: pytest.MonkeyPatch, retry_helps: bool, attempts: int, generator: bool
) -> None:
    calls = []

    def fail() -> None:
        calls.append(1)
        raise FruitsError(SENTENCE, retry_helps)

    monkeypatch.setattr("fruits_assets.decorators.FIRST_WAIT_SECONDS", 0)
    result = run_asset(fail, generator)
    [failure] = [event for event in result.all_events if event.is_step_failure]
    reason = failure.step_failure_data.user_failure_data
    assert reason is not None
    assert reason.description == SENTENCE
    assert len(calls) == attempts


@pytest.mark.parametrize("generator", [False, True])
def test_a_step_succeeds_when_a_retry_does(monkeypatch: pytest.MonkeyPatch, generator: bool) -> None:
    calls = []

    def fail_once() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise FruitsError(SENTENCE, retry_helps=True)

    monkeypatch.setattr("fruits_assets.decorators.FIRST_WAIT_SECONDS", 0)
    assert run_asset(fail_once, generator).success
    assert len(calls) == 2
