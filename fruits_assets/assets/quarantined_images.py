"""`quarantined_images`: the bad photos with the reasons, a table that the job of `raw_images` writes too."""

import dagster as dg

from fruits_assets.assets.fruit_photos import fruit_photos
from fruits_assets.decorators import attributes, column_schema
from fruits_assets.figures import TABLE_ROWS
from fruits_assets.ui.links import quarantine_page
from spark_jobs.store.root import Root
from spark_jobs.store.schemas import QUARANTINED_IMAGES, described
from spark_jobs.store.tables import rows_by_class

quarantined_images = dg.AssetSpec(
    QUARANTINED_IMAGES,
    deps=[fruit_photos],
    kinds={"deltalake"},
    description=(
        "The photos that cannot be used, with the reasons. The link `quarantine` of the last materialization "
        "shows them. Replace or remove the files, and run again. raw_images writes this table."
    ),
    metadata=column_schema(described(QUARANTINED_IMAGES)),
    **attributes("photos", personal=True),
)


def quarantine_event(store: Root) -> dg.AssetMaterialization:
    """The event of the table after a job has changed it."""
    rows = rows_by_class(store, QUARANTINED_IMAGES)
    return dg.AssetMaterialization(
        QUARANTINED_IMAGES,
        metadata={
            "quarantine": quarantine_page(),
            TABLE_ROWS: sum(rows.values()),
            "classes": len(rows),
        },
    )
