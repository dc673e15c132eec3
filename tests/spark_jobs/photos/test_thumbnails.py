"""`thumbnails`: the preview of a class in Dagster's UI."""

import io

import numpy as np
import pytest
from PIL import Image

from spark_jobs.ingest_images import PREVIEW_IMAGES
from spark_jobs.photos.images import thumbnails
from tests.spark_jobs.support import noise


@pytest.mark.parametrize("count", [1, 2, 8])
@pytest.mark.parametrize("side", [48, 500])
def test_thumbnails_are_one_row_of_at_most_a_kibibyte_per_picture(count: int, side: int) -> None:
    content = thumbnails([noise((side, side), seed) for seed in range(count)])
    sheet = Image.open(io.BytesIO(content))
    assert (sheet.format, sheet.size) == ("JPEG", (48 * count, 48))
    assert len(content) <= 1024 * count


def test_a_preview_of_noisy_photos_takes_at_most_6_kibibytes_of_an_event() -> None:
    assert PREVIEW_IMAGES == 6
    preview = thumbnails([noise((96, 96), seed) for seed in range(PREVIEW_IMAGES)])
    assert len(preview) <= 6 * 1024


def test_a_thumbnail_keeps_the_proportions_of_its_photo() -> None:
    content = thumbnails([Image.new("RGB", (200, 50), (0, 0, 0)), Image.new("RGB", (1, 9000), (0, 0, 0))])
    greys = np.asarray(Image.open(io.BytesIO(content)).convert("L"))
    assert greys[24, 4:44].max() < 60 and greys[4, 4:44].min() > 200 and greys[44, 4:44].min() > 200
    # The second photo is one column wide, in the middle of its square.
    assert greys[24, 52:66].min() > 200 and greys[24, 78:92].min() > 200


def test_without_photos_the_preview_is_empty() -> None:
    assert thumbnails([]) == b""
