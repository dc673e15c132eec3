"""The plots in the metadata of materializations: the size of the largest, and what they draw."""

import base64
import io
import string

import dagster as dg
import numpy as np
import pytest
from PIL import Image

from fruits_assets.plots import class_counts, embed_preview, fenced, scatter, scree
from spark_jobs.dimensions import FEATURES
from spark_jobs.photos.images import thumbnails
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


# What nodes of a cluster made.


def test_a_preview_of_thumbnails_is_shown_as_it_is() -> None:
    jpeg = thumbnails([Image.new("RGB", (200, 50), (9, 80, 7))] * 6)
    shown = embed_preview(base64.b64encode(jpeg).decode())
    assert shown is not None
    head, _, content = str(shown.value).partition("base64,")
    assert head == "![preview](data:image/jpeg;"
    assert base64.b64decode(content.removesuffix(")"), validate=True) == jpeg


@pytest.mark.parametrize(
    "text",
    [
        # Closes the Markdown of the picture, and adds one from elsewhere and a link.
        "x) ![](https://evil.example/beacon.png) [click](https://evil.example",
        base64.b64encode(b"\xff\xd8\xff").decode() + ") ![](https://evil.example/beacon.png",
        base64.b64encode(b"<svg onload=alert(1)>").decode(),
        base64.b64encode(b"\xff\xd8\xff" + bytes(10_000)).decode(),
        "é",
    ],
)
def test_a_preview_that_is_no_small_jpeg_is_not_shown(text: str) -> None:
    assert embed_preview(text) is None


@pytest.mark.parametrize("ticks", ["```", "````", "`" * 40])
def test_no_line_closes_its_fence(ticks: str) -> None:
    """A fence ends at a line of at least as many backticks: https://spec.commonmark.org/0.31.2/#example-124"""
    text = f"path,label\n{ticks}\n![](https://evil.example/beacon.png)\x1b\u202e"
    first, *lines, last = str(fenced(text).value).split("\n")
    assert first == last == "`" * (len(ticks) + 1)
    assert lines == ["path,label", ticks, r"![](https://evil.example/beacon.png)\x1b\u202e"]
