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


def stage_times(
    seconds: Mapping[str, Mapping[str, float]], stages: Sequence[str]
) -> dg.MarkdownMetadataValue:
    """Seconds for 1,000 images by run and stage, as one bar a run."""
    figure = _figure(height=1.0 + 0.17 * len(seconds))
    axes = figure.add_subplot()
    positions = np.arange(len(seconds))
    left = np.zeros(len(seconds))
    for stage, colour in zip(stages, figure_colours(len(stages)), strict=True):
        widths = np.array([of_run.get(stage, 0.0) for of_run in seconds.values()])
        axes.barh(positions, widths, left=left, color=colour, label=stage)
        left += widths
    axes.set_yticks(positions, [_short(name, 40) for name in seconds])
    axes.invert_yaxis()
    axes.tick_params(labelsize=6)
    axes.legend(fontsize=6)
    axes.set_title("seconds for 1,000 images, by stage", fontsize=8)
    return _embed_figure(figure)


def throughput(points: Mapping[str, Sequence[tuple[int, float]]]) -> dg.MarkdownMetadataValue:
    """Images a second against the number of images, one colour an environment: {name: [(images, rate)]}."""
    from matplotlib.ticker import LogLocator

    figure = _figure(height=2.8)
    axes = figure.add_subplot()
    for (name, of_environment), colour in zip(points.items(), figure_colours(len(points)), strict=True):
        images, rates = zip(*of_environment, strict=True)
        axes.scatter(images, rates, s=18, color=colour, label=_short(name, 40))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("images", fontsize=7)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=6)
    axes.set_title("images a second, through all stages", fontsize=8)
    return _embed_figure(figure)


def costs(
    compute: Mapping[str, float | None], storage: Mapping[str, float | None]
) -> dg.MarkdownMetadataValue:
    """USD for 1,000 images by run, compute and storage apart; no bar where it is not known."""
    figure = _figure(height=0.9 + 0.17 * len(compute))
    panels = figure.subplots(1, 2, sharey=True)
    titles = ("compute, while steps ran", "storage, a month")
    for axes, title, by_run in zip(panels, titles, (compute, storage), strict=True):
        positions = np.arange(len(by_run))
        axes.barh(positions, [cost or 0.0 for cost in by_run.values()], color="#4c956c")
        for position, cost in zip(positions, by_run.values(), strict=True):
            if cost is None:
                axes.text(0, position, " not known", fontsize=5, verticalalignment="center")
        axes.set_yticks(positions, [_short(name, 40) for name in by_run])
        axes.tick_params(labelsize=6)
        axes.locator_params(axis="x", nbins=4)
        axes.xaxis.get_offset_text().set_fontsize(6)
        axes.set_title(title, fontsize=7)
    panels[0].invert_yaxis()
    figure.suptitle("USD for 1,000 images", fontsize=8)
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


def _short(label: str, length: int = 24) -> str:
    # A dollar would start mathematics in matplotlib.
    return (label if len(label) <= length else f"{label[: length - 1]}…").replace("$", r"\$")
