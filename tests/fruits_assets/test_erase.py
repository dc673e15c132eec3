"""`fruits erase` and `fruits retention`, as a user types them."""

import hashlib
import json
import os
import shutil
import stat
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from PIL import Image

from fruits_assets import erase as erasing
from fruits_assets.erasable import Selection, find
from fruits_assets.partitions import known_classes
from fruits_assets.pipeline import run_pipeline
from fruits_assets.readers import read_pandas
from fruits_assets.report.write import write_report
from spark_jobs import extract_features, ingest_images, project_to_csv
from spark_jobs.store import parquet
from spark_jobs.store.classes import holdings
from spark_jobs.store.csv_copies import stale_copies
from spark_jobs.store.schemas import (
    MOBILENET_FEATURES,
    PCA_FEATURES_CSV,
    PCA_MODEL,
    QUARANTINED_IMAGES,
    RAW_IMAGES,
    REPORT,
    REPORT_FILE,
)
from spark_jobs.store.tables import current
from tests.every_byte import every_byte, files_below
from tests.fruits_assets.commands import fruits
from tests.fruits_assets.dagster_platform import CLASSES, IMAGES, Platform, log_messages
from tests.report_page import ReportPage

TABLES = [RAW_IMAGES, MOBILENET_FEATURES, PCA_FEATURES_CSV]
REMAINING = [label for label in CLASSES if label != "Kiwi"]
# A name that Python, JSON, shells and addresses write in other ways.
NAME = 'Kiwi/l\'été "7" & 50 %.jpg'


@pytest.fixture(autouse=True)
def home(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAGSTER_HOME", str(platform.home))
    return platform.home


def photo(platform: Platform, name: str, side: int = 1200) -> bytes:
    """A new photo, so large that the store has an input of the model beside it. Returns its bytes."""
    seed = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
    pixels = np.random.default_rng(seed).integers(0, 256, (side // 40, side // 40, 3), np.uint8)
    path = platform.photos / name
    Image.fromarray(pixels).resize((side, side)).save(path, quality=80)
    return path.read_bytes()


def run(platform: Platform, **options: Any) -> Any:
    return run_pipeline(platform.settings, [], {}, **options)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def traces(
    platform: Platform, name: str, content: bytes, features: bytes = b"", picture: bytes = b""
) -> dict[str, set[str]]:
    """The folders of the store and of Dagster's home with a trace of a photo, by the kind of the trace."""
    digest = sha256(content)
    kinds = {
        "path": name.encode(),
        "SHA-256": digest.encode(),
        "SHA-256 as bytes": bytes.fromhex(digest),
        "number of the content": bytes.fromhex(digest[:16])[::-1],
        "content": content[len(content) // 2 :][:200],
        **({"features": features} if features else {}),
        **({"picture": picture} if picture else {}),
    }
    found: dict[str, set[str]] = {kind: set() for kind in kinds}
    for folder in (Path(platform.settings.store), platform.home):
        for place, inside in every_byte(files_below(folder)):
            for kind, needle in kinds.items():
                if needle in inside:
                    found[kind].add(Path(place).parts[0])
    return found


def assert_no_trace(
    platform: Platform, name: str, content: bytes, features: bytes = b"", picture: bytes = b""
) -> None:
    found = traces(platform, name, content, features, picture)
    assert not any(found.values()), found


def features_of(platform: Platform, name: str) -> bytes:
    """Some of the features of a photo, as a file would have them."""
    rows = read_pandas(platform.settings.store, MOBILENET_FEATURES)
    [vector] = rows[rows.path == name].features
    return np.asarray(vector, np.float32)[:64].tobytes()


def paths(platform: Platform, name: str) -> set[str]:
    return set(read_pandas(platform.settings.store, name, columns=["path"]).path)


def assert_in_order(platform: Platform) -> None:
    """The tables, CSVs and what Dagster says of them agree."""
    for check in ("one_feature_per_image", "one_row_per_feature", "one_model", "copies_match"):
        assert platform.failing_classes(check) == []
    assert stale_copies(platform.store) == []
    rows = holdings(platform.store)
    assert all(row.images == row.features == row.csv_rows for row in rows.values()), rows


def test_no_byte_of_an_erased_photo_is_left_in_the_store_and_in_dagsters_home(platform: Platform) -> None:
    content = photo(platform, NAME)
    run(platform, refit=True)
    features = features_of(platform, NAME)
    write_report(platform.store)
    picture = ReportPage(platform.store.read(REPORT_FILE)).picture(NAME)
    before = traces(platform, NAME, content, features, picture)
    assert before["path"] >= {*TABLES, "pca_features_csv_versions"}
    assert before["SHA-256"] >= {RAW_IMAGES, MOBILENET_FEATURES}
    assert before["content"] == {RAW_IMAGES}
    assert before["number of the content"] == {PCA_MODEL}
    assert before["features"] == {MOBILENET_FEATURES}
    assert before["picture"] == {REPORT}
    # The photo is in an old version too, and in the log of a run that has failed.
    run(platform, recompute=True)
    [last] = platform.instance.get_runs(limit=1)
    platform.instance.report_engine_event(f"the photo {NAME!r} cannot be read", last)

    result = fruits(platform, "erase", NAME, "--yes")
    assert result.exit_code == 0, result.output
    assert "The report may have shown them, and is gone. A new one: fruits report" in result.output
    assert_no_trace(platform, NAME, content, features, picture)
    assert_in_order(platform)
    assert holdings(platform.store)["Kiwi"].images == IMAGES
    write_report(platform.store)
    assert_no_trace(platform, NAME, content, features, picture)


def test_a_quarantined_photo_is_erased_too(platform: Platform) -> None:
    name = "Kiwi/so blöd.jpg"
    content = os.urandom(4000)
    (platform.photos / name).write_bytes(content)
    failed = run(platform).failed_classes  # one of five photos is bad
    assert name in failed["Kiwi"]
    before = traces(platform, name, content)
    assert QUARANTINED_IMAGES in before["path"] & before["SHA-256"]
    assert "history" in before["path"]
    assert fruits(platform, "erase", name, "--yes").exit_code == 0
    assert_no_trace(platform, name, content)
    assert run(platform).failed_classes == {}
    assert_in_order(platform)


def test_dagster_shows_no_picture_and_no_components_of_the_class_of_an_erased_photo(
    platform: Platform,
) -> None:
    def previews(label: str) -> list[str]:
        return [
            str(event.metadata["preview"].value)
            for asset in (RAW_IMAGES, PCA_FEATURES_CSV)
            for event in platform.events(asset, label)
            if "preview" in event.metadata
        ]

    assert any("data:image" in text for text in previews("Kiwi"))
    assert fruits(platform, "erase", "Kiwi/0_100.jpg", "--yes").exit_code == 0
    assert not any("data:image" in text or "pc1" in text for text in previews("Kiwi"))
    assert any("data:image" in text for text in previews("Lemon"))


def test_an_erased_photo_is_neither_new_nor_pending_for_any_later_run(platform: Platform) -> None:
    result = fruits(platform, "erase", "Kiwi/0_100.jpg", "--yes")
    assert "1 file in" in result.output
    assert "not removed, and no run reads them again" in result.output
    assert (platform.photos / "Kiwi/0_100.jpg").exists()
    assert run(platform, dry_run=True).changes == [
        ("photos", "nothing has changed"),
        ("would take", "nothing"),
    ]
    assert run(platform, recompute=True).failed_classes == {}
    observation = platform.observe()
    assert "Left out: 1 photo that fruits erase has erased." in log_messages(platform, observation)
    assert platform.run(
        ["raw_images"], "Kiwi", config={"raw_images": {"config": {"recompute": True}}}
    ).success
    for name in TABLES:
        assert "Kiwi/0_100.jpg" not in paths(platform, name)
    assert_in_order(platform)


def test_with_source_the_file_goes_too(platform: Platform) -> None:
    result = fruits(platform, "erase", "--source", str(platform.photos / "Kiwi/0_100.jpg"), "--yes")
    assert result.exit_code == 0, result.output
    assert not (platform.photos / "Kiwi/0_100.jpg").exists()
    assert (platform.photos / "Kiwi/1_100.jpg").exists()


def test_copies_under_other_paths_and_in_other_classes_are_the_same_photo(platform: Platform) -> None:
    shutil.copy(platform.photos / "Kiwi/0_100.jpg", platform.photos / "Lemon/copy.jpg")
    run(platform)
    result = fruits(platform, "erase", "Kiwi/0_100.jpg", "--yes")
    assert "2 photos: Kiwi/0_100.jpg, Lemon/copy.jpg" in result.output
    for name in TABLES:
        assert not {"Kiwi/0_100.jpg", "Lemon/copy.jpg"} & paths(platform, name)
    assert_in_order(platform)


def test_a_photo_that_comes_back_under_another_path_is_erased_again(platform: Platform) -> None:
    name, back = "Kiwi/once.jpg", "Lemon/again.jpg"
    content = photo(platform, name)
    run(platform)
    assert fruits(platform, "erase", "--source", name, "--yes").exit_code == 0
    (platform.photos / back).write_bytes(content)
    assert run(platform).failed_classes == {}
    assert_no_trace(platform, back, content)
    assert holdings(platform.store)["Lemon"].images == IMAGES
    assert_in_order(platform)
    assert dict(run(platform, dry_run=True).changes)["photos"] == "nothing has changed"


def test_another_photo_at_the_path_of_an_erased_photo_is_a_new_photo(platform: Platform) -> None:
    assert fruits(platform, "erase", "Kiwi/0_100.jpg", "--yes").exit_code == 0
    photo(platform, "Kiwi/0_100.jpg")
    assert run(platform).failed_classes == {}
    assert "Kiwi/0_100.jpg" in paths(platform, PCA_FEATURES_CSV)
    assert_in_order(platform)


def test_photos_can_be_chosen_by_hash_by_list_and_by_the_beginning_of_their_paths(
    platform: Platform, tmp_path: Path
) -> None:
    digest = sha256((platform.photos / "Kiwi/0_100.jpg").read_bytes())
    assert fruits(platform, "erase", "--sha256", digest.upper(), "--yes").exit_code == 0
    names = sorted(paths(platform, RAW_IMAGES))
    banana, lemon = (next(name for name in names if name.startswith(label)) for label in ("Banana", "Lemon"))
    hash_of_lemon = sha256((platform.photos / lemon).read_bytes())
    (tmp_path / "list.txt").write_text(f"{banana}\n\n{hash_of_lemon}\r\n")
    assert fruits(platform, "erase", "--list", str(tmp_path / "list.txt"), "--yes").exit_code == 0
    assert fruits(platform, "erase", "--prefix", "Orange/1", "--yes").exit_code == 0
    gone = set(names) - paths(platform, RAW_IMAGES)
    assert gone == {banana, lemon, *(name for name in names if name.startswith("Orange/1"))}
    assert_in_order(platform)


def test_a_class_that_is_erased_is_no_class_any_more(platform: Platform) -> None:
    assert fruits(platform, "erase", "--class", "Kiwi", "--yes").exit_code == 0
    assert sorted(holdings(platform.store)) == sorted(known_classes(platform.instance)) == sorted(REMAINING)
    assert not (Path(platform.settings.store) / PCA_FEATURES_CSV / "Kiwi.csv").exists()
    assert run(platform).failed_classes == {}
    assert platform.observe().success
    assert sorted(known_classes(platform.instance)) == sorted(REMAINING)
    assert_in_order(platform)


def test_neither_too_many_bad_photos_nor_too_many_lost_ones_block_an_erasure(platform: Platform) -> None:
    (platform.photos / "Kiwi/bad.jpg").write_bytes(b"bad")
    assert list(run(platform).failed_classes) == ["Kiwi"]
    for number in range(1, IMAGES):
        assert fruits(platform, "erase", f"Kiwi/{number}_100.jpg", "--yes").exit_code in (0, 1)
    names = sorted(name for name in paths(platform, RAW_IMAGES) if name.startswith("Kiwi/"))
    result = fruits(platform, "erase", *names[:-1], "--yes") if len(names) > 1 else None
    assert result is None or result.exit_code == 0
    assert holdings(platform.store)["Kiwi"].images == 1


def test_a_photo_that_is_deleted_leaves_a_class_with_too_many_bad_photos(platform: Platform) -> None:
    (platform.photos / "Kiwi/bad.jpg").write_bytes(b"bad")
    assert list(run(platform).failed_classes) == ["Kiwi"]
    names = sorted(name for name in paths(platform, RAW_IMAGES) if name.startswith("Kiwi/"))
    (platform.photos / names[0]).unlink()
    photo(platform, "Kiwi/new.jpg")
    (platform.photos / "Kiwi/bad too.jpg").write_bytes(b"bad")
    for _ in range(2):
        assert list(run(platform).failed_classes) == ["Kiwi"]
        left = {name for name in paths(platform, RAW_IMAGES) if name.startswith("Kiwi/")}
        assert left == set(names[1:])
        assert_in_order(platform)


def test_a_dry_run_and_the_answer_no_change_nothing(platform: Platform) -> None:
    before = dict(files_below(Path(platform.settings.store)))
    dry = fruits(platform, "erase", "Kiwi/0_100.jpg", "--dry-run")
    assert dry.exit_code == 0
    assert "1 photo: Kiwi/0_100.jpg" in dry.output
    for name in (RAW_IMAGES, MOBILENET_FEATURES, "CSVs"):
        assert f"{name}  1 row" in dry.output
    assert fruits(platform, "erase", "Kiwi/0_100.jpg", typed="n\n").exit_code == 1
    assert dict(files_below(Path(platform.settings.store))) == before
    assert not (platform.home / "erasure.key").exists()


def test_an_erasure_can_be_repeated(platform: Platform) -> None:
    for _ in range(2):
        assert fruits(platform, "erase", "--source", "Kiwi/0_100.jpg", "--yes").exit_code == 0
    assert_in_order(platform)


@pytest.mark.parametrize("step", ["erase_photos", "erase_records", "blank_records", "end_erasure"])
def test_the_next_erasure_finishes_one_that_was_interrupted(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    content = photo(platform, NAME)
    run(platform)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(erasing, step, interrupted)
        result = fruits(platform, "erase", NAME, "--yes")
    assert result.exit_code == 130
    assert "The photos may still be in some places. To finish: fruits erase" in result.output
    [work] = (platform.home / "erasing").iterdir()
    assert stat.S_IMODE(work.stat().st_mode) == 0o600
    result = fruits(platform, "erase")
    assert result.exit_code == 0, result.output
    assert "Finished the erasure of 20" in result.output
    assert_no_trace(platform, NAME, content)
    assert list((platform.home / "erasing").iterdir()) == []
    assert_in_order(platform)


def test_without_photos_and_unfinished_work_the_command_asks_for_photos(platform: Platform) -> None:
    assert fruits(platform, "erase").exit_code == 2


def erase_beside_a_run(platform: Platform, name: str) -> None:
    found = find(platform.settings, Selection(paths=frozenset([name])))
    work = erasing.work_of(found, remove=False, reason="")
    assert erasing.erase(platform.settings, platform.instance, work).failed == {}


@pytest.mark.parametrize(
    ("module", "commit"),
    [(ingest_images, "change_classes"), (extract_features, "change_classes"), (project_to_csv, "publish")],
)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_run_that_has_read_a_photo_does_not_bring_it_back(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, module: Any, commit: str, moment: str
) -> None:
    content = photo(platform, NAME)
    make_current = getattr(module, commit)
    done: list[bool] = []

    def erase_beside(*args: Any, **options: Any) -> Any:
        if done or args[1] == QUARANTINED_IMAGES:
            return make_current(*args, **options)
        done.append(True)
        if moment == "before":
            erase_beside_a_run(platform, NAME)
            return make_current(*args, **options)
        result = make_current(*args, **options)
        erase_beside_a_run(platform, NAME)
        return result

    monkeypatch.setattr(module, commit, erase_beside)
    assert run(platform).failed_classes == {}
    assert done
    assert_no_trace(platform, NAME, content)
    assert_in_order(platform)


def test_nothing_brings_an_erased_photo_back(platform: Platform) -> None:
    then = datetime.now().astimezone().isoformat()
    run(platform, recompute=True)
    assert fruits(platform, "erase", "Kiwi/0_100.jpg", "--yes").exit_code == 0
    result = fruits(platform, "restore", "Kiwi", "--to", then)
    assert result.exit_code == 1
    assert "does not reach back" in result.output
    assert "Kiwi/0_100.jpg" not in paths(platform, RAW_IMAGES)
    (platform.photos / "Kiwi").rename(platform.photos.parent / "kiwis")
    now = datetime.now().astimezone().isoformat()
    time.sleep(0.01)
    assert fruits(platform, "forget", "Kiwi", "--yes").exit_code == 0
    assert fruits(platform, "restore", "Kiwi", "--to", now).exit_code == 0
    assert holdings(platform.store)["Kiwi"].images == IMAGES - 1


def test_dagster_knows_when_by_whom_and_why_and_not_which_photo(platform: Platform, tmp_path: Path) -> None:
    receipt = tmp_path / "receipt.json"
    result = fruits(
        platform, "erase", "Kiwi/0_100.jpg", "--yes", "--reason", "Request 17", "--receipt", str(receipt)
    )
    assert "Remains: The PCA model is fitted on sums over all photos" in result.output
    assert "fruits run --refit" in result.output
    [record] = platform.instance.fetch_observations(dg.AssetKey(RAW_IMAGES), limit=1).records
    event = record.asset_observation
    assert event
    said = {name: value.value for name, value in event.metadata.items()}
    assert said["reason"] == "Request 17"
    assert said["erased_photos"] == 1
    assert "@" in str(said["by"])
    assert event.description == "1 photo was erased."
    [told] = json.loads(receipt.read_text())
    assert told["rows"] == {RAW_IMAGES: 1, MOBILENET_FEATURES: 1, QUARANTINED_IMAGES: 0}
    assert (told["csv_rows"], told["reason"], told["failed"]) == (1, "Request 17", {})
    assert "0_100" not in receipt.read_text()
    assert platform.out_of_sync() == ["feature_quality", PCA_MODEL]
    assert platform.observe().success
    assert platform.out_of_sync() == ["feature_quality", PCA_MODEL]


def test_a_photo_that_nobody_has_is_named(platform: Platform) -> None:
    before = dict(files_below(Path(platform.settings.store)))
    for words, message in {
        ("Kiwi/none.jpg",): "There is no photo 'Kiwi/none.jpg'",
        ("Kiwi/0_100.jpg", "Kiwi/none.jpg"): "There is no photo 'Kiwi/none.jpg'",
        ("--sha256", "0" * 64): "There is no photo of the SHA-256 000",
        ("--class", "kiwi"): "There is no class 'kiwi'",
        ("--prefix", "Kiwi/none"): "No path of a photo begins with 'Kiwi/none'",
    }.items():
        result = fruits(platform, "erase", *words, "--yes")
        assert result.exit_code == 1
        assert message in result.output
    assert fruits(platform, "erase", "--sha256", "abc", "--yes").exit_code == 2
    assert fruits(platform, "erase", "a.jpg", "--class", "Kiwi", "--yes").exit_code == 2
    assert dict(files_below(Path(platform.settings.store))) == before


def test_without_its_key_the_list_of_erasures_stops_a_run(platform: Platform) -> None:
    assert fruits(platform, "erase", "Kiwi/0_100.jpg", "--yes").exit_code == 0
    key = platform.home / "erasure.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    copy = key.rename(platform.home.parent / "copy.key")
    result = fruits(platform, "run")
    assert result.exit_code == 1
    assert "erasure.key does not exist, and it is the key of the list of erasures" in result.output
    key.write_text("0" * 64)
    assert "is another key than that of the list" in fruits(platform, "run").output
    assert "Kiwi/0_100.jpg" not in paths(platform, RAW_IMAGES)
    assert fruits(platform, "run", "--dry-run", FRUITS_ERASURE_KEY=str(copy)).exit_code == 0


def test_the_store_has_no_hash_of_an_erased_photo_that_anybody_can_compute(platform: Platform) -> None:
    content = (platform.photos / "Kiwi/0_100.jpg").read_bytes()
    assert fruits(platform, "erase", "Kiwi/0_100.jpg", "--yes").exit_code == 0
    [kept] = (Path(platform.settings.store) / "erasures").glob("*.json")
    said = kept.read_text()
    guesses = ["Kiwi/0_100.jpg", sha256(content), sha256(b"Kiwi/0_100.jpg")]
    assert not any(guess[:16] in said for guess in guesses)
    key = (platform.home / "erasure.key").read_text()
    assert not any(
        key.encode() in inside for _, inside in every_byte(files_below(Path(platform.settings.store)))
    )


def test_a_damaged_class_is_named_and_the_others_are_erased(platform: Platform) -> None:
    shutil.copy(platform.photos / "Kiwi/0_100.jpg", platform.photos / "Lemon/copy.jpg")
    run(platform)
    [part] = current(platform.store, RAW_IMAGES, ["Orange"])["Orange"].parts
    file = Path(platform.settings.store, part.path)
    file.write_bytes(file.read_bytes()[:-10])
    parquet.read_part.cache_clear()  # the command is another process
    parquet._read_columns.cache_clear()
    result = fruits(platform, "erase", "Kiwi/0_100.jpg", "--yes")
    assert result.exit_code == 1
    assert "failed  Orange:" in result.output
    left = read_pandas(platform.settings.store, RAW_IMAGES, classes=["Kiwi", "Lemon"], columns=["path"])
    assert not {"Kiwi/0_100.jpg", "Lemon/copy.jpg"} & set(left.path)


def test_retention_erases_photos_by_their_own_time(platform: Platform) -> None:
    year = 365 * 24 * 3600
    old = platform.photos / "Kiwi/1_100.jpg"
    for path in platform.photos.rglob("*.jpg"):
        os.utime(path, times=(time.time() - year + 3600,) * 2)
    os.utime(old, times=(time.time() - year - 3600,) * 2)
    run(platform)
    assert fruits(platform, "retention", "--older-than", "1y").exit_code == 2
    result = fruits(platform, "retention", "--older-than", "365d", "--source", "--yes")
    assert result.exit_code == 0, result.output
    assert "1 photo: Kiwi/1_100.jpg" in result.output
    assert not old.exists()
    assert_in_order(platform)
    assert fruits(platform, "retention", "--older-than", "365d", "--yes").output == "Nothing to erase.\n"


def test_retention_without_source_erases_a_photo_once(platform: Platform) -> None:
    old = platform.photos / "Kiwi/1_100.jpg"
    os.utime(old, times=(0, 0))
    run(platform)
    assert fruits(platform, "retention", "--older-than", "52w", "--yes").exit_code == 0
    assert "Kiwi/1_100.jpg" not in paths(platform, RAW_IMAGES)
    assert fruits(platform, "retention", "--older-than", "52w", "--yes").output == "Nothing to erase.\n"
    assert fruits(platform, "retention", "--older-than", "52w", "--source", "--yes").exit_code == 0
    assert not old.exists()
