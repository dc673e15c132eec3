"""The commands that delete photos for good: on request, and when they are too old."""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fruits_assets.terminal import Command, echo, echo_table, set_dagster_home
from spark_jobs.errors import FruitsError
from spark_jobs.wording import counted, named

if TYPE_CHECKING:
    import dagster as dg

    from fruits_assets.erasable import Found, Selection
    from fruits_assets.erase import Receipt
    from resources.settings import Settings

# A question names this many photos.
_NAMED = 10

_SHA256 = re.compile("[0-9a-f]{64}", re.IGNORECASE)
_AGE = re.compile(r"(\d+)([dhw])")
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


class _EraseCommand(Command):
    grace = 30.0
    after_interruption = "The photos may still be in some places. To finish: fruits erase"


def _options(command: "click.decorators.FC") -> "click.decorators.FC":
    """The options of both commands."""
    for option in (
        click.option("--source", is_flag=True, help="Remove their files from FRUITS_IMAGES too."),
        click.option("--yes", is_flag=True, help="Do not ask for confirmation."),
        click.option("--dry-run", is_flag=True, help="Only list the photos and their places."),
        click.option(
            "--reason", default="", metavar="TEXT", help="Why, for Dagster's event and the receipt."
        ),
        click.option(
            "--receipt",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Write the numbers for each place, and the things that stay, as JSON. It names no photo.",
        ),
    ):
        command = option(command)
    return command


@click.command(cls=_EraseCommand)
@click.argument("paths", nargs=-1, metavar="PATH...")
@click.option("--sha256", "hashes", multiple=True, metavar="HASH", help="Photos of this content.")
@click.option(
    "--list",
    "list_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Photos that a file names, each path or SHA-256 on a line.",
)
@click.option("--class", "label", metavar="NAME", help="All photos of a class.")
@click.option("--prefix", metavar="PREFIX", help="All photos whose paths begin with PREFIX.")
@_options
def erase(
    paths: Sequence[str],
    hashes: Sequence[str],
    list_file: Path | None,
    label: str | None,
    prefix: str | None,
    source: bool,
    yes: bool,
    dry_run: bool,
    reason: str,
    receipt: Path | None,
) -> None:
    """Takes photos out of everything that the platform keeps, for good.

    PATH is relative to FRUITS_IMAGES. Photos, features, rows of CSVs, quarantine, previews, old versions,
    logs and Dagster's records go. Earlier versions of the tables end: `fruits restore` goes back to this
    moment at most. Without --source the files stay in FRUITS_IMAGES, and no run reads them again.

    Without a photo, it finishes erasures that were interrupted.
    """
    if sum(map(bool, (paths or hashes, list_file, label, prefix))) > 1:
        raise click.UsageError("Give photos in one way: PATH..., --sha256, --list, --class or --prefix.")
    from fruits_assets.erasable import Selection
    from resources.photo_names import label_of

    for text in (*hashes, *paths) if hashes else ():
        if not _SHA256.fullmatch(text):
            raise click.UsageError(f"{text!r} is no SHA-256, which has 64 hexadecimal digits.")
    lines = _lines(list_file) if list_file else (*hashes, *paths)
    selection = Selection(
        paths=frozenset(line for line in lines if not _SHA256.fullmatch(line)),
        hashes=frozenset(line.lower() for line in lines if _SHA256.fullmatch(line)),
        labels=frozenset([label_of(label)] if label else []),
        prefixes=(prefix,) if prefix else (),
    )
    _erase(selection, source=source, yes=yes, dry_run=dry_run, reason=reason, receipt=receipt)


@click.command(cls=_EraseCommand)
@click.option(
    "--older-than", "age", required=True, metavar="AGE", help="Age of the oldest photos that stay, as 365d."
)
@_options
def retention(age: str, source: bool, yes: bool, dry_run: bool, reason: str, receipt: Path | None) -> None:
    """Erases the photos that were modified longer ago than AGE, as `fruits erase` does.

    The age is that of the photo's own file, on disk and on S3. AGE is a number of hours (12h), days (365d)
    or weeks (52w).
    """
    from fruits_assets.erasable import Selection

    match = _AGE.fullmatch(age)
    if match is None:
        raise click.UsageError(f"--older-than {age!r} is no age. Write it as 12h, 365d or 52w.")
    try:
        before = datetime.now(UTC) - timedelta(**{_UNITS[match[2]]: int(match[1])})
    except OverflowError:
        raise click.UsageError(f"--older-than {age!r} is longer ago than the year 1.") from None
    _erase(
        Selection(before=before),
        source=source,
        yes=yes,
        dry_run=dry_run,
        reason=reason or f"Older than {age}.",
        receipt=receipt,
    )


def _lines(path: Path) -> Sequence[str]:
    """The lines of a list, without empty lines."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise FruitsError(f"--list {path} is no text in UTF-8. Save it as UTF-8.") from None
    return list(dict.fromkeys(line for line in text.splitlines() if line.strip()))


def _erase(
    selection: "Selection", *, source: bool, yes: bool, dry_run: bool, reason: str, receipt: Path | None
) -> None:
    import dagster as dg

    from fruits_assets import erase as erasing
    from fruits_assets.erasable import find
    from resources.emr.residency import check_residency
    from resources.settings import Settings, load_settings

    settings = load_settings(Settings)
    set_dagster_home()
    check_residency(settings)
    with dg.DagsterInstance.get() as instance:
        receipts = [] if dry_run else erasing.finish_erasures(settings, instance)
        for finished in receipts:
            echo(f"Finished the erasure of {finished.at} of {_photos(finished.photos)}.")
        if selection.is_empty:
            if not receipts:
                raise click.UsageError("Give photos: PATH..., --sha256, --list, --class or --prefix.")
            found = None
        else:
            found = find(settings, selection, remove=source)
        if found and found.is_empty:
            echo("Nothing to erase.")
        elif found:
            _show(settings, instance, found, source)
            if dry_run:
                return
            if not yes:
                click.confirm("Erase them?", abort=True)
            work = erasing.work_of(found, remove=source, reason=reason)
            done = erasing.erase(settings, instance, work)
            receipts.append(done)
            _report(done)
        if receipt and receipts:
            receipt.write_text(json.dumps([asdict(each) for each in receipts], indent=2) + "\n")
    failed = {label: reason for each in receipts for label, reason in each.failed.items()}
    damaged = found.damaged if found else {}
    for label, reason in {**damaged, **failed}.items():
        echo(f"failed  {label}: {reason}", err=True)
    sys.exit(1 if failed or damaged else 0)


def _photos(number: int) -> str:
    return counted(number, "photo", "photos")


def _show(settings: "Settings", instance: "dg.DagsterInstance", found: "Found", source: bool) -> None:
    """Prints the photos and the places where they are."""
    from fruits_assets import erase as erasing

    photos = found.photos
    lines = [
        ("photos", f"{_photos(len(photos.paths))}: {named(sorted(photos.paths), _NAMED)}"),
        ("classes", named(sorted(photos.labels), _NAMED)),
    ]
    files = counted(len(found.source), "file", "files")
    fate = "removed" if source else "not removed, and no run reads them again; --source removes them"
    lines.append(("source", f"{files} in {settings.images}: {fate}"))
    lines += [(table, counted(rows, "row", "rows")) for table, rows in sorted(found.rows.items())]
    if found.replaced_rows:
        lines.append(("old versions", counted(found.replaced_rows, "row", "rows")))
    if found.csv_rows:
        lines.append(("CSVs", counted(found.csv_rows, "row", "rows")))
    traces = erasing.traces(settings, instance, photos)
    lines += [(place, f"{number:,}") for place, number in traces.items() if number]
    echo_table(lines)
    echo(
        "They go from all of these places for good, and so do all earlier versions of the tables: "
        "`fruits restore` cannot go back to a time before."
    )


def _report(receipt: "Receipt") -> None:
    from spark_jobs.store.schemas import REPORT

    echo(f"Erased {_photos(receipt.photos)}.")
    if receipt.records.get(REPORT):
        echo("The report may have shown them, and is gone. A new one: fruits report")
    for sentence in receipt.stays:
        echo(f"Remains: {sentence}")
    if receipt.left:
        files = named(sorted(receipt.left), _NAMED)
        echo(f"These may name the photos until the runs at work end; erase the photos again then: {files}")
