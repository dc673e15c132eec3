"""`model_input`: the numbers that MobileNetV2 receives for a picture."""

import numpy as np
import pytest
from PIL import Image

from spark_jobs.dimensions import IMAGE_SIDE
from spark_jobs.photos.model_input import model_input
from tests.spark_jobs.support import noise


def test_the_model_input_is_bit_identical_to_the_formula() -> None:
    resized = noise().resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BICUBIC)
    expected = np.asarray(resized, np.float32) / 127.5 - 1
    actual = model_input(noise())
    assert actual.dtype == expected.dtype == np.float32
    assert actual.tobytes() == expected.tobytes()


def test_the_model_input_is_bit_identical_to_keras() -> None:
    from keras.applications.mobilenet_v2 import preprocess_input

    # Every byte value occurs. The picture already has the model's size, so no resize changes a value.
    levels = np.resize(np.arange(256, dtype=np.uint8), (IMAGE_SIDE, IMAGE_SIDE, 3))
    expected = preprocess_input(levels.astype(np.float32))
    assert model_input(Image.fromarray(levels)).tobytes() == expected.tobytes()


def test_the_model_input_fills_one_row_of_a_batch() -> None:
    batch = np.full((3, IMAGE_SIDE, IMAGE_SIDE, 3), 9, np.float32)
    model_input(noise(), out=batch[1])
    assert np.array_equal(batch[1], model_input(noise()))
    assert (batch[[0, 2]] == 9).all()


@pytest.mark.parametrize(
    "out",
    [np.empty((2, IMAGE_SIDE, IMAGE_SIDE, 3), np.float32), np.empty((IMAGE_SIDE, IMAGE_SIDE, 3), np.float16)],
    ids=["shape", "dtype"],
)
def test_a_row_of_another_shape_or_dtype_is_refused(out: np.ndarray) -> None:
    with pytest.raises(ValueError, match="not float32"):
        model_input(noise(), out=out)


def test_a_picture_that_is_not_rgb_is_refused() -> None:
    with pytest.raises(ValueError, match="not RGB"):
        model_input(Image.new("L", (9, 9)))


def test_a_photo_of_any_shape_becomes_a_square_of_224_pixels() -> None:
    assert model_input(noise((1, 900))).shape == (IMAGE_SIDE, IMAGE_SIDE, 3)
