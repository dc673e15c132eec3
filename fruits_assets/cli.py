"""`fruits`: what Dagster's own commands don't do."""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

# Dagster and Spark are imported where they are used, so that --help and a mistyped option answer at once.


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Fruit photos in, PCA features out. Settings are FRUITS_* variables; see .env.example."""


@main.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--images", default=40, show_default=True, help="Images of each class.")
def samples(folder: Path, images: int) -> None:
    """Draws sample photos, one folder for each of some fruit classes."""
    from fruits_assets.samples import draw_samples

    labels = draw_samples(folder, images)
    click.echo(f"{len(labels)} classes of {images} drawn photos are in {folder}")


@main.command()
@click.option("--class", "labels", multiple=True, metavar="NAME", help="Only this class; can be repeated.")
@click.option("--components", type=click.IntRange(1, 1280), help="Components of the PCA (15 by default).")
@click.option(
    "--variance",
    type=click.FloatRange(0, 1, min_open=True),
    help="Keep as many components as reach this share of the variance.",
)
def run(labels: Sequence[str], components: int | None, variance: float | None) -> None:
    """Observes the photos, then materializes every asset for every class, in one Spark session.

    With --class, the PCA is not fitted again: the classes are projected by the current model.
    """
    if labels and (components or variance):
        raise click.UsageError("--components and --variance fit a new model, which --class never does.")
    _use_dagster_home()
    from fruits_assets.pipeline import PipelineError, run_pipeline
    from resources.settings import SettingsError, load_settings

    config = {"components": components, "variance": variance}
    config = {key: value for key, value in config.items() if value is not None}
    try:
        summary = run_pipeline(load_settings(), labels, config)
    except (SettingsError, PipelineError) as error:
        sys.exit(f"fruits run: {error}")
    except KeyboardInterrupt:
        click.echo(
            "fruits run: interrupted. The assets that were finished stand, the others are as they were."
        )
        sys.exit(130)  # 128 and the number of SIGINT, as shells have it
    click.echo("\n".join(_described(summary.lines)))
    sys.exit(1 if summary.failed else 0)


def _described(lines: Sequence[tuple[str, str]]) -> Iterator[str]:
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        yield f"{name:>{width}}  {value}"


def _use_dagster_home() -> None:
    """DAGSTER_HOME from the environment or .env, as Dagster's own commands find it, else ./.dagster."""
    from dotenv import load_dotenv

    from resources.event_log import BATCH_SIZE

    load_dotenv(".env")
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(Path(".dagster").absolute())))
    home.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", BATCH_SIZE)
