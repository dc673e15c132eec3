"""Plots for the metadata of materializations, as images in Markdown.

Dagster stores metadata in its event log. Three plots and the figures of one event must stay below 30 KB, so
all plots have one low resolution and one small palette.
"""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np

from spark_jobs.ingest_images import PREVIEW_IMAGES
from spark_jobs.wording import counted, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# tests/fruits_assets/test_plots.py draws the largest plots of one event: 28.4 KB with these values.
_DOTS_PER_INCH = 85
_PALETTE_COLOURS = 24

_MAX_BARS = 40
_MAX_LEGEND_ENTRIES = 12
_LONG_LABEL = 40  # for names of runs

# The first bytes of a JPEG, and more than `thumbnails` makes.
_JPEG, _PREVIEW_BYTES = b"\xff\xd8\xff", 1024 * PREVIEW_IMAGES

_GREEN, _RED = "#4c956c", "#bc4749"


def embed_image(base64_image: str, kind: str) -> dg.MarkdownMetadataValue:
    """Markdown that shows an image in Dagster's UI: base64 of a file whose MIME type is `image/<kind>`."""
    return dg.MetadataValue.md(f"![preview](data:image/{kind};base64,{base64_image})")


def embed_preview(base64_jpeg: str) -> dg.MarkdownMetadataValue | None:
    """Markdown that shows the preview of a class, which a node of a cluster made.

    Text that is no base64 of a JPEG could be Markdown of its own: a link, or a picture from elsewhere. It
    gives None, and so does a JPEG larger than any preview.
    """
    try:
        content = base64.b64decode(base64_jpeg, validate=True)
    except ValueError:
        return None
    if not content.startswith(_JPEG) or len(content) > _PREVIEW_BYTES:
        return None
    return embed_image(base64.b64encode(content).decode(), "jpeg")


def fenced(text: str) -> dg.MarkdownMetadataValue:
    """Markdown that shows lines as they are, in a fence that no run of backticks in them closes.

    https://spec.commonmark.org/0.31.2/#fenced-code-blocks
    """
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return dg.MetadataValue.md(f"{fence}\n{visible(text)}\n{fence}")


def class_counts(images_by_class: Mapping[str, int]) -> dg.MarkdownMetadataValue:
    """Images of each class: a bar for each of up to 40 classes, else a curve over the sorted classes."""
    counts = sorted(images_by_class.items(), key=lambda item: -item[1])
    if len(counts) > _MAX_BARS:
        return _count_curve(counts)
    figure = _figure(height=0.6 + 0.13 * len(counts))
    axes = figure.add_subplot()
    _draw_bars(axes, [_shorten(label) for label, _ in counts], [count for _, count in counts], color=_GREEN)
    axes.set_title(f"images of each class ({counted(len(counts), 'class', 'classes')})", fontsize=8)
    return _embed_figure(figure)


def _count_curve(counts: Sequence[tuple[str, int]]) -> dg.MarkdownMetadataValue:
    """The number of images by the rank of the class, with the names of the largest and smallest classes."""
    figure = _figure(height=2.6)
    axes = figure.add_subplot()
    ranks = np.arange(1, len(counts) + 1)
    numbers = [count for _, count in counts]
    axes.fill_between(ranks, numbers, color=_GREEN, linewidth=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("classes, from the largest to the smallest", fontsize=7)
    axes.tick_params(labelsize=7)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,.0f}")
    ends = [f"{_shorten(label)} {count:,}" for label, count in (counts[0], counts[-1])]
    axes.set_title(f"images of {len(counts):,} classes: {ends[0]} to {ends[1]}", fontsize=8)
    return _embed_figure(figure)


def scree(explained_variance: Sequence[float]) -> dg.MarkdownMetadataValue:
    """The share of the variance that each component explains, and the cumulative share."""
    figure = _figure(height=2.6)
    axes = figure.add_subplot()
    numbers = np.arange(1, len(explained_variance) + 1)
    axes.bar(numbers, explained_variance, color=_GREEN, label="component")
    axes.plot(numbers, np.cumsum(explained_variance), color=_RED, marker=".", label="cumulative")
    axes.set_xlabel("component", fontsize=7)
    axes.set_title("explained variance", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=7)
    return _embed_figure(figure)


def scatter(points: Mapping[str, Sequence[Sequence[float]]]) -> dg.MarkdownMetadataValue:
    """pc1 against pc2, from {class: [(pc1, pc2), ...]}. Up to 12 classes get a legend."""
    figure = _figure(height=3.2)
    axes = figure.add_subplot()
    for colour, (label, class_points) in zip(_colours(len(points)), points.items(), strict=True):
        x, y = np.asarray(class_points, float).reshape(len(class_points), -1)[:, :2].T
        axes.scatter(x, y, s=4, color=colour, label=_shorten(label), linewidths=0, antialiased=False)
    axes.set_xlabel("pc1", fontsize=7)
    axes.set_ylabel("pc2", fontsize=7)
    axes.tick_params(labelsize=7)
    if len(points) <= _MAX_LEGEND_ENTRIES:
        axes.legend(fontsize=6, markerscale=3)
    axes.set_title(f"a sample of {sum(map(len, points.values())):,} images", fontsize=8)
    return _embed_figure(figure)


def accuracy_by_components(
    nearest_neighbour: Mapping[int, float], linear_probe: Mapping[int, float], current: int
) -> dg.MarkdownMetadataValue:
    """Accuracy (0 to 1) by number of components. A dotted line marks `current`, the model's number."""
    figure = _figure(height=2.6)
    axes = figure.add_subplot()
    axes.plot(list(nearest_neighbour), list(nearest_neighbour.values()), marker=".", color=_GREEN)
    axes.plot(list(linear_probe), list(linear_probe.values()), marker=".", color=_RED)
    axes.axvline(current, color="grey", linestyle=":")
    axes.set_xscale("log")
    axes.set_xticks(list(nearest_neighbour), [f"{number:,}" for number in nearest_neighbour], minor=False)
    axes.minorticks_off()
    axes.set_xlabel("components", fontsize=7)
    axes.set_title("accuracy on held-out images", fontsize=8)
    axes.tick_params(labelsize=6)
    axes.legend(["1-nearest-neighbour", "linear probe", f"the model: {current}"], fontsize=7)
    return _embed_figure(figure)


def confusions(pairs: Sequence[tuple[str, str, int]]) -> dg.MarkdownMetadataValue:
    """The most frequent confusions, as bars: (true class, predicted class, number of images)."""
    figure = _figure(height=0.7 + 0.17 * len(pairs))
    axes = figure.add_subplot()
    names = [f"{_shorten(true)} → {_shorten(predicted)}" for true, predicted, _ in pairs]
    _draw_bars(axes, names, [count for *_, count in pairs], color=_RED)
    axes.set_title("most frequent confusions (held-out images)", fontsize=8)
    return _embed_figure(figure)


def stage_times(
    seconds: Mapping[str, Mapping[str, float]], stages: Sequence[str]
) -> dg.MarkdownMetadataValue:
    """Seconds for 1,000 images, from {run: {stage: seconds}}. Each run is a bar, each stage a colour."""
    figure = _figure(height=1.0 + 0.17 * len(seconds))
    axes = figure.add_subplot()
    positions = np.arange(len(seconds))
    left = np.zeros(len(seconds))
    for stage, colour in zip(stages, _colours(len(stages)), strict=True):
        widths = np.array([run_seconds.get(stage, 0.0) for run_seconds in seconds.values()])
        axes.barh(positions, widths, left=left, color=colour, label=stage)
        left += widths
    axes.set_yticks(positions, [_shorten(name, _LONG_LABEL) for name in seconds])
    axes.invert_yaxis()
    axes.tick_params(labelsize=6)
    axes.legend(fontsize=6)
    axes.set_title("seconds for 1,000 images, by stage", fontsize=8)
    return _embed_figure(figure)


def throughput(points: Mapping[str, Sequence[tuple[int, float]]]) -> dg.MarkdownMetadataValue:
    """Images a second by number of images, from {environment: [(images, rate), ...]}."""
    from matplotlib.ticker import LogLocator

    figure = _figure(height=2.8)
    axes = figure.add_subplot()
    for colour, (environment, runs) in zip(_colours(len(points)), points.items(), strict=True):
        images, rates = zip(*runs, strict=True)
        axes.scatter(images, rates, s=18, color=colour, label=_shorten(environment, _LONG_LABEL))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("images", fontsize=7)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=6)
    axes.set_title("images a second, all stages", fontsize=8)
    return _embed_figure(figure)


def costs(
    compute: Mapping[str, float | None], storage: Mapping[str, float | None]
) -> dg.MarkdownMetadataValue:
    """USD for 1,000 images, from {run: USD}, compute beside storage. An unknown cost has no bar."""
    figure = _figure(height=0.9 + 0.17 * len(compute))
    panels = figure.subplots(1, 2, sharey=True)
    titles = ("compute, during steps", "storage, a month")
    for axes, title, by_run in zip(panels, titles, (compute, storage), strict=True):
        positions = np.arange(len(by_run))
        axes.barh(positions, [cost or 0.0 for cost in by_run.values()], color=_GREEN)
        for position, cost in zip(positions, by_run.values(), strict=True):
            if cost is None:
                axes.text(0, position, " unknown", fontsize=5, verticalalignment="center")
        axes.set_yticks(positions, [_shorten(name, _LONG_LABEL) for name in by_run])
        axes.tick_params(labelsize=6)
        axes.locator_params(axis="x", nbins=4)
        axes.xaxis.get_offset_text().set_fontsize(6)
        axes.set_title(title, fontsize=7)
    panels[0].invert_yaxis()
    figure.suptitle("USD for 1,000 images", fontsize=8)
    return _embed_figure(figure)


def _draw_bars(axes: "Axes", names: Sequence[str], values: Sequence[int], *, color: str) -> None:
    """Draws horizontal bars, the first at the top. Equal names stay separate bars."""
    positions = range(len(names))
    axes.barh(positions, values, color=color)
    axes.set_yticks(positions, names)
    axes.invert_yaxis()
    axes.tick_params(labelsize=6)


def _colours(count: int) -> list[tuple[float, float, float, float]]:
    """`count` distinct colours, as RGBA from 0 to 1."""
    from matplotlib import colormaps

    name = "tab20" if count <= 20 else "hsv"
    return [colormaps[name](index / max(count, 20)) for index in range(count)]


def _figure(height: float) -> "Figure":
    """An empty figure, 5.2 inches wide and `height` inches high."""
    # Figure instead of pyplot, which needs a window system and keeps global state.
    from matplotlib.figure import Figure

    return Figure(figsize=(5.2, height), layout="constrained")


def _embed_figure(figure: "Figure") -> dg.MarkdownMetadataValue:
    from PIL import Image

    png, webp = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=_DOTS_PER_INCH)
    # A plot has few colours: as WebP with a palette, it is five times smaller than as PNG.
    image = Image.open(png).convert("RGB")
    image = image.quantize(_PALETTE_COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    image.convert("RGB").save(webp, "WEBP", lossless=True, quality=80, method=4)
    return embed_image(base64.b64encode(webp.getvalue()).decode(), "webp")


def _shorten(label: str, length: int = 24) -> str:
    # matplotlib reads the text between two dollar signs as mathematics.
    return (label if len(label) <= length else f"{label[: length - 1]}…").replace("$", r"\$")
