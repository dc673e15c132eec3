"""Running one function over many pieces of work as Spark tasks, with progress and interruption."""

import gc
import re
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, groupby
from typing import Any, TypeVar
from zipimport import zipimporter

from py4j.protocol import Py4JJavaError
from pyspark.accumulators import AccumulatorParam
from pyspark.sql import SparkSession
from pyspark.util import InheritableThread

from spark_jobs.errors import FruitsError

Work = TypeVar("Work")
Result = TypeVar("Result")

POLL_SECONDS = 0.1
# Progress is told every two seconds, and in a long job every 20th of the time it has taken so far.
REPORT_SECONDS = 2.0
REPORT_SHARE = 20


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a stage is: images done, of how many, and the seconds since it began."""

    stage: str
    done: int
    total: int
    seconds: float

    def __str__(self) -> str:
        rate = self.done / self.seconds if self.seconds else 0.0
        left = f", {(self.total - self.done) / rate:,.0f} s left" if 0 < self.done < self.total else ""
        return f"{self.stage}: {self.done:,} of {self.total:,} images, {rate:,.0f} images/s{left}"


Reporter = Callable[[Progress], None]


def pack(pieces: Iterable[Work], weight: Callable[[Work], int], limit: int) -> list[list[Work]]:
    """Groups pieces, in their order, into lists whose weights add up to `limit` or a little less.

    A piece that alone weighs more than the limit stands alone.
    """
    packed: list[list[Work]] = []
    room = 0
    for piece in pieces:
        if not packed or weight(piece) > room:
            packed.append([])
            room = limit
        packed[-1].append(piece)
        room -= weight(piece)
    return packed


def spread(pieces: Sequence[Work], weight: Callable[[Work], int], parts: int) -> list[list[Work]]:
    """Cuts pieces, in their order, into at most `parts` lists of about the same weight, none of them empty.

    A list is heavier than an even share by less than its last piece. Weights are above 0.
    """
    *begins, total = accumulate(map(weight, pieces), initial=0)
    cuts = groupby(zip(begins, pieces, strict=True), key=lambda begun: begun[0] * parts // total)
    return [[piece for _, piece in cut] for _, cut in cuts]


def _task_error(stage: str, error: Py4JJavaError) -> FruitsError:
    """The error of a task that failed for good: the message of the task itself, without the JVM's trace."""
    message = str(error.java_exception.getMessage())
    trace = re.search(r"Traceback \(most recent call last\):\n(.*?)\n\n\s*at ", message, re.DOTALL)
    raised = re.split(r"\n(?=\S)", trace[1])[-1] if trace else message.partition("\n")[0]
    return FruitsError(f"{stage}: a Spark task failed: {raised}")


class _Sum(AccumulatorParam[int]):
    def zero(self, value: int) -> int:
        return 0

    def addInPlace(self, value1: int, value2: int) -> int:
        return value1 + value2


@lru_cache(maxsize=1)
def spare_next_tasks(stage: str) -> None:
    """Makes cheap what PySpark does between two tasks of a Python worker, once in each for a stage.

    It collects garbage, among all objects of all modules, and has the directories of pyspark.zip and of the
    code's archive read again for each package in them: 0.1 s a task together. Objects that outlive the first
    task are left out of later collections, and importers of archives are made anew when they are needed.
    """
    gc.collect()
    gc.freeze()
    for path, importer in list(sys.path_importer_cache.items()):
        if isinstance(importer, zipimporter):
            del sys.path_importer_cache[path]


def run_tasks(
    spark: SparkSession,
    stage: str,
    function: Callable[[Work], Result],
    work: Sequence[Work],
    images: Callable[[Work], int],
    report: Reporter,
    reduce: Callable[[Result, Result], Result] | None = None,
) -> list[Result]:
    """Runs `function` on every piece of work, one Spark task each; returns the results in order.

    With `reduce`, the results are combined as a tree of two levels, the upper one by the driver, to one.
    Progress counts `images(piece)` of every finished task. When the calling thread is interrupted,
    the Spark job is cancelled, its running tasks are killed, and the interruption goes on.

    Raises `FruitsError` when a task has failed for good.
    """
    if not work:
        return []
    context = spark.sparkContext
    done = context.accumulator(0, _Sum())
    total = sum(images(piece) for piece in work)
    group = f"{stage} {uuid.uuid4().hex[:8]}"
    outcome: dict[str, Any] = {}

    def run_one(piece: Work) -> Result:
        result = function(piece)
        done.add(images(piece))
        spare_next_tasks(stage)
        return result

    def run_job() -> None:
        # In a thread of its own, so that the calling thread stays free to report and to be interrupted.
        context.setJobGroup(group, f"{stage}, {total:,} images", interruptOnCancel=True)
        try:
            results = context.parallelize(work, len(work)).map(run_one)
            outcome["results"] = results.collect() if reduce is None else [results.treeReduce(reduce)]
        except BaseException as error:
            outcome["error"] = error

    started = time.monotonic()
    reported = started
    thread = InheritableThread(target=run_job, name=group, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            now = time.monotonic()
            if now - reported >= max(REPORT_SECONDS, (now - started) / REPORT_SHARE):
                report(Progress(stage=stage, done=done.value, total=total, seconds=now - started))
                reported = now
    except BaseException:
        context.cancelJobGroup(group)
        thread.join(10)
        raise
    if "error" in outcome:
        error = outcome["error"]
        raise (_task_error(stage, error) if isinstance(error, Py4JJavaError) else error) from error
    report(Progress(stage=stage, done=total, total=total, seconds=time.monotonic() - started))
    return outcome["results"]
