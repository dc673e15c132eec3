"""The table of faults: its check finds faults, a cut call goes on, and the platform stands some rounds."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from benchmarks.faults import __main__ as program
from benchmarks.faults.check import behind, differences, torn
from benchmarks.faults.findings import FaultRow, Finding
from benchmarks.faults.rows import ROWS
from benchmarks.faults.table import BEGIN, END
from benchmarks.faults.workplace import Ended, Workplace
from spark_jobs.store.pointers import current_by_class
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_FEATURES_CSV, RAW_IMAGES
from tests.conftest import CLASSES
from tests.jobs import extract, ingest, run_jobs
from tests.support import current_files


@pytest.fixture(scope="module")
def whole(
    spark: SparkSession, sample_photos: Path, extractor: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    store = tmp_path_factory.mktemp("faults") / "store"
    run_jobs(spark, sample_photos, str(store), extractor, CLASSES)
    return store


@pytest.fixture
def copy(whole: Path, store: str) -> str:
    shutil.copytree(whole, store)
    return store


def test_a_whole_store_has_no_fault_and_equals_its_copy(whole: Path, copy: str) -> None:
    assert torn(copy) == []
    assert behind(copy) == []
    assert differences(copy, str(whole)) == []


def lose_photos(store: str) -> None:
    Path(current_files(store, RAW_IMAGES, ["Kiwi"])[0]).unlink()


def change_features(store: str) -> None:
    file = Path(current_files(store, MOBILENET_FEATURES, ["Kiwi"])[0])
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def swap_csvs(store: str) -> None:
    root = open_root(store)
    csvs = current_by_class(root, PCA_FEATURES_CSV)
    root.write(csvs["Kiwi"].parts[0].path, root.read(csvs["Banana"].parts[0].path))


@pytest.mark.parametrize("damage", [lose_photos, change_features, swap_csvs])
def test_damage_is_found_in_its_class(copy: str, damage: Callable[[str], None]) -> None:
    damage(copy)
    found = torn(copy)
    assert found
    assert all("Kiwi" in fault for fault in found)


def test_another_photo_is_a_difference(spark: SparkSession, whole: Path, copy: str, photos: Path) -> None:
    shutil.copy(photos / "Banana" / "1_100.jpg", photos / "Kiwi" / "1_100.jpg")
    ingest(spark, photos, copy, CLASSES)
    extract(spark, copy, CLASSES)
    assert differences(copy, str(whole)) == ["raw_images: other rows", "mobilenet_features: other features"]
    assert behind(copy) == ["CSV, Kiwi: not of the current features and model"]


def test_all_that_a_store_lacks_is_a_difference(whole: Path, store: str) -> None:
    Path(store).mkdir()
    found = differences(store, str(whole))
    assert [line.split(":")[0] for line in found] == [RAW_IMAGES, MOBILENET_FEATURES, PCA_FEATURES_CSV]
    assert all(": (0, " in line for line in found)


@pytest.mark.parametrize(
    ("output", "wrong"),
    [
        ("12:00:00 raw_images: 1 of 5\nfruits run: FRUITS_STORE=/s is full. Make room.", []),
        ("12:00:00 raw_images: 1 of 5", ["no sentence: 12:00:00 raw_images: 1 of 5"]),
        ("fruits run: OSError: [Errno 28]", ["a program's error: fruits run: OSError: [Errno 28]"]),
        (
            "  at java.util.Map.get(Map.java)\nfruits run: Spark ended.",
            ["a trace: at java.util.Map.get(Map.java)"],
        ),
        (" failed  Kiwi: its disk failed. Run again.", []),
    ],
)
def test_a_failed_command_owes_its_user_a_sentence(output: str, wrong: list[str]) -> None:
    assert Ended(1, output).unreadable == wrong


def test_a_cut_call_goes_on_after_its_last_round_and_tells_of_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[int] = []

    def cut_in_round_1(_: Workplace, number: int) -> Finding:
        rounds.append(number)
        if rounds == [0, 1]:
            raise KeyboardInterrupt
        torn = ["Kiwi | torn"] if number == 1 else []
        return Finding(
            fault="a cut", status=number, sentence=f"{tmp_path}/out/x is full", torn=torn, rerun=[]
        )

    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    monkeypatch.setattr(program, "ROWS", {"cuts": FaultRow("Cuts", "all", 3, cut_in_round_1)})
    monkeypatch.setattr(sys, "argv", ["faults", "--out", f"{tmp_path}/out", "--page", str(page)])
    with pytest.raises(KeyboardInterrupt):
        program.main()
    with pytest.raises(SystemExit, match="1"):
        program.main()
    assert rounds == [0, 1, 1, 2]
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    counts = "3 | 2 failed with a message, 1 succeeded | 1 torn in 3 views | 3 of 3 right | 1 |"
    assert f"| Cuts | all | {counts}" in lines
    assert "| a cut | 3 | 2 failed with a message, 1 succeeded |  | x is full |" in lines


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rounds")


# Rounds that take half a minute each: the JVM and a Python worker are killed, and a bit of a photo flips.
QUICK = [("kills", 10), ("kills", 7), ("flips", 0)]
# Each row with other disturbances: 15 minutes. Those of S3 need Go, which builds the server.
LONG = [
    *(("kills", number) for number in (0, 5, 14, 20)),
    *(("csv-kills", number) for number in (3, 4)),
    *(("writers", number) for number in (1, 3, 4)),
    *(("s3", number) for number in (3, 9, 20, 27)),
    *(("power", number) for number in range(8)),
    *(("flips", number) for number in (4, 9, 11)),
]


@pytest.mark.parametrize(("row", "number"), QUICK)
def test_the_platform_stands_a_fault(places: Path, row: str, number: int) -> None:
    assert ROWS[row].round(Workplace(places / row), number).faults == []


@pytest.mark.slow
@pytest.mark.parametrize(("row", "number"), LONG)
def test_the_platform_stands_more_faults(places: Path, row: str, number: int) -> None:
    assert ROWS[row].round(Workplace(places / row), number).faults == []
