"""`fruits restore`: brings classes back in all tables, in Dagster, and as CSVs of the current model."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import dagster as dg

from fruits_assets.all_assets import UpToDateConfig
from fruits_assets.dagster_runs import Runs, dagster_runs
from fruits_assets.figures import class_figures
from fruits_assets.provenance import DATA_VERSION, earlier_provenance
from resources.emr.residency import check_residency
from resources.settings import Settings
from spark_jobs.store.classes import refuse_old_store
from spark_jobs.store.history import restore_classes
from spark_jobs.store.pointers import current_one
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import (
    FEATURE_EXTRACTOR,
    MOBILENET_FEATURES,
    PCA_MODEL,
    QUARANTINED_IMAGES,
    RAW_IMAGES,
)
from spark_jobs.store.versions import Version


@dataclass(frozen=True, kw_only=True)
class Restored:
    """The restored rows of each class, and why classes have no new CSV."""

    images: Mapping[str, int]
    quarantined_images: Mapping[str, int]
    failed_classes: Mapping[str, str]  # class: reason


def restore(settings: Settings, labels: Sequence[str], moment: datetime | str) -> Restored:
    """Brings classes back as they were at a time, or after the commits of the Dagster run of that id.

    The tables change first. Then each class is a partition, with events of the restored versions. Features
    that are missing or of another extractor are extracted again from the restored images, and the current
    model projects the classes.

    Raises the errors of `restore_classes`, and `FruitsError` where the store is still to convert.
    """
    check_residency(settings)
    store = open_root(settings.store)
    refuse_old_store(store)
    restored = restore_classes(store, labels, f"restore-{uuid.uuid4()}", moment)
    with dagster_runs(settings) as runs:
        _report(runs, store, restored)
        failed = _project(runs, store, restored)
    return Restored(
        images={label: version.rows for label, version in restored[RAW_IMAGES].items()},
        quarantined_images={label: version.rows for label, version in restored[QUARANTINED_IMAGES].items()},
        failed_classes=failed,
    )


def _report(runs: Runs, store: Root, restored: Mapping[str, Mapping[str, Version]]) -> None:
    """Tells Dagster the data version of each restored class."""
    for table in (RAW_IMAGES, MOBILENET_FEATURES):
        key = dg.AssetKey(table)
        for label, version in restored[table].items():
            runs.instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    key,
                    partition=label,
                    description="fruits restore",
                    metadata={
                        **class_figures(version.rows, version.bytes),
                        "store_path": dg.MetadataValue.path(store.uri_of(table)),
                    },
                    tags=earlier_provenance(runs.instance, key, label, version.data_version)
                    | {DATA_VERSION: version.data_version},
                )
            )


def _project(runs: Runs, store: Root, restored: Mapping[str, Mapping[str, Version]]) -> dict[str, str]:
    """Makes features and CSVs that belong to the present extractor and model; returns the failed classes."""
    extractor, model = (current_one(store, output) for output in (FEATURE_EXTRACTOR, PCA_MODEL))
    images = restored[RAW_IMAGES]
    if extractor is None or model is None:
        return dict.fromkeys(images, "there is no PCA model yet, so it has no CSV. Make both: fruits run")
    return runs.bring_up_to_date(UpToDateConfig(classes=sorted(images), ingest=False))
