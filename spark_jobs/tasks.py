"""Runs a function over many pieces of work as Spark tasks, with reports of progress and cancellation."""

import re
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import TypeVar

from py4j.protocol import Py4JJavaError
from pyspark.accumulators import AccumulatorParam
from pyspark.sql import SparkSession
from pyspark.util import InheritableThread

from spark_jobs.dimensions import TASKS_PER_CORE
from spark_jobs.errors import FruitsError
from spark_jobs.store.s3_errors import explained
from spark_jobs.wording import counted

Work = TypeVar("Work")
Result = TypeVar("Result")

POLL_SECONDS = 0.1
# Progress is reported every two seconds, and in a long job after each further 20th of its time so far.
REPORT_SECONDS = 2.0
REPORT_SHARE = 20
# After so long without a finished task, a report names the photos in hand.
STILL_SECONDS = 60.0
SHOWN_IN_HAND = 5


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The progress of a stage: images done, images in all, and the seconds since its start.

    `in_hand` are photos that workers have read or decoded for long, if the stage stands still.
    """

    stage: str
    done: int
    total: int
    seconds: float
    in_hand: Sequence[str] = ()

    def __str__(self) -> str:
        text = f"{self.stage}: {self.done:,} of {counted(self.total, 'image', 'images')}"
        if self.in_hand:
            names = ", ".join(map(repr, self.in_hand[:SHOWN_IN_HAND]))
            more = ", ..." if len(self.in_hand) > SHOWN_IN_HAND else ""
            return f"{text}; it has not moved for a minute. In hand for long: {names}{more}"
        if not (self.done and self.seconds):
            return text
        rate = self.done / self.seconds
        text += f", {rate:,.{0 if rate >= 10 else 1}f} images/s"
        return text if self.done == self.total else f"{text}, {(self.total - self.done) / rate:,.0f} s left"


Reporter = Callable[[Progress], None]


def pack(pieces: Iterable[Work], weight: Callable[[Work], int], limit: int) -> list[list[Work]]:
    """Groups pieces, in their order, into lists whose weights add up to at most `limit`.

    A piece that weighs more than the limit gets a list of its own.
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
    """Cuts pieces, in their order, into at most `parts` lists of about the same weight. No list is empty.

    A list exceeds an even share by less than the weight of its last piece. All weights must be above 0.
    """
    *begins, total = accumulate(map(weight, pieces), initial=0)
    cuts = groupby(zip(begins, pieces, strict=True), key=lambda begun: begun[0] * parts // total)
    return [[piece for _, piece in cut] for _, cut in cuts]


def even_tasks(
    spark: SparkSession, pieces: Sequence[Work], weight: Callable[[Work], int], *, least: int, most: int
) -> list[list[Work]]:
    """Cuts pieces into even tasks, up to four a core, that weigh at least `least`, and at most about `most`.

    With fewer tasks, a core is idle while another core finishes the last task. PySpark spends 0.1 s between
    two tasks of a Python worker, so a short stage has one task a core.
    """
    total, cores = sum(map(weight, pieces)), spark.sparkContext.defaultParallelism
    per_core = min(TASKS_PER_CORE, max(1, total // (cores * least)))
    return spread(pieces, weight, max(cores * per_core, total // most))


def _task_error(asset: str, error: Py4JJavaError) -> FruitsError:
    """The error that the failed task itself raised, without the trace of the JVM."""
    message = str(error.java_exception.getMessage())
    trace = re.search(r"Traceback \(most recent call last\):\n(.*?)\n\n\s*at ", message, re.DOTALL)
    raised = re.split(r"\n(?=\S)", trace[1])[-1] if trace else message.partition("\n")[0]
    return explained(raised) or FruitsError(f"{asset}: a Spark task failed: {raised}")


class _Sum(AccumulatorParam[int]):
    def zero(self, value: int) -> int:
        return 0

    def addInPlace(self, value1: int, value2: int) -> int:
        return value1 + value2


def run_tasks(
    spark: SparkSession,
    stage: str,
    function: Callable[[Work], Result],
    *,
    work: Sequence[Work],
    images: Callable[[Work], int],
    report: Reporter,
    reduce: Callable[[Result, Result], Result] | None = None,
    in_hand: Callable[[], Sequence[str]] = tuple,
) -> list[Result]:
    """Runs `function` on every piece of work, in one Spark task each; returns the results in order.

    `stage` is the asset, a colon, and what the tasks do, as in `raw_images: ingest, 3 classes`. Spark's UI
    shows all of it; progress and errors begin with the asset.

    With `reduce`, the executors combine the results of their tasks, and the driver combines the rest: the
    list that is returned holds one result (`RDD.treeReduce`).

    Progress counts `images(piece)` of every finished task; a stage without images reports none. After a
    minute without a finished task, it names the photos that `in_hand` returns. When the
    calling thread is interrupted, the Spark job is cancelled, its running tasks are killed, and the
    interruption is raised again.

    Raises `FruitsError` when a task has failed as often as Spark allows.
    """
    if not work:
        return []
    context = spark.sparkContext
    done = context.accumulator(0, _Sum())
    total = sum(images(piece) for piece in work)
    asset = stage.partition(":")[0]
    group = f"{stage} {uuid.uuid4().hex[:8]}"
    started = time.monotonic()

    def run_one(piece: Work) -> Result:
        result = function(piece)
        done.add(images(piece))
        return result

    def run_job() -> list[Result]:
        context.setJobGroup(group, f"{stage}, {counted(total, 'image', 'images')}", interruptOnCancel=True)
        results = context.parallelize(work, len(work)).map(run_one)
        return results.collect() if reduce is None else [results.treeReduce(reduce)]

    moved = (0, started)

    def report_progress(images_done: int) -> None:
        nonlocal moved
        if not total:
            return
        now = time.monotonic()
        if images_done != moved[0]:
            moved = images_done, now
        names = in_hand() if now - moved[1] >= STILL_SECONDS else ()
        report(Progress(stage=asset, done=images_done, total=total, seconds=now - started, in_hand=names))

    outcome = _run_in_thread(group, run_job)
    try:
        _report_until_done(outcome, lambda: report_progress(done.value))
    except BaseException:
        context.cancelJobGroup(group)
        wait([outcome], timeout=10)
        raise
    try:
        results = outcome.result()
    except Py4JJavaError as error:
        raise _task_error(asset, error) from error
    report_progress(total)
    return results


def _run_in_thread(name: str, job: Callable[[], Result]) -> Future[Result]:
    """Starts the job in its own thread, so that the calling thread can report progress and be interrupted."""
    outcome: Future[Result] = Future()

    def run() -> None:
        try:
            outcome.set_result(job())
        except BaseException as error:
            outcome.set_exception(error)

    InheritableThread(target=run, name=name, daemon=True).start()
    return outcome


def _report_until_done(outcome: Future[Result], report_progress: Callable[[], None]) -> None:
    """Waits for the outcome, and reports progress at the intervals set above."""
    started = reported = time.monotonic()
    while not outcome.done():
        wait([outcome], timeout=POLL_SECONDS)
        now = time.monotonic()
        if now - reported >= max(REPORT_SECONDS, (now - started) / REPORT_SHARE):
            report_progress()
            reported = now
