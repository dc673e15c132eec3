"""`fruits forget`: takes classes without photos out of the store and out of Dagster."""

import shlex
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import dagster as dg

from fruits_assets.partitions import PARTITION, RANGE_END, RANGE_START, known_classes, unregister_classes
from fruits_assets.store_checks import report_store_checks
from resources.photo_folders import list_photos, without_erased
from resources.runs import is_over
from resources.settings import Settings
from spark_jobs.errors import FruitsError
from spark_jobs.store.classes import Holding, forget_classes, holdings, refuse_old_store
from spark_jobs.store.root import open_root
from spark_jobs.wording import counted, named

# A message names this many classes.
_NAMED = 10

# A run in one of these statuses may still use the partitions that its tags name.
_ACTIVE = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """When the classes were taken out, until when they can be restored, and which other runs were writing."""

    at: datetime
    restorable_until: datetime
    writing_runs: Sequence[str]


def held(settings: Settings, instance: dg.DagsterInstance, labels: Sequence[str]) -> dict[str, Holding]:
    """What the store holds of the classes to forget, by label.

    Raises `FruitsError` for a class that has photos, or may have them, and for one that neither the store
    nor Dagster knows. Raises it too where an unfinished run needs the partition of a class.
    """
    store = open_root(settings.store)
    refuse_old_store(store)
    in_store = holdings(store)
    _refuse_unknown(labels, sorted({*in_store, *known_classes(instance)}))
    _refuse_busy(instance, labels)
    _refuse_photos(settings, labels)
    return {label: in_store.get(label, Holding(0, 0, 0, 0)) for label in labels}


def forget(settings: Settings, instance: dg.DagsterInstance, labels: Sequence[str]) -> Forgotten:
    """Takes classes out of all tables, the CSVs and the partitions."""
    at, keep = datetime.now().astimezone(), timedelta(hours=settings.keep_hours)
    writing = forget_classes(open_root(settings.store), labels, f"forget-{uuid.uuid4()}", keep)
    unregister_classes(instance, labels)
    report_store_checks(instance, settings)
    return Forgotten(at=at, restorable_until=at + keep, writing_runs=sorted(writing))


def described(holding: Holding) -> str:
    """What the store holds of a class, for a terminal."""
    images = counted(holding.images, "image", "images")
    csv = f"a CSV of {counted(holding.csv_rows, 'row', 'rows')}" if holding.csv_rows else "no CSV"
    return f"{images}, {holding.quarantined:,} in quarantine, {holding.features:,} with features, {csv}"


def _refuse_unknown(labels: Sequence[str], known: Sequence[str]) -> None:
    for label in labels:
        if label not in known:
            names = named(known, _NAMED) or "none"
            raise FruitsError(f"The store has no class {label!r}. Its classes: {names}")


def _refuse_busy(instance: dg.DagsterInstance, labels: Sequence[str]) -> None:
    """Raises `FruitsError` where an unfinished run is of a class, or of a range that begins or ends with it.

    Without the partition, Dagster could not find the classes of that run.
    """
    for run in instance.get_runs(dg.RunsFilter(statuses=_ACTIVE)):
        named = [
            label for tag in (PARTITION, RANGE_START, RANGE_END) if (label := run.tags.get(tag)) in labels
        ]
        if named and not is_over(instance, run):
            raise FruitsError(
                f"The run {run.run_id} is of the class {named[0]!r} and has not ended. Wait for its end, or "
                "terminate it in Dagster's UI: make ui"
            )


def _refuse_photos(settings: Settings, labels: Sequence[str]) -> None:
    images = settings.images
    listing = without_erased(settings, list_photos(images, may_be_empty=True))
    for label in labels:
        if photos := listing.classes.get(label):
            raise FruitsError(
                f"The class {label!r} has {counted(len(photos), 'photo', 'photos')} under FRUITS_IMAGES="
                f"{images}, and the next run would bring it back. Remove its photos first: {photos[0].path}"
                + (", ..." if len(photos) > 1 else "")
            )
        if path := listing.hidden(label):
            raise FruitsError(
                f"The class {label!r} may have photos: under FRUITS_IMAGES={images}, {path} "
                f"{listing.skipped[path]}. Make it readable, or remove it"
            )


def restore_hint(labels: Sequence[str], forgotten: Forgotten) -> str:
    """How to bring the classes back, as a sentence with a command."""
    if forgotten.restorable_until == forgotten.at:
        return "FRUITS_KEEP_HOURS is 0, so nothing brings them back."
    command = f"fruits restore {shlex.join(labels)} --to {forgotten.at.isoformat(timespec='milliseconds')}"
    return f"Until {forgotten.restorable_until:%Y-%m-%d %H:%M}, this brings them back: {command}"
