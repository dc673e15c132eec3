"""`fruits erase`: takes photos out of everything that the platform keeps, for good.

The work of an erasure is a file in DAGSTER_HOME until it has ended. So the next erasure can finish one that
was interrupted.
"""

import getpass
import json
import os
import socket
import uuid
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path

import dagster as dg

from fruits_assets.erasable import Found, Selection, find, listed_photos
from fruits_assets.figures import class_figures
from fruits_assets.partitions import unregister_classes
from fruits_assets.photo_changes import changed_photos, photo_changes
from fruits_assets.provenance import DATA_VERSION, renewed_provenance
from fruits_assets.report.copies import find_copies, remove_copies
from fruits_assets.store_checks import report_store_checks
from resources.cluster_logs import find_cluster_logs, remove_cluster_logs
from resources.dagster_records import blank_records, count_records
from resources.erased_texts import texts_of
from resources.erasures import Erasures, add_erasures, end_erasure, read_erasures
from resources.photo_folders import without_erased
from resources.runs import UNFINISHED, is_over
from resources.s3_versions import abort_uploads, count_old_versions, remove_objects, remove_old_versions
from resources.settings import Settings
from resources.store_records import erase_records, find_records, written_by
from spark_jobs.fit_pca import blank_contents
from spark_jobs.store.classes import holdings
from spark_jobs.store.erase_photos import erase_photos, is_erased, rows_of_csvs, stored_photos
from spark_jobs.store.erasures import ERASURES, ErasedPhotos
from spark_jobs.store.leases import lease_of_erasure, live_runs
from spark_jobs.store.parquet import read_column
from spark_jobs.store.photos import Photo, known_photos
from spark_jobs.store.pointers import current_by_class, current_one
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_FEATURES_CSV, PCA_MODEL, RAW_IMAGES
from spark_jobs.store.tables import current
from spark_jobs.wording import counted

# The folder of DAGSTER_HOME with the work of erasures that have not ended.
_ERASING = "erasing"
# A place of photos in the lists of places.
_COPIES = "copies of the report"


@dataclass(frozen=True, kw_only=True)
class Work:
    """The work of an erasure. `source` are the files of FRUITS_IMAGES that go too."""

    photos: ErasedPhotos
    states: Collection[Photo]
    source: Collection[Photo]
    at: str  # ISO 8601
    by: str
    reason: str

    def to_json(self) -> str:
        said = asdict(self) | {
            "photos": {name: sorted(value) for name, value in self.photos._asdict().items()}
        }
        return json.dumps(said | {"states": list(self.states), "source": list(self.source)})

    @classmethod
    def from_json(cls, text: str) -> "Work":
        said = json.loads(text)
        photos = ErasedPhotos(**{name: frozenset(values) for name, values in said["photos"].items()})
        lists = {name: [Photo(*photo) for photo in said[name]] for name in ("states", "source")}
        return cls(**said | lists | {"photos": photos})


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """The figures of an erasure, for an auditor. It names no photo.

    `list` is the file of the store with the keyed hashes of the photos. `left` are the files that a run at
    work still uses or writes again, and `failed` has the reason for each class that is not erased.
    """

    at: str
    ended: str
    by: str
    reason: str
    store: str
    images: str
    list: str
    photos: int
    classes: int
    removed_from_source: int
    rows: Mapping[str, int]
    csv_rows: int
    records: Mapping[str, int]
    dagster: Mapping[str, int]
    old_versions: int
    stays: Collection[str]
    left: Collection[str]
    failed: Mapping[str, str]


def traces(settings: Settings, instance: dg.DagsterInstance, photos: ErasedPhotos) -> dict[str, int]:
    """The numbers of files and events, by their place, that name or show photos, apart from the tables."""
    texts, store = texts_of(photos.paths, photos.hashes), open_root(settings.store)
    dagster = count_records(instance, texts, _previews(photos), _apart(settings))
    logs = find_cluster_logs(settings, texts)
    return {
        **find_records(store, texts, _at_work(store, instance)).files,
        **{f"Dagster's {name}": number for name, number in dagster._asdict().items()},
        "logs of clusters": logs.files if logs else 0,
        _COPIES: len(find_copies(Path(instance.root_directory))),
        "old objects": 0 if store.is_local else count_old_versions(store.uri),
    }


def erase(settings: Settings, instance: dg.DagsterInstance, work: Work) -> Receipt:
    """Erases photos. If it is interrupted, `finish_erasures` does it again.

    Raises `FruitsError` where the key to the list of erasures is missing, or a place cannot be changed.
    """
    journal = Path(instance.root_directory, _ERASING, f"{uuid.uuid4().hex}.json")
    journal.parent.mkdir(mode=0o700, exist_ok=True)
    with open(os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(work.to_json())
    return _finish(settings, instance, work, journal)


def finish_erasures(settings: Settings, instance: dg.DagsterInstance) -> list[Receipt]:
    """Does the erasures again that were interrupted, or could not erase a damaged class."""
    receipts = []
    for journal in sorted(Path(instance.root_directory, _ERASING).glob("*.json")):
        try:
            work = Work.from_json(journal.read_text())
        except (ValueError, TypeError, KeyError):
            journal.unlink()  # the erasure was interrupted before it had begun
            continue
        receipts.append(_finish(settings, instance, work, journal))
    return receipts


def erase_returned(settings: Settings, instance: dg.DagsterInstance, *, thoroughly: bool = False) -> bool:
    """Erases photos again whose contents were erased, and that a job has read under another path or before.

    It looks at the two tables of photos, and with `thoroughly` at all files of all tables and at the CSVs, of
    which it removes the replaced ones too. Returns whether there were any photos.
    """
    store = open_root(settings.store)
    erasures = read_erasures(store, settings.erasure_key_file)
    if not erasures.version:
        return False
    if thoroughly:
        erase_photos(store, _rows_without_photo(store, erasures), f"erase-{uuid.uuid4()}")
        rows = {row.sha256 for row in stored_photos(store)}
    else:
        rows = {sha256 for files in known_photos(store).values() for file in files for sha256 in file.hashes}
    hashes = frozenset(sha256 for sha256 in rows if sha256 and erasures.has_content(sha256))
    if hashes:
        found = find(settings, Selection(hashes=hashes))
        erase(settings, instance, work_of(found, remove=False, reason="It was erased before, and came back."))
    return bool(hashes)


def _rows_without_photo(store: Root, erasures: Erasures) -> ErasedPhotos:
    """The rows of CSVs that have the path of an erased photo, and no features: a job had read them before."""
    features = current(store, MOBILENET_FEATURES)
    rows: dict[str, set[str]] = {}
    for label, csv in rows_of_csvs(store, current_by_class(store, PCA_FEATURES_CSV)).items():
        own = features[label] if label in features and not features[label].damage else None
        rows[label] = {path for path in csv.column("path").to_pylist() if erasures.has_path(path)}
        rows[label] -= set(read_column(store, own, "path") if own else [])
    labels = frozenset(label for label, paths in rows.items() if paths)
    return ErasedPhotos(frozenset(chain.from_iterable(rows.values())), frozenset(), labels)


def work_of(found: Found, *, remove: bool, reason: str) -> Work:
    """The erasure of photos that were found. With `remove`, their files in FRUITS_IMAGES go too."""
    return Work(
        photos=found.photos,
        states=found.states,
        source=found.source if remove else (),
        at=_now(),
        by=f"{getpass.getuser()}@{socket.gethostname()}",
        reason=reason,
    )


def _finish(settings: Settings, instance: dg.DagsterInstance, work: Work, journal: Path) -> Receipt:
    """Erases photos, and removes the file with the work. The work stays where a class is damaged."""
    receipt = _erase(settings, instance, work)
    if not receipt.failed:
        journal.unlink()
    return receipt


def _erase(settings: Settings, instance: dg.DagsterInstance, work: Work) -> Receipt:
    store, photos, run = open_root(settings.store), work.photos, f"erase-{uuid.uuid4()}"
    stays = _stays(store)
    name = add_erasures(store, settings.erasure_key_file, photos, work.states)
    _remove_source(settings, work.source)
    erased = erase_photos(store, photos, run)
    blank_contents(store, photos.hashes)
    texts = texts_of(photos.paths, photos.hashes)
    records = erase_records(store, texts, _at_work(store, instance))
    logs = remove_cluster_logs(settings, texts)
    copies = remove_copies(Path(instance.root_directory))
    _tell_dagster(settings, instance, work)
    dagster = blank_records(instance, texts, _previews(photos), _apart(settings))
    end_erasure(store, name)
    # A job that began before the list was written, and committed before it was ended, may have brought rows.
    again = erase_photos(store, photos, run) if _brought_back(store, photos) else None
    old_versions = _remove_old_versions(store, instance)
    return Receipt(
        at=work.at,
        ended=_now(),
        by=work.by,
        reason=work.reason,
        store=settings.store,
        images=settings.images,
        list=store.uri_of(f"{ERASURES}/{name}.json"),
        photos=len(photos.paths),
        classes=len(photos.labels),
        removed_from_source=len(work.source),
        rows=erased.rows,
        csv_rows=erased.csv_rows,
        records={
            **records.files,
            **({"logs of clusters": logs.files} if logs else {}),
            **({_COPIES: copies} if copies else {}),
        },
        dagster=dagster._asdict(),
        old_versions=old_versions,
        stays=stays,
        left=[
            *records.left,
            *(f"the logs of cluster {cluster}" for cluster in (logs.recent if logs else ())),
        ],
        failed=(again or erased).failed,
    )


def _brought_back(store: Root, photos: ErasedPhotos) -> bool:
    return any(is_erased(row, photos) for row in stored_photos(store, replaced=False))


def _at_work(store: Root, instance: dg.DagsterInstance) -> set[str]:
    """The runs that may write to the store: they hold a lease, or have not ended."""
    unfinished = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
    with lease_of_erasure(store, "erase") as lease:
        alive = live_runs(store, lease.now()) - {lease.run}
    return alive | {run.run_id for run in unfinished if not is_over(instance, run)}


def _remove_source(settings: Settings, photos: Collection[Photo]) -> None:
    """Removes files of FRUITS_IMAGES, unless they have been replaced since."""
    if settings.images.startswith("s3://"):
        remove_objects(settings.images, [photo.path for photo in photos])
        return
    for photo in photos:
        path = Path(settings.images, photo.path)
        with suppress(FileNotFoundError):
            if path.stat().st_size == photo.bytes and path.stat().st_mtime_ns // 1000 == photo.modified:
                path.unlink()


def _remove_old_versions(store: Root, instance: dg.DagsterInstance) -> int:
    """Removes what S3 keeps of deleted files, in a bucket with versions, and of unfinished uploads."""
    if store.is_local:
        return 0
    return remove_old_versions(store.uri) + abort_uploads(store.uri, written_by(_at_work(store, instance)))


def _tell_dagster(settings: Settings, instance: dg.DagsterInstance, work: Work) -> None:
    """Tells Dagster the new data versions of the classes, and that something was erased, but not its name."""
    store, labels = open_root(settings.store), work.photos.labels
    listing = without_erased(settings, listed_photos(settings))
    for observation in changed_photos(instance, listing, labels):
        instance.report_runless_asset_event(observation)
    up_to_date = photo_changes(settings, store, listing, labels, known_photos(store, labels)).done
    versions: dict[tuple[str, str], str] = {}  # by asset and class
    for table, read in _READERS.items():
        key = dg.AssetKey(table)
        for label, version in read(store, table, labels).items():
            records = instance.fetch_materializations(
                dg.AssetRecordsFilter(key, asset_partitions=[label]), limit=1
            ).records
            last = records[0].asset_materialization if records else None
            tags = dict(last.tags or {}) if last else {}
            if version.damage or tags.get(DATA_VERSION) == version.data_version:
                continue
            follows = label in up_to_date  # the class is what its source makes of it
            if source := _SOURCES.get(table):
                follows = version.inputs.get(source) == versions.get((source, label))
            if follows:
                tags = renewed_provenance(instance, tags)
            versions[table, label] = version.data_version
            instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    key,
                    partition=label,
                    description="fruits erase",
                    metadata=class_figures(version.rows, version.bytes),
                    tags=tags | {DATA_VERSION: version.data_version},
                )
            )
    instance.report_runless_asset_event(
        dg.AssetObservation(
            RAW_IMAGES,
            description=f"{counted(len(work.photos.paths), 'photo was', 'photos were')} erased.",
            metadata={
                "erased_photos": len(work.photos.paths),
                "classes": len(labels),
                "removed_from_source": len(work.source),
                "asked_at": work.at,
                "by": work.by,
                "reason": work.reason,
            },
        )
    )
    unregister_classes(instance, labels - listing.classes.keys() - holdings(store).keys())
    report_store_checks(instance, settings)


def _previews(photos: ErasedPhotos) -> dict[str, frozenset[str]]:
    """The classes by asset whose previews may show one of the photos."""
    return {RAW_IMAGES: photos.labels, PCA_FEATURES_CSV: photos.labels}


def _apart(settings: Settings) -> list[Path]:
    """Folders that are no records of Dagster, even if they lie in its home."""
    return [Path(root) for root in (settings.images, settings.store) if not root.startswith("s3://")]


def _stays(store: Root) -> list[str]:
    """The places out of which an erasure cannot take a photo, as sentences."""
    if current_one(store, PCA_MODEL) is None:
        return []
    return [
        "The PCA model is fitted on sums over all photos, the erased photos too. A model without them: "
        "fruits run --refit"
    ]


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


# The asset from whose rows of a class those of another asset are made.
_SOURCES = {MOBILENET_FEATURES: RAW_IMAGES, PCA_FEATURES_CSV: MOBILENET_FEATURES}
_READERS = {RAW_IMAGES: current, MOBILENET_FEATURES: current, PCA_FEATURES_CSV: current_by_class}
