"""The jobs that bring all assets up to date, and the job that observes the photos."""

from typing import Any

import dagster as dg
from pydantic import Field

from fruits_assets.all_assets import OP, UpToDateConfig, all_assets_op
from fruits_assets.assets.fruit_photos import fruit_photos
from fruits_assets.run_plan import RunPlan

BRING_UP_TO_DATE, REFIT_MODEL, EVERYTHING_AGAIN = "bring_up_to_date", "refit_model", "everything_again"
OBSERVE_PHOTOS = "observe_photos"

# Progress, warnings and errors; not every event of every step.
LOGGING = {"loggers": {"console": {"config": {"log_level": "INFO"}}}}


class RefitConfig(UpToDateConfig):
    """`UpToDateConfig` with a new model."""

    refit: bool = Field(default=True, description="Fit a new PCA model on all classes.")


class AgainConfig(UpToDateConfig):
    """`UpToDateConfig` that computes everything again."""

    recompute: bool = Field(default=True, description="Compute all images of the classes again.")


def jobs(plan: RunPlan | None = None) -> list[dg.JobDefinition]:
    """The named jobs. With `plan`, a run in this process does not read the state of the store again."""
    op = all_assets_op(plan)
    return [
        _job(
            op,
            BRING_UP_TO_DATE,
            UpToDateConfig,
            "Reads new and changed photos, and computes what follows from them, in one run. The PCA model "
            "stays; without one, it fits the first.",
        ),
        _job(
            op,
            REFIT_MODEL,
            RefitConfig,
            "Fits a new PCA model on all classes, and writes all CSVs with it. A classifier that was trained "
            "on the old components must be trained again.",
        ),
        _job(
            op,
            EVERYTHING_AGAIN,
            AgainConfig,
            "Reads all photos and computes all features and CSVs again, with the current PCA model.",
        ),
    ]


def _job(op: dg.OpDefinition, name: str, config: type[UpToDateConfig], description: str) -> dg.JobDefinition:
    """A job with one op. Its run config is `config`, which is refused at the launch if it cannot be."""

    @dg.config_mapping
    def mapped(wanted: config) -> dict[str, Any]:  # type: ignore[valid-type]
        return {
            "ops": {OP: {"config": wanted.model_dump(exclude_none=True)}},  # type: ignore[attr-defined]
            **LOGGING,
        }

    graph = dg.GraphDefinition(name=name, node_defs=[op])
    return graph.to_job(name=name, description=description, config=mapped)


observe_photos = dg.define_asset_job(
    OBSERVE_PHOTOS,
    selection=[fruit_photos],
    description="Lists the photos, registers new classes, and marks the classes whose photos have changed.",
)
