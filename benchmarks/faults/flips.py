"""Bits that flip on the disk, in every kind of file of the store."""

import random
from collections.abc import Callable

from benchmarks.faults.check import differences, torn
from benchmarks.faults.findings import Finding
from benchmarks.faults.workplace import Workplace, fruits_run
from spark_jobs.store.csv_copies import stale_copies
from spark_jobs.store.root import open_root

# Every kind of file of a store.
FLIPPED = (
    "raw_images/**/*.parquet",
    "mobilenet_features/**/*.parquet",
    "quarantined_images/**/*.parquet",
    "raw_images/_delta_log/*.json",
    "mobilenet_features/_delta_log/*.json",
    "quarantined_images/_delta_log/*.json",
    "pca_features_csv_versions/version=*/**/*.csv",
    "pca_features_csv_versions/current/*.json",
    "pca_features_csv/*.csv",
    "pca_model/**/*.parquet",
    "pca_model/current.json",
    "feature_extractor/**/model.bin",
    "feature_extractor/**/model.xml",
    "feature_extractor/current.json",
    "run_records/**/*.json",
    "spark-events/*",
)


def flipped_bit(place: Workplace, number: int) -> Finding:
    """Flips a bit of one file of the store, reads the store, and runs again.

    Either a reader or the run names the damage, or the run mends it. Features and CSVs are never wrong in
    silence.
    """
    photos = place.usual_photos
    finished = place.finished_store(photos)
    store = place.copied(finished, "store")
    dice = random.Random(number)
    pattern = FLIPPED[number % len(FLIPPED)]
    file = dice.choice(
        [path for path in sorted(store.glob(pattern)) if path.is_file() and path.stat().st_size]
    )
    content = bytearray(file.read_bytes())
    position = dice.randrange(len(content) * 8)
    content[position // 8] ^= 1 << position % 8
    file.write_bytes(content)
    named = _told(lambda: torn(str(store)) + stale_copies(open_root(str(store))))
    again = fruits_run(photos, store, place.home("home"))
    left = _told(lambda: differences(str(store), str(finished)))
    silent = left if again.status == 0 and not named else []
    return Finding(
        fault=f"a bit of {pattern}",
        status=again.status,
        sentence=again.sentence,
        wrong=[
            *again.unreadable,
            *(f"{file.relative_to(store)}, bit {position}: {fault}" for fault in silent),
        ],
        figures={"named by readers": bool(named), "mended by the run": not left},
    )


def _told(check: Callable[[], list[str]]) -> list[str]:
    """The findings of a check, or its error as the only finding."""
    try:
        return check()
    except Exception as error:
        return [f"{type(error).__name__}: {str(error)[:300]}"]
