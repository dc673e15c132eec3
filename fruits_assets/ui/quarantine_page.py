"""The page of the photos in quarantine, which is made from the store at each request."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from jinja2 import Environment, PackageLoader

from fruits_assets.figures import size
from spark_jobs.errors import FruitsError
from spark_jobs.store.parquet import read_row_groups
from spark_jobs.store.root import Root
from spark_jobs.store.schemas import QUARANTINED_IMAGES
from spark_jobs.store.tables import current, rows_by_class
from spark_jobs.store.versions import Version
from spark_jobs.wording import counted, visible

# The photos that a page shows: a browser draws more of them only slowly.
SHOWN = 1000

_COLUMNS = ("path", "label", "reason", "bytes", "modified")

_templates = Environment(loader=PackageLoader("fruits_assets", "ui"), autoescape=True, trim_blocks=True)


class BadPhoto(NamedTuple):
    """A row of the page."""

    label: str
    path: str
    reason: str
    size: str
    modified: str


def quarantine_html(store: Root, label: str = "", find: str = "") -> str:
    """The page of all classes or of a class, with the photos whose path or reason has the text `find`.

    A class whose file is missing or damaged is named, and does not stop the rest.
    """
    counts = {name: rows for name, rows in sorted(rows_by_class(store, QUARANTINED_IMAGES).items()) if rows}
    damages: list[str] = []
    versions = current(store, QUARANTINED_IMAGES, [label] if label else None)
    found = (
        photo
        for photo in _bad_photos(store, versions, damages)
        if find.casefold() in f"{photo.path} {photo.reason}".casefold()
    )
    rows = list(islice(found, SHOWN + 1))
    return _templates.get_template("quarantine.html.jinja").render(
        store=store.uri,
        label=label,
        find=find,
        counts=counts,
        total=counted(sum(counts.values()), "photo", "photos"),
        rows=rows[:SHOWN],
        more=len(rows) > SHOWN,
        damages=damages,
    )


def _bad_photos(store: Root, versions: dict[str, Version], damages: list[str]) -> Iterator[BadPhoto]:
    """The photos of each class, by their reasons. Adds each class that cannot be read to `damages`."""
    for label, version in sorted(versions.items()):
        try:
            yield from sorted(_photos_of(store, version), key=lambda photo: (photo.reason, photo.path))
        except FruitsError as error:
            damages.append(f"{label}: {error}")


def _photos_of(store: Root, version: Version) -> Iterable[BadPhoto]:
    if version.damage:
        raise FruitsError(version.damage)
    for part in version.parts:
        for batch in read_row_groups(store, part.path, range(len(part.row_groups)), _COLUMNS):
            for row in batch.to_pylist():
                yield BadPhoto(
                    label=row["label"],
                    path=visible(row["path"]),
                    reason=visible(row["reason"]),
                    size=size(row["bytes"] or 0),
                    modified=f"{row['modified']:%Y-%m-%d %H:%M}" if row["modified"] else "",
                )
