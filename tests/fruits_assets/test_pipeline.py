"""`run_pipeline`, which `fruits run` calls: it observes the photos and materializes everything."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from fruits_assets.dagster_runs import Runs
from fruits_assets.partitions import known_classes, register_classes
from fruits_assets.pipeline import run_pipeline
from resources.run_locks import held_lock
from spark_jobs.errors import FruitsError
from spark_jobs.store.pointers import current_one, folder_of
from spark_jobs.store.schemas import PCA_FEATURES_CSV, PCA_MODEL
from tests.fruits_assets.dagster_platform import BY_CLASS, CLASSES, IMAGES, Platform, add_photo, spoil_photo
from tests.support import current_versions, leave_lock

Run = Callable[..., dict[str, list[str]]]


@pytest.fixture
def run_platform(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the pipeline on a finished platform, for some classes or all, with PCA config; returns a summary.

    The summary is {name: [text of each line]}; `failed` is always there.
    """
    monkeypatch.setenv("DAGSTER_HOME", str(platform.home))

    def run(*labels: str, **config: Any) -> dict[str, list[str]]:
        summary = run_pipeline(platform.settings, labels, config)
        lines: dict[str, list[str]] = {"failed": []}
        for name, value in summary.lines:
            lines.setdefault(name, []).append(value)
        assert summary.failed == bool(lines["failed"])
        return lines

    return run


def run_count(platform: Platform) -> int:
    return platform.instance.get_runs_count()


def current_pointers(platform: Platform) -> dict[str, Any]:
    """The current pointers of each table of results."""
    tables = [*BY_CLASS, PCA_MODEL]
    return {
        table: [current_versions(platform.store, table), current_one(platform.store, table)]
        for table in tables
    }


def test_all_classes_are_materialized_in_one_run(platform: Platform, run_platform: Run) -> None:
    runs = run_count(platform)
    add_photo(platform, "Kiwi")
    lines = run_platform()
    assert lines["classes"] == [f"{len(CLASSES)} done"]
    assert lines["images"] == [f"{IMAGES * len(CLASSES) + 1}, and 0 in quarantine"]
    assert lines["failed"] == []
    assert run_count(platform) == runs + 1
    # The model stays; it and the report on it are not of the newest features.
    assert platform.out_of_sync() == ["feature_quality", "pca_model"]
    run_platform(components=10)
    assert platform.out_of_sync() == []


def test_a_bad_class_does_not_stop_the_other_classes(platform: Platform, run_platform: Run) -> None:
    last = current_versions(platform.store, "raw_images")["Kiwi"]
    model = current_one(platform.store, PCA_MODEL)
    spoil_photo(platform, "Kiwi")
    shutil.copytree(platform.photos / "Kiwi", platform.photos / "Durian")  # this class has no good version
    for label in ("Apple Red 1", "Orange"):
        add_photo(platform, label)
    lines = run_platform(components=10)
    assert lines["classes"] == [f"{len(CLASSES) - 1} done, 2 failed"]
    assert [reason.partition(": ")[0] for reason in lines["failed"]] == ["Durian", "Kiwi"]
    assert current_versions(platform.store, "raw_images")["Kiwi"] == last
    # The new model was applied to the last version of Kiwi, as to the other classes.
    assert platform.out_of_sync() == [*(f"{asset} Durian" for asset in sorted(BY_CLASS)), "raw_images Kiwi"]
    assert platform.check("fitted_on_current_features").passed
    assert current_one(platform.store, PCA_MODEL) != model
    assert platform.metadata("pca_model")["images"] == IMAGES * len(CLASSES) + 2


def test_nothing_is_replaced_if_every_class_is_bad(platform: Platform, run_platform: Run) -> None:
    before = current_pointers(platform)
    for label in CLASSES:
        spoil_photo(platform, label)
    lines = run_platform()
    assert len(lines["failed"]) == len(CLASSES)
    assert current_pointers(platform) == before


def test_classes_whose_csvs_are_gone_at_the_end_of_a_run_have_failed(
    platform: Platform, run_platform: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = Runs.bring_up_to_date

    def lose_the_csvs_at_the_end(*arguments: Any) -> dict[str, str]:
        failed = finish(*arguments)
        shutil.rmtree(Path(platform.settings.store) / folder_of(PCA_FEATURES_CSV))
        return failed

    monkeypatch.setattr(Runs, "bring_up_to_date", lose_the_csvs_at_the_end)
    add_photo(platform, "Kiwi")
    lines = run_platform()
    assert lines["classes"] == [f"0 done, {len(CLASSES)} failed"]
    assert len(lines["failed"]) == len(CLASSES)
    assert all(f"{platform.settings.store} does not have its CSV" in line for line in lines["failed"])


@pytest.mark.parametrize("leave_folder", [True, False], ids=["unmounted", "removed"])
def test_a_store_that_has_vanished_is_begun_anew_only_if_asked_for(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, leave_folder: bool
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(platform.home))
    assert platform.run(BY_CLASS, "Kiwi").success
    shutil.rmtree(platform.settings.store)
    if leave_folder:
        Path(platform.settings.store).mkdir()
    vanished = rf"^FRUITS_STORE={platform.settings.store} has no photos, .* not mounted.* --accept-removals"
    with pytest.raises(FruitsError, match=vanished):
        run_pipeline(platform.settings, [], {})
    assert not list(Path(platform.settings.store).glob("**/*.parquet"))
    monkeypatch.setattr("fruits_assets.all_assets.begin_session", fail_with("the run begins"))
    with pytest.raises(FruitsError, match="the run begins"):
        run_pipeline(platform.settings, [], {}, accept_removals=True)


def fail_with(message: str) -> Callable[..., Any]:
    def fail(*_: Any) -> None:
        raise FruitsError(message)

    return fail


def test_a_run_of_some_classes_replaces_them_and_keeps_the_model(
    platform: Platform, run_platform: Run
) -> None:
    """Acai is registered last, so the three classes are no contiguous range of partitions."""
    shutil.copytree(platform.photos / "Lemon", platform.photos / "Acai")
    for label in ("Banana", "Kiwi"):
        add_photo(platform, label)
    before = current_pointers(platform)
    lines = run_platform("Acai", "Banana", "Kiwi")
    assert lines["classes"] == ["3 done"]
    assert known_classes(platform.instance) == [*CLASSES, "Acai"]
    after = current_pointers(platform)
    assert after[PCA_MODEL] == before[PCA_MODEL]
    for table in BY_CLASS:
        old, new = before[table][0], after[table][0]
        assert [label for label in new if new[label] != old.get(label)] == ["Acai", "Banana", "Kiwi"]
    assert platform.out_of_sync(*BY_CLASS) == []


def test_classes_that_lost_all_photos_stay_in_the_model(platform: Platform, run_platform: Run) -> None:
    register_classes(platform.instance, ["Never seen"])
    shutil.rmtree(platform.photos / "Huckleberry")
    lines = run_platform()
    assert lines["failed"] == []
    assert lines["classes"] == [f"{len(CLASSES)} done"]
    assert platform.metadata("pca_model")["classes"] == len(CLASSES)


def test_an_unknown_class_is_refused_with_the_known_classes(platform: Platform, run_platform: Run) -> None:
    before = current_pointers(platform)
    with pytest.raises(FruitsError, match=r"no class 'Durian'.*Apple Red 1, Banana"):
        run_platform("Kiwi", "Durian")
    assert current_pointers(platform) == before


def test_a_run_of_one_class_needs_a_model(platform: Platform, run_platform: Run) -> None:
    platform.store.fs.delete_file("pca_model/current.json")
    with pytest.raises(FruitsError, match=r"Single classes need a PCA model.*fruits run"):
        run_platform("Kiwi")


def test_more_components_than_images_are_refused(platform: Platform, run_platform: Run) -> None:
    with pytest.raises(FruitsError, match=r"pca_model failed: 40 components need at least 41 images"):
        run_platform(components=40)


def test_a_root_without_photos_is_refused_and_nothing_is_written(
    platform: Platform, run_platform: Run
) -> None:
    before, runs = current_pointers(platform), run_count(platform)
    shutil.rmtree(platform.photos)
    with pytest.raises(FruitsError, match=r"FRUITS_IMAGES=.* does not exist"):
        run_platform()
    platform.photos.mkdir()
    (platform.photos / "loose.jpg").write_bytes(b"not in a class folder")
    with pytest.raises(FruitsError, match=r"FRUITS_IMAGES=.* holds no photo in a class folder"):
        run_platform()
    assert current_pointers(platform) == before
    assert run_count(platform) == runs


def test_the_next_run_marks_a_run_of_a_killed_process_as_failed(run_platform: Run) -> None:
    with dg.DagsterInstance.get() as instance:
        dead, alive, unknown = (
            instance.add_run(dg.DagsterRun("pipeline", status=dg.DagsterRunStatus.STARTED)).run_id
            for _ in range(3)
        )
        leave_lock(instance, dead)
        with held_lock(instance, alive):
            run_platform()
        states = {run.run_id: run.status for run in instance.get_runs()}
    assert states[dead] == dg.DagsterRunStatus.FAILURE
    assert states[alive] == states[unknown] == dg.DagsterRunStatus.STARTED
