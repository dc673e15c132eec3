"""The plots in the metadata of materializations: the size of the largest, and what they draw."""

import base64
import io
import string

import dagster as dg
import numpy as np
import pytest
from PIL import Image

from fruits_assets.plots import class_counts, scatter, scree
from spark_jobs.dimensions import FEATURES
from tests.fruits_assets.dagster_platform import MAX_EVENT_BYTES

# The other metadata of an event, with its tags.
OTHER_BYTES = 1_000


def size(*plots: dg.MarkdownMetadataValue) -> int:
    return sum(len(str(plot.value)) for plot in plots)


def test_the_plots_of_hundreds_of_classes_fit_into_one_event() -> None:
    names = [f"a class with quite a long name, number {number}" for number in range(300)]
    values = np.random.default_rng(0).normal(size=(60, 20, 2))
    plots = [
        class_counts({name: 50 + index for index, name in enumerate(names)}),
        scree(np.linspace(1, 0, 400).tolist()),
        scatter(dict(zip(names, values.tolist(), strict=False))),
    ]
    assert size(*plots) < MAX_EVENT_BYTES - OTHER_BYTES


@pytest.mark.parametrize("components", [15, FEATURES])
def test_plots_of_long_random_names_and_counts_fit_into_one_event(components: int) -> None:
    """Random letters compress worst. `fit_pca` samples up to 60 classes, of up to 19 points each."""
    random = np.random.default_rng(0)
    names = ["".join(random.choice(list(string.ascii_letters), 24)) for _ in range(300)]
    variances = np.exp(-3 * np.arange(components) / components)
    plots = [
        class_counts({name: int(random.integers(20, 1000)) for name in names}),
        scree((variances / variances.sum()).tolist()),
        scatter({name: random.normal(size=(19, 2)).tolist() for name in names[:60]}),
    ]
    assert size(*plots) < MAX_EVENT_BYTES - OTHER_BYTES


def test_classes_whose_shortened_names_are_equal_have_a_bar_each() -> None:
    def bars(plot: dg.MarkdownMetadataValue) -> int:
        content = base64.b64decode(str(plot.value).partition("base64,")[2].rstrip(")"))
        image = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), int)
        green = (image[..., 1] - image[..., 0] > 40).any(axis=1)
        return int(np.count_nonzero(np.diff(green.astype(int)) == 1))

    same_start = "a class with a name of more than 24 letters"
    assert bars(class_counts({f"{same_start} {number}": 10 for number in range(5)})) == 5
