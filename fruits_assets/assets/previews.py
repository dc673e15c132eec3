"""Pictures for the metadata of materializations, each small enough for an event log."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Three plots and the figures of one event stay below 30 KB.
PLOT_BYTES = 7_000
BARS = 40


def embed(base64_image: str, kind: str = "jpeg") -> dg.MarkdownMetadataValue:
    """An image, as base64, inside Markdown that Dagster's UI shows."""
    return dg.MetadataValue.md(f"![preview](data:image/{kind};base64,{base64_image})")


def class_counts(images_by_class: Mapping[str, int]) -> dg.MarkdownMetadataValue:
    """Images of each class as bars; beyond 40 classes, the smallest 20 and the largest 20."""
    counts = sorted(images_by_class.items(), key=lambda item: -item[1])
    if len(counts) > BARS:
        counts = counts[: BARS // 2] + counts[-BARS // 2 :]
    figure = _figure(height=0.6 + 0.13 * len(counts))
    axes = figure.add_subplot()
    axes.barh([_short(label) for label, _ in counts], [count for _, count in counts], color="#4c956c")
    axes.invert_yaxis()
    axes.tick_params(labelsize=6)
    axes.set_title(f"images of each class ({len(images_by_class):,} classes)", fontsize=8)
    return _embed_figure(figure)


def scree(explained_variance: Sequence[float]) -> dg.MarkdownMetadataValue:
    """Each component's share of the variance, and the cumulative share."""
    figure = _figure(height=2.6)
    axes = figure.add_subplot()
    numbers = np.arange(1, len(explained_variance) + 1)
    axes.bar(numbers, explained_variance, color="#4c956c", label="component")
    axes.plot(numbers, np.cumsum(explained_variance), color="#bc4749", marker=".", label="cumulative")
    axes.set_xlabel("component", fontsize=7)
    axes.set_title("explained variance", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=7)
    return _embed_figure(figure)


def scatter(points: Mapping[str, Sequence[Sequence[float]]]) -> dg.MarkdownMetadataValue:
    """pc1 against pc2, one colour a class; a legend where there are few enough to tell apart."""
    figure = _figure(height=3.2)
    axes = figure.add_subplot()
    colours = figure_colours(len(points))
    for colour, (label, of_class) in zip(colours, points.items(), strict=True):
        x, y = np.asarray(of_class, float).reshape(len(of_class), -1)[:, :2].T
        axes.scatter(x, y, s=4, color=colour, label=_short(label), linewidths=0, antialiased=False)
    axes.set_xlabel("pc1", fontsize=7)
    axes.set_ylabel("pc2", fontsize=7)
    axes.tick_params(labelsize=7)
    if len(points) <= 12:
        axes.legend(fontsize=6, markerscale=3)
    axes.set_title(f"a sample of {sum(map(len, points.values())):,} images", fontsize=8)
    return _embed_figure(figure)


def accuracy_by_components(
    nearest_neighbour: Mapping[int, float], linear_probe: Mapping[int, float], current: int
) -> dg.MarkdownMetadataValue:
    """Accuracy against the number of components, with the model's own number marked."""
    figure = _figure(height=2.6)
    axes = figure.add_subplot()
    axes.plot(list(nearest_neighbour), list(nearest_neighbour.values()), marker=".", color="#4c956c")
    axes.plot(list(linear_probe), list(linear_probe.values()), marker=".", color="#bc4749")
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
    """The most frequent confusions as bars: true class, what it was taken for, images."""
    figure = _figure(height=0.7 + 0.17 * len(pairs))
    axes = figure.add_subplot()
    names = [f"{_short(true)} → {_short(taken)}" for true, taken, _ in pairs]
    axes.barh(range(len(pairs)), [count for *_, count in pairs], color="#bc4749")
    axes.set_yticks(range(len(pairs)), names)
    axes.invert_yaxis()
    axes.tick_params(labelsize=6)
    axes.set_title("most frequent confusions (held-out images)", fontsize=8)
    return _embed_figure(figure)


def figure_colours(count: int) -> list[tuple[float, float, float, float]]:
    """Colours that differ as much as `count` colours can."""
    from matplotlib import colormaps

    name = "tab20" if count <= 20 else "hsv"
    return [colormaps[name](index / max(count, 20)) for index in range(count)]


def _figure(height: float) -> "Figure":
    # The Figure class, not pyplot: it has no window system and no global state.
    from matplotlib.figure import Figure

    return Figure(figsize=(5.2, height), layout="constrained")


def _embed_figure(figure: "Figure") -> dg.MarkdownMetadataValue:
    from PIL import Image

    content = b""
    for dpi, colours in ((100, 64), (100, 32), (90, 24), (75, 16), (60, 8)):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi)
        # A plot has few colours: with a palette, and as WebP, it is five times smaller than as PNG.
        image = Image.open(buffer).convert("RGB").quantize(colours, dither=Image.Dither.NONE)
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "WEBP", lossless=True, quality=80, method=4)
        content = buffer.getvalue()
        if len(content) <= PLOT_BYTES:
            break
    return embed(base64.b64encode(content).decode(), "webp")


def _short(label: str) -> str:
    # A dollar would start mathematics in matplotlib.
    return (label if len(label) <= 24 else f"{label[:23]}…").replace("$", r"\$")
