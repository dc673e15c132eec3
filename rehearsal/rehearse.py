"""Rehearses runs on EMR on this machine, and compares their outputs with the outputs of local runs.

`make rehearse-emr` runs `python -m rehearsal.rehearse`. It reads the photos of FRUITS_IMAGES, else of
--photos, else the sample photos. It uses your other settings too. It runs once without the last of the
photos, and again with it. Exit status 0: the outputs are equal after both.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, zip_longest
from pathlib import Path

from dotenv import dotenv_values

from fruits_assets.samples import copy_samples
from rehearsal.account import prepare_account
from rehearsal.aws import REGION
from rehearsal.compare import compare
from rehearsal.environment import RehearsalEnvironment, start_environment
from resources.emr.sizing import yarn_mib
from resources.instance_types import instance
from resources.photo_folders import list_photos
from resources.settings import Settings
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import IO_THREADS, open_root

IMAGES = 600
_DAGSTER_SETTINGS = Path(__file__).parents[1] / ".dagster" / "dagster.yaml"
INTERRUPTED = 128 + signal.SIGINT  # as in shells


def main() -> int:
    parser = argparse.ArgumentParser(prog="make rehearse-emr", description=__doc__)
    parser.add_argument(
        "--photos", type=Path, help="a folder or a .tar.gz of photos; ignored if FRUITS_IMAGES is set"
    )
    parser.add_argument(
        "--images", type=int, default=IMAGES, help=f"the maximum of photos, by default {IMAGES}"
    )
    parser.add_argument("--python", type=Path, help="the Python of the nodes; by default a new environment")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with tempfile.TemporaryDirectory(prefix="rehearsal-") as name:
            folder = Path(name)
            settings = _own_settings(folder)
            source = settings.get("FRUITS_IMAGES") or _default_photos(folder, options.photos)
            last = _take_photos(source, folder / "photos", options.images)
            memory, vcores = _node(settings)
            with start_environment(
                folder / "rehearsal", options.python, memory_mb=memory, vcores=vcores
            ) as rehearsal:
                return _rehearse(rehearsal, folder, last, settings)
    except KeyboardInterrupt:
        print("The rehearsal was interrupted. Its processes have ended and its files are removed.")
        return INTERRUPTED
    except (FruitsError, OSError, tarfile.TarError) as error:
        print(f"make rehearse-emr: {error}", file=sys.stderr)
        return 1


def _own_settings(folder: Path) -> dict[str, str]:
    """The user's settings from .env and the environment, without the settings that the rehearsal sets.

    Copies weights and prices on S3 into `folder`, since the runs reach only the S3 of the rehearsal.
    """
    given = {**dotenv_values(".env"), **os.environ}
    own = {name: value for name, value in given.items() if name.startswith("FRUITS_") and value}
    for name in ("FRUITS_ENV", "FRUITS_STORE", "FRUITS_EMR_CLUSTER", "FRUITS_EMR_LOGS"):
        own.pop(name, None)
    # The runs have other working directories, so relative paths become absolute.
    for name in {"FRUITS_WEIGHTS", "FRUITS_PRICES"} & own.keys():
        file, mark, pin = own[name].partition("#")
        if file.startswith("s3://"):
            prefix, _, base = file.rpartition("/")
            (folder / base).write_bytes(open_root(prefix).read(base))
            own[name] = f"{folder / base}{mark}{pin}"
        elif Path(file).is_file():
            own[name] = f"{Path(file).absolute()}{mark}{pin}"
    return {"FRUITS_WEIGHTS": "embedded", **own, "FRUITS_REGION": REGION, "FRUITS_ALLOWED_REGIONS": REGION}


def _node(settings: Mapping[str, str]) -> tuple[int, int]:
    """The memory of YARN in MiB and the number of cores on a node of FRUITS_EMR_CORE_TYPE."""
    core_type = settings.get("FRUITS_EMR_CORE_TYPE") or Settings.model_fields["emr_core_type"].default
    return yarn_mib(core_type), instance(core_type).vcpus


def _default_photos(folder: Path, given: Path | None) -> str:
    """The root of the photos: the given folder, the unpacked .tar.gz, or else the sample photos."""
    if given is None:
        copy_samples(folder / "samples")
        return str(folder / "samples")
    if given.is_dir():
        return str(given)
    with tarfile.open(given) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    return str(folder / "unpacked")


def _take_photos(source: str, target: Path, images: int) -> str:
    """Copies at most `images` photos to `target`, one of each class in turn, under the same paths.

    Returns the path of the last photo, relative to `target`. Raises `FruitsError` for a single photo.
    """
    root, classes = open_root(source), list_photos(source).classes
    interleaved = chain.from_iterable(zip_longest(*classes.values()))
    paths = [photo.path for photo in interleaved if photo is not None][:images]

    def copy(path: str) -> None:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).write_bytes(root.read(path))

    with ThreadPoolExecutor(IO_THREADS) as pool:
        list(pool.map(copy, paths))
    print(f"Rehearsing with {len(paths):,} photos of {len(classes):,} classes from {source}", flush=True)
    if len(paths) < 2:
        raise FruitsError(f"{source} has one photo, and the rehearsal adds a photo to others. Choose more.")
    return paths[-1]


def _rehearse(rehearsal: RehearsalEnvironment, folder: Path, last: str, settings: Mapping[str, str]) -> int:
    """Runs the graph on the cluster and on this machine, without the `last` photo and then with it.

    Prints the comparisons; returns the exit status.
    """
    photos = folder / "photos"
    for name in [name for name in os.environ if name.startswith(("AWS_", "FRUITS_"))]:
        del os.environ[name]  # the runs get the settings explicitly, and never the user's AWS account
    account = prepare_account(rehearsal.aws, settings)
    os.environ |= account.administrator
    images, store = open_root(account.outputs["ImagesUri"]), account.outputs["StoreUri"]
    runs = {
        "emr": {**account.operator, "FRUITS_IMAGES": images.uri, "FRUITS_STORE": store},
        "local": {"FRUITS_IMAGES": str(photos), "FRUITS_STORE": str(folder / "store")},
    }
    (photos / last).rename(folder / "last")
    same = True
    for photo in ("", last):
        if photo:
            print(f"\nThe photo {photo} is added.")
            (photos / photo).parent.mkdir(parents=True, exist_ok=True)
            (folder / "last").rename(photos / photo)
        new = [photos / photo] if photo else [file for file in photos.rglob("*") if file.is_file()]
        images.write_many((str(file.relative_to(photos)), file.read_bytes()) for file in new)
        for env, given in runs.items():
            seconds = _run(env, folder / f"dagster-{env}", {**settings, **given})
            if seconds is None:
                return 1
            print(f"The run with FRUITS_ENV={env} took {seconds:.0f} s.")
        same = _compare([given["FRUITS_STORE"] for given in runs.values()]) and same
    return 0 if same else 1


def _run(env: str, home: Path, settings: Mapping[str, str]) -> float | None:
    """The seconds of `fruits run`; None if it failed."""
    print(f"\nfruits run with FRUITS_ENV={env}", flush=True)
    started = time.monotonic()
    home.mkdir(exist_ok=True)
    shutil.copy(_DAGSTER_SETTINGS, home)
    run = subprocess.run(
        [Path(sys.executable).with_name("fruits"), "run"],
        env={**os.environ, **settings, "FRUITS_ENV": env, "DAGSTER_HOME": str(home)},
        cwd=home,
    )
    if run.returncode:
        print(f"The run with FRUITS_ENV={env} failed: exit status {run.returncode}.", file=sys.stderr)
        return None
    return time.monotonic() - started


def _compare(stores: Sequence[str]) -> bool:
    """Whether two stores have the same outputs. Prints the comparison of each output."""
    found = compare(*stores)
    width = max(len(comparison.output) for comparison in found)
    for output, same, details in found:
        print(f"{'same' if same else 'DIFFERENT':>9}  {output:<{width}}  {details}")
    return all(comparison.same for comparison in found)


if __name__ == "__main__":
    sys.exit(main())
