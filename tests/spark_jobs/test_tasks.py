"""Spark tasks in Python workers, the division of work among them, and their progress."""

import random

import pytest
from pyspark.sql import SparkSession

from spark_jobs.tasks import Progress, even_tasks, spread


@pytest.mark.parametrize(("images", "tasks"), [(0, 0), (100, 2), (600, 4), (5_000, 8), (40_000, 20)])
def test_a_stage_has_up_to_four_even_tasks_a_core(spark: SparkSession, images: int, tasks: int) -> None:
    lists = even_tasks(spark, [1] * images, lambda piece: piece, least=128, most=2_000)
    assert len(lists) == tasks
    assert sum(map(len, lists)) == images
    assert max(map(len, lists), default=0) - min(map(len, lists), default=0) <= 1


@pytest.mark.parametrize("parts", [1, 2, 7, 64])
@pytest.mark.parametrize("seed", range(10))
def test_spread_keeps_the_order_and_fills_at_most_the_given_number_of_lists(parts: int, seed: int) -> None:
    generator = random.Random(seed)
    pieces = [generator.randint(1, 128) for _ in range(generator.randint(1, 100))]
    lists = spread(pieces, lambda piece: piece, parts)
    assert [piece for pieces_of_task in lists for piece in pieces_of_task] == pieces
    assert all(lists)
    assert len(lists) <= parts
    share = sum(pieces) / parts
    assert all(sum(pieces_of_task) < share + pieces_of_task[-1] for pieces_of_task in lists)


def test_equal_pieces_are_spread_evenly() -> None:
    assert spread([2] * 6, lambda piece: piece, 3) == [[2, 2]] * 3


@pytest.mark.parametrize(
    ("done", "total", "seconds", "text"),
    [
        (1024, 5928, 3.3, "raw_images: 1,024 of 5,928 images, 310 images/s, 16 s left"),
        (0, 5928, 2.0, "raw_images: 0 of 5,928 images"),
        (1, 3, 4.0, "raw_images: 1 of 3 images, 0.2 images/s, 8 s left"),
        (5928, 5928, 19.0, "raw_images: 5,928 of 5,928 images, 312 images/s"),
        (1, 1, 0.0, "raw_images: 1 of 1 image"),
    ],
    ids=["under way", "nothing done", "slow", "finished", "one image"],
)
def test_progress_shows_the_images_then_the_rate_and_the_time_left(
    done: int, total: int, seconds: float, text: str
) -> None:
    assert str(Progress(stage="raw_images", done=done, total=total, seconds=seconds)) == text
