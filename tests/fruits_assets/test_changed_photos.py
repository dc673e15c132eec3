"""`fruits run` and Dagster work on photos that have changed, and say what they did and what they left."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from fruits_assets.pipeline import Summary, run_pipeline
from resources import photo_folders
from resources.local.spark import LocalSpark
from spark_jobs.errors import FruitsError
from spark_jobs.store.pointers import current_one
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_FEATURES_CSV, PCA_MODEL, RAW_IMAGES
from tests.fruits_assets.dagster_platform import (
    BY_CLASS,
    CLASSES,
    IMAGES,
    Platform,
    add_photo,
    log_messages,
    spoil_photo,
)
from tests.support import current_versions

Run = Callable[..., Summary]


@pytest.fixture
def run(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`fruits run` on a finished platform, with the options of `run_pipeline`."""
    monkeypatch.setenv("DAGSTER_HOME", str(platform.home))

    def run_with(*labels: str, components: int | None = None, **options: bool) -> Summary:
        config = {} if components is None else {"components": components}
        return run_pipeline(platform.settings, labels, config, **options)

    return run_with


@pytest.fixture
def no_spark(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("Spark starts")

    monkeypatch.setattr(LocalSpark, "run", refuse)
    monkeypatch.setattr("fruits_assets.all_assets.begin_session", refuse)


def files_of(folder: Path) -> dict[Path, int]:
    """The files below a folder, with the times of their last changes."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def runs_of(platform: Platform) -> int:
    return platform.instance.get_runs_count()


# What is worked on.


@pytest.mark.usefixtures("no_spark")
def test_where_nothing_has_changed_neither_spark_nor_a_dagster_run_starts(
    platform: Platform, run: Run
) -> None:
    store, runs = files_of(Path(platform.settings.store)), runs_of(platform)
    summary = run()
    assert summary.changes == [("photos", "nothing has changed")]
    assert (summary.classes_done, summary.failed) == (len(CLASSES), False)
    assert (summary.images, summary.csv_rows) == (IMAGES * len(CLASSES), IMAGES * len(CLASSES))
    assert files_of(Path(platform.settings.store)) == store
    assert runs_of(platform) == runs


@pytest.mark.usefixtures("no_spark")
def test_a_dry_run_says_what_there_is_to_do_and_does_nothing(platform: Platform, run: Run) -> None:
    add_photo(platform, "Kiwi")
    (platform.photos / "Lemon" / "0_100.jpg").unlink()
    store, runs = files_of(Path(platform.settings.store)), runs_of(platform)
    summary = run(dry_run=True)
    [(photos, counts), (would_take, time)] = summary.changes
    assert (photos, counts) == ("photos", "1 new, 1 gone in 2 classes")
    assert (would_take, time[:6]) == ("would take", "about ")
    assert "compute 1 features" in time
    assert files_of(Path(platform.settings.store)) == store
    assert runs_of(platform) == runs


def test_only_changed_classes_are_worked_on_in_one_run(platform: Platform, run: Run) -> None:
    """Apple Red 1 and Kiwi are no neighbours: the classes between them need nothing, and cost a look."""
    before = {output: current_versions(platform.store, output) for output in BY_CLASS}
    runs = runs_of(platform)
    for label in ("Apple Red 1", "Kiwi"):
        add_photo(platform, label)
    summary = run()
    assert summary.changes == [("photos", "2 new in 2 classes")]
    assert runs_of(platform) == runs + 1
    for output in BY_CLASS:
        after = current_versions(platform.store, output)
        assert [label for label in after if after[label] != before[output][label]] == ["Apple Red 1", "Kiwi"]
    assert platform.out_of_sync(*BY_CLASS) == []


def test_a_class_is_found_in_both_normal_forms_of_unicode(platform: Platform, run: Run) -> None:
    composed, decomposed = "P\u00eache", "Pe\u0302che"
    shutil.copytree(platform.photos / "Kiwi", platform.photos / decomposed)
    for label in (composed, decomposed):
        assert run(label, dry_run=True).changes[0] == ("photos", f"{IMAGES} new in 1 class")


def test_files_that_an_earlier_release_took_for_bad_photos_leave_the_quarantine(
    platform: Platform, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2 * IMAGES):
        (platform.photos / "Kiwi" / f"{number}.xml").write_text("<annotation/>")
    with monkeypatch.context() as earlier:
        earlier.setattr(photo_folders, "companion", lambda name: None)
        assert list(run().failed_classes) == ["Kiwi"]
    summary = run()
    assert summary.failed_classes == {}
    assert (summary.images, summary.quarantined_images) == (IMAGES * len(CLASSES), 0)


def test_photos_are_listed_once_in_a_run(
    platform: Platform, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[str] = []
    list_photos = photo_folders.list_photos

    def count(uri: str, **options: Any) -> Any:
        listed.append(uri)
        return list_photos(uri, **options)

    monkeypatch.setattr(photo_folders, "list_photos", count)
    add_photo(platform, "Kiwi")
    run()
    assert listed == [platform.settings.images]


def test_a_class_that_has_failed_is_tried_again_until_it_succeeds(platform: Platform, run: Run) -> None:
    good = (platform.photos / "Kiwi" / "0_100.jpg").read_bytes()
    spoil_photo(platform, "Kiwi")
    for _ in range(2):
        summary = run()
        assert list(summary.failed_classes) == ["Kiwi"]
        assert f"1 of {IMAGES} photos are bad" in summary.failed_classes["Kiwi"]
    (platform.photos / "Kiwi" / "0_100.jpg").write_bytes(good)
    assert run().failed_classes == {}
    assert run().changes == [("photos", "nothing has changed")]


def test_a_summary_has_the_failed_checks_and_an_error_among_them_is_a_failure(
    platform: Platform, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = platform.photos / "Lemon" / "copy.jpg"
    shutil.copy(platform.photos / "Kiwi" / "0_100.jpg", copy)
    summary = run()
    [doubled] = summary.failed_checks
    assert (doubled.check, doubled.is_error) == ("raw_images.no_doubles", False)
    said = "1 photo is a copy of other photos, and 1 photo is in several classes: "
    assert doubled.reason == f"{said}Kiwi/0_100.jpg = Lemon/copy.jpg"
    assert ("check", f"raw_images.no_doubles warns: {doubled.reason}") in summary.lines
    assert not summary.failed
    copy.unlink()
    monkeypatch.setattr("fruits_assets.assets.raw_images.bad_photos", lambda store: {"Lemon": 1})
    summary = run()
    [wrong] = [check for check in summary.failed_checks if check.is_error]
    assert (wrong.check, wrong.reason) == ("raw_images.counts_reconcile", "Lemon")
    assert summary.failed


def test_nothing_is_computed_with_an_extractor_that_fails_its_check(
    platform: Platform, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = current_versions(platform.store, MOBILENET_FEATURES)
    monkeypatch.setattr("fruits_assets.assets.feature_extractor.MAX_DIFFERENCE", -1)
    add_photo(platform, "Kiwi")
    with pytest.raises(FruitsError, match="feature_extractor failed: the check matches_keras failed"):
        run()
    # A run of assets stops there too.
    assert not platform.run(["feature_extractor", *BY_CLASS], "Kiwi").success
    assert current_versions(platform.store, MOBILENET_FEATURES) == before
    assert not platform.check("matches_keras").passed


def test_classes_that_failed_are_named_where_a_later_step_ends_the_run(platform: Platform, run: Run) -> None:
    spoil_photo(platform, "Kiwi")
    with pytest.raises(FruitsError) as caught:
        run(components=200)
    first, second = str(caught.value).splitlines()
    assert first.startswith("pca_model failed: 200 components need at least 201 images")
    assert second.startswith(f"failed  Kiwi: 1 of {IMAGES} photos are bad. Most often: 'Kiwi/0_100.jpg': ")


def test_all_computes_everything_again_and_keeps_the_model(platform: Platform, run: Run) -> None:
    before = {output: current_versions(platform.store, output) for output in BY_CLASS}
    model = current_one(platform.store, PCA_MODEL)
    assert run(recompute=True).failed_classes == {}
    for output in BY_CLASS:
        after = current_versions(platform.store, output)
        for label in CLASSES:
            assert after[label].data_version == before[output][label].data_version
            assert after[label].parts != before[output][label].parts
    assert current_one(platform.store, PCA_MODEL) == model
    assert platform.metadata(MOBILENET_FEATURES, "Kiwi")["new_images"] == IMAGES


# Photos that vanish.


def test_a_class_that_would_lose_most_photos_fails_until_the_removals_are_accepted(
    platform: Platform, run: Run
) -> None:
    before = current_versions(platform.store, RAW_IMAGES)
    for number in range(3):
        (platform.photos / "Kiwi" / f"{number}_100.jpg").unlink()
    (platform.photos / "Lemon" / "0_100.jpg").unlink()
    summary = run()
    assert list(summary.failed_classes) == ["Kiwi"]
    assert summary.failed_classes["Kiwi"].startswith("3 of its 4 photos are gone. ")
    assert "fruits run --accept-removals" in summary.failed_classes["Kiwi"]
    now = current_versions(platform.store, RAW_IMAGES)
    assert now["Kiwi"] == before["Kiwi"]
    assert now["Lemon"].rows == IMAGES - 1
    assert not platform.run([RAW_IMAGES], "Kiwi").success
    accept = {RAW_IMAGES: {"config": {"accept_removals": True}}}
    assert platform.run([RAW_IMAGES], "Kiwi", config=accept).success
    assert current_versions(platform.store, RAW_IMAGES)["Kiwi"].rows == 1
    assert run().failed_classes == {}


def test_a_class_that_would_lose_a_photo_fails_while_most_photos_of_the_store_are_gone(
    platform: Platform, run: Run
) -> None:
    for label in CLASSES[:4]:
        shutil.rmtree(platform.photos / label)
    (platform.photos / "Lemon" / "0_100.jpg").unlink()
    summary = run()
    assert list(summary.failed_classes) == ["Lemon"]
    assert summary.failed_classes["Lemon"].startswith("17 of the 24 photos of the store are gone. ")
    assert run(accept_removals=True).failed_classes == {}
    assert current_versions(platform.store, RAW_IMAGES)["Lemon"].rows == IMAGES - 1


@pytest.mark.parametrize("nested", [False, True])
def test_a_folder_that_cannot_be_listed_takes_no_photo_out(
    platform: Platform, run: Run, monkeypatch: pytest.MonkeyPatch, nested: bool
) -> None:
    """`nested`: one of two folders of the class. Else all its photos seem to be gone."""
    if nested:
        (platform.photos / "more" / "Kiwi").mkdir(parents=True)
        for number in range(2):
            name = f"{number}_100.jpg"
            (platform.photos / "Kiwi" / name).rename(platform.photos / "more" / "Kiwi" / name)
        assert run().failed_classes == {}
    before, scandir = current_versions(platform.store, RAW_IMAGES), os.scandir
    hidden = platform.photos / "more" / "Kiwi" if nested else platform.photos / "Kiwi"

    def refused(path: Any) -> Any:
        if Path(path) == hidden:
            raise OSError(5, "Input/output error")
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refused)
        summary = run()
    assert list(summary.failed_classes) == ["Kiwi"]
    assert "cannot be listed" in summary.failed_classes["Kiwi"]
    assert current_versions(platform.store, RAW_IMAGES) == before
    assert run().failed_classes == {}


# The model.


def test_the_model_stays_and_the_run_says_what_has_come_since(platform: Platform, run: Run) -> None:
    model = current_one(platform.store, PCA_MODEL)
    add_photo(platform, "Kiwi")
    shutil.copytree(platform.photos / "Lemon", platform.photos / "Lime")
    for photo in (platform.photos / "Lime").iterdir():
        photo.rename(photo.with_name(f"lime-{photo.name}"))
    summary = run()
    assert current_one(platform.store, PCA_MODEL) == model
    came = "1 image and 1 class have come since it was fitted"
    assert summary.since_fit.startswith(f"{came}. It keeps ")
    assert summary.since_fit.endswith("To fit a new one: fruits run --refit")
    assert ("model", summary.since_fit) in summary.lines
    check = platform.check("fitted_on_current_features")
    assert not check.passed
    assert str(check.description) == summary.since_fit
    assert check.metadata["new_images"].value == 1
    assert 0 < float(str(check.metadata["kept_variance"].value)) < 1
    assert run().since_fit == summary.since_fit


def test_a_new_model_has_as_many_components_as_the_last_and_projects_all_classes(
    platform: Platform, run: Run
) -> None:
    assert run(components=7).components == 7
    add_photo(platform, "Kiwi")
    before = current_versions(platform.store, PCA_FEATURES_CSV)
    summary = run(refit=True)
    assert (summary.components, summary.since_fit) == (7, "")
    assert ("PCA", "a new model is fitted, and projects all classes") in summary.changes
    after = current_versions(platform.store, PCA_FEATURES_CSV)
    assert [label for label in CLASSES if after[label].inputs == before[label].inputs] == []
    assert platform.check("fitted_on_current_features").passed
    assert platform.out_of_sync() == []


# In Dagster.


def test_each_event_says_how_many_images_were_new_kept_and_gone(platform: Platform) -> None:
    add_photo(platform, "Kiwi")
    (platform.photos / "Kiwi" / "0_100.jpg").unlink()
    before = {asset: platform.version(asset, "Lemon") for asset in BY_CLASS}
    result = platform.run(BY_CLASS, "Kiwi", "Lemon")
    assert result.success
    for asset in BY_CLASS:
        changed, same = (platform.metadata(asset, label) for label in ("Kiwi", "Lemon"))
        counts = ("new_images", "kept_images", "gone_images")
        if asset != PCA_FEATURES_CSV:  # rows of a file that was written anew are projected again
            assert [changed[name] for name in counts] == [1, IMAGES - 1, 1]
        assert platform.run_figures(asset)["images_in_run"] >= 1
        assert [same[name] for name in counts] == [0, IMAGES, 0]
        assert platform.events(asset, "Kiwi")[0].description is None
        assert platform.events(asset, "Lemon")[0].description == "Nothing has changed."
        assert platform.version(asset, "Lemon") == before[asset]
        assert f"{asset}: nothing has changed in 1 class." in log_messages(platform, result)
    assert platform.run_figures(RAW_IMAGES)["images_in_run"] == 1


@pytest.mark.usefixtures("no_spark")
def test_a_run_over_classes_without_a_change_starts_no_spark_and_moves_no_mark(platform: Platform) -> None:
    before = {(asset, label): platform.version(asset, label) for asset in BY_CLASS for label in CLASSES}
    assert platform.run(BY_CLASS, CLASSES[0], CLASSES[-1]).success
    assert {key: platform.version(*key) for key in before} == before
    assert platform.out_of_sync() == []


@pytest.mark.usefixtures("no_spark")
def test_a_dagster_that_is_new_to_a_store_learns_its_classes_once(
    platform: Platform, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "new_home"
    home.mkdir()
    shutil.copy(platform.home / "dagster.yaml", home)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    assert run().changes == [("photos", "nothing has changed")]
    with dg.DagsterInstance.get() as instance:
        for asset in BY_CLASS:
            assert instance.get_materialized_partitions(dg.AssetKey(asset)) == set(CLASSES)
        runs = instance.get_runs_count()
        run()
        assert instance.get_runs_count() == runs


def test_recompute_in_the_config_computes_a_class_again(platform: Platform) -> None:
    before = {asset: platform.version(asset, "Kiwi") for asset in BY_CLASS}
    assert platform.recompute(BY_CLASS, "Kiwi").success
    for asset in BY_CLASS:
        assert platform.metadata(asset, "Kiwi")["new_images"] == IMAGES
        assert platform.version(asset, "Kiwi") == before[asset]
