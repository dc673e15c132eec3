"""`fruits report`: what the file shows, and what it can do to nobody."""

import base64
import hashlib
import json
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from fruits_assets.pipeline import run_pipeline
from fruits_assets.report import write
from fruits_assets.report.alike import Thresholds, near_pairs, read_vectors, thresholds
from fruits_assets.report.write import write_report
from resources.settings import Settings
from spark_jobs.errors import FruitsError
from spark_jobs.store import parquet
from spark_jobs.store.leases import held_lease
from spark_jobs.store.parquet import PartWriter
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import MOBILENET_FEATURES, RAW_IMAGES, REPORT_FILE, SCHEMAS
from spark_jobs.store.tables import current, replace_classes
from tests.every_byte import files_below
from tests.fruits_assets.commands import fruits
from tests.fruits_assets.dagster_platform import CLASSES, IMAGES, Platform
from tests.report_page import ReportPage
from tests.s3_server import s3_bucket
from tests.support import publish_features, rewrite

MOST_BYTES = 10_000_000
# Names that would be programs in a page that does not escape them. A slash makes a folder in a folder. The
# innermost folder is the class.
SCRIPT = "</script><script>alert(1)</script>"
INNERMOST = "script><script>alert(1)<"
CLASS = '<img src=x onerror=alert(2)> & "Kiwi\'s"'


def page(store: Root) -> ReportPage:
    return ReportPage(store.read(REPORT_FILE))


@pytest.fixture(scope="module")
def strange(finished_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform where names of a class, a photo and a bad file are HTML, with photos in two classes."""
    platform = Platform(shutil.copytree(finished_folder, tmp_path_factory.mktemp("strange") / "platform"))
    photos = platform.photos
    shutil.copytree(photos / "Kiwi", photos / CLASS)
    for number, path in enumerate(sorted((photos / CLASS).iterdir())):
        with Image.open(photos / "Kiwi" / path.name) as photo:
            # Only the first is a photo of another class, byte for byte; one is nearly the same.
            turned = (
                ImageEnhance.Brightness(photo).enhance(1.05) if number == 1 else photo.rotate(90 + number)
            )
        if number:
            turned.save(path, quality=97)
    (photos / "Lemon" / SCRIPT).parent.mkdir(parents=True)
    shutil.copy(photos / "Lemon/0_100.jpg", photos / "Lemon" / f"{SCRIPT}.jpg")
    shutil.copy(photos / "Banana/0_100.jpg", photos / "Banana/again.jpg")
    (photos / "Orange" / f"{SCRIPT}.jpg").parent.mkdir(parents=True)
    (photos / "Orange" / f"{SCRIPT}.jpg").write_bytes(b"<html>")
    (photos / "Orange/empty.jpg").write_bytes(b"")
    platform.settings = platform.settings.model_copy(update={"max_bad_share": 0.9})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(platform.home))
        assert run_pipeline(platform.settings, [], {}, refit=True).failed_classes == {}
    write_report(platform.store)
    yield platform
    platform.close()


def test_the_command_writes_one_file_and_says_where(platform: Platform) -> None:
    result = fruits(platform, "report", "--no-open")
    assert result.exit_code == 0, result.output
    file = Path(platform.settings.store, REPORT_FILE)
    assert f"report  {file}, " in result.output
    assert f"{len(CLASSES) * IMAGES} shown" in result.output
    assert f"Open it in a browser: {file.as_uri()}" in result.output
    assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0
    told = json.loads(fruits(platform, "report", "--json").output)
    assert told == {
        "path": str(file),
        "bytes": file.stat().st_size,
        "photos": len(CLASSES) * IMAGES,
        "problems": [],
    }


def test_a_server_without_a_browser_is_told_the_place(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    result = fruits(platform, "report")
    assert result.exit_code == 0
    assert "Open it in a browser: file:///" in result.output


def test_a_browser_opens_the_report(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf "%s" "$1" > {tmp_path}/opened\n')
    browser.chmod(0o700)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    result = fruits(platform, "report")
    assert "Open it" not in result.output, result.output
    assert (tmp_path / "opened").read_text() == Path(platform.settings.store, REPORT_FILE).as_uri()


def test_the_report_shows_classes_photos_components_and_times(strange: Platform) -> None:
    shown = page(strange.store)
    for label in (*CLASSES, CLASS, INNERMOST):
        assert label in shown.text
    listed = {f"{label}/{number}_100.jpg" for label in CLASSES for number in range(IMAGES)}
    assert listed <= shown.files
    pictures = shown.pictures()
    assert len(pictures) == (len(CLASSES) + 1) * IMAGES + 2
    assert {picture.format for picture in pictures} == {"WEBP"}
    assert all(max(picture.size) <= 128 for picture in pictures)
    data = shown.charts["data"]
    assert {point["class"] for point in data["points"]} == {*CLASSES, CLASS, INNERMOST}
    assert len(data["points"]) == len(pictures)
    assert data["shares"][-1]["together"] == pytest.approx(sum(row["share"] for row in data["shares"]))
    assert {row["stage"] for row in data["times"]} >= {RAW_IMAGES, MOBILENET_FEATURES}
    assert set(shown.charts["specs"]) == {"scree", "scatter", "times"}


def test_a_dot_of_the_scatter_is_where_the_csv_says(strange: Platform) -> None:
    from fruits_assets.readers import read_pandas

    rows = read_pandas(strange.settings.store, "pca_features_csv").set_index("path")
    points = {point["file"]: point for point in page(strange.store).charts["data"]["points"]}
    assert points.keys() == set(rows.index)
    for path, point in points.items():
        assert point["pc1"] == pytest.approx(rows.loc[path, "pc1"], abs=1e-3)
        assert point["pc6"] == pytest.approx(rows.loc[path, "pc6"], abs=1e-3)


def test_the_quarantine_is_sorted_by_reason(strange: Platform) -> None:
    text = page(strange.store).text
    quarantine = text[text.rindex("These files are no usable photos") :]
    empty, web_page = quarantine.index("empty file"), quarantine.index("not an image in a supported format")
    assert quarantine.index("Orange/empty.jpg") < empty < quarantine.index(f"Orange/{SCRIPT}.jpg") < web_page


def test_no_name_of_the_store_becomes_html_or_a_program(strange: Platform) -> None:
    shown = page(strange.store)
    assert f"Lemon/{SCRIPT}.jpg" in shown.files
    tags = [tag for tag, _ in shown.elements]
    assert tags.count("script") == 4
    assert not any("onerror" in attributes or "src" in attributes for _, attributes in shown.elements)
    assert not any(name.startswith("on") or name == "style" for _, own in shown.elements for name in own)


def test_the_policy_of_the_page_allows_its_own_scripts_and_no_request(strange: Platform) -> None:
    shown = page(strange.store)
    [policy] = [
        own["content"] or ""
        for _, own in shown.elements
        if own.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for kind, rule in (("script", "script-src"), ("style", "style-src")):
        hashes = [
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
            for name, text in shown.scripts
            if name == kind
        ]
        assert hashes
        assert rules[rule].split() == hashes
    links = [
        own.get(name) for _, own in shown.elements for name in ("href", "src", "action") if own.get(name)
    ]
    assert all((link or "").startswith("#") for link in links)


def test_each_link_leads_to_a_place_of_the_page(strange: Platform) -> None:
    shown = page(strange.store)
    places = [own["id"] for _, own in shown.elements if "id" in own]
    assert len(places) == len(set(places))
    assert {(own["href"] or "")[1:] for tag, own in shown.elements if tag == "a"} <= set(places)


def test_a_copied_photo_in_another_class_is_found(strange: Platform) -> None:
    text = page(strange.store).text
    alike = text[text.rindex("In two classes") : text.rindex("In one class")]
    copies, near = alike.split("Nearly the same:")
    assert "2 photos are in several classes, byte for byte" in copies
    assert "Kiwi/0_100.jpg" in copies and f"{CLASS}/0_100.jpg" in copies
    assert f"Lemon/{SCRIPT}.jpg" in copies
    assert "Kiwi/1_100.jpg" in near and f"{CLASS}/1_100.jpg" in near
    assert "Banana/again.jpg" in text[text.rindex("In one class") :]


# Near-duplicates.


def film(frames: int, seed: int) -> NDArray[np.float32]:
    """The features of a turn: each frame is like its neighbours, and unlike those across."""
    angles = np.linspace(0, 2 * np.pi, frames, endpoint=False)
    axes = np.abs(np.random.default_rng(seed).normal(size=(3, 1280)))
    turn = axes[0] + 0.5 * np.outer(np.cos(angles), axes[1]) + 0.5 * np.outer(np.sin(angles), axes[2])
    return turn.astype(np.float32)


def test_neighbouring_frames_are_no_near_duplicates_and_distant_ones_are(tmp_path: Path) -> None:
    kiwi, lemon = film(60, 1), film(60, 2)
    kiwi[40] = kiwi[5] * 1.001
    lemon[7] = kiwi[20] * 1.001
    publish_features(str(tmp_path), {"Kiwi": kiwi, "Lemon": lemon})
    store = open_root(str(tmp_path))
    problems: list[str] = []
    vectors = read_vectors(store, current(store, MOBILENET_FEATURES), problems)
    lengths = np.linalg.norm(kiwi, axis=1)
    assert (kiwi[0] @ kiwi[1]) / (lengths[0] * lengths[1]) > 0.995
    across, within = near_pairs(vectors, Thresholds(0.999, 0.9999))

    def paths(pairs: object) -> list[set[str]]:
        return [{vectors.paths[pair.one], vectors.paths[pair.other]} for pair in pairs.closest]  # type: ignore[attr-defined]

    assert paths(across) == [{"Kiwi/00020.jpg", "Lemon/00007.jpg"}]
    assert paths(within) == [{"Kiwi/00005.jpg", "Kiwi/00040.jpg"}]
    # The frames beside the copied one are like it too.
    assert (across.found, within.found, problems) == (3, 1, [])


def test_pairs_of_all_blocks_are_found_once(tmp_path: Path) -> None:
    values = np.random.default_rng(3).normal(size=(2500, 1280)).astype(np.float32)
    pairs = {(10, 20), (900, 1500), (1100, 2400), (2100, 2450)}
    for one, other in pairs:
        values[other] = values[one] * 2
    values[5], values[6, 3] = 0, np.nan
    classes = {f"class {number:04}": values[number : number + 1] for number in range(len(values))}
    publish_features(str(tmp_path), classes)
    store = open_root(str(tmp_path))
    problems: list[str] = []
    vectors = read_vectors(store, current(store, MOBILENET_FEATURES), problems)
    across, _ = near_pairs(vectors, thresholds("imagenet"))
    names = [{str(vectors.labels[pair.one]), str(vectors.labels[pair.other])} for pair in across.closest]
    assert sorted(map(sorted, names)) == sorted([f"class {n:04}" for n in sorted(pair)] for pair in pairs)
    assert problems == ["The features of 2 photos are no numbers, or all zero."]


def test_a_sample_reads_the_first_row_groups_alone(tmp_path: Path) -> None:
    values = np.random.default_rng(4).normal(size=(400, 1280)).astype(np.float32)
    publish_features(str(tmp_path), {"Kiwi": values, "Lemon": values + 1})
    store = open_root(str(tmp_path))
    versions = current(store, MOBILENET_FEATURES)
    [part] = versions["Kiwi"].parts
    file = tmp_path / part.path
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 100_000] = bytes(100_000)
    file.write_bytes(content)
    problems: list[str] = []
    assert len(read_vectors(store, versions, problems, most=100).paths) == 100
    assert problems == []
    read_vectors(store, versions, problems)
    assert "Kiwi" in problems[0]


# Large and damaged stores.


def publish_noise(store: Root, classes: int, images: int, side: int) -> None:
    """Makes photos of noise, which no thumbnail compresses, the current `raw_images` of many classes."""
    generator = np.random.default_rng(5)
    parts = {}
    schema = SCHEMAS[RAW_IMAGES]
    for number in range(classes):
        label = f"class {number:04}"
        writer = PartWriter(store, f"{RAW_IMAGES}/tests", schema)
        rows = []
        for image in range(images):
            file = store_photo(generator.integers(0, 256, (side, side, 3), np.uint8))
            digest = hashlib.sha256(file).hexdigest()
            known = {"path": f"{label}/{image}.jpg", "label": label, "content": file, "sha256": digest}
            rows.append(known | {"bytes": len(file), "width": side, "height": side, "format": "JPEG"})
        writer.write(pa.RecordBatch.from_pylist(rows, schema=schema))
        parts[label] = [writer.close()]
    with held_lease(store, "tests") as lease:
        replace_classes(store, RAW_IMAGES, parts, lease)


def store_photo(pixels: NDArray[np.uint8]) -> bytes:
    import io

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=80)
    return file.getvalue()


def test_a_large_store_has_a_sample_below_10_mb_that_says_so(tmp_path: Path) -> None:
    store = open_root(str(tmp_path / "store"))
    publish_noise(store, classes=300, images=12, side=100)
    written = write_report(store)
    assert written.bytes < MOST_BYTES
    assert written.photos == 2400
    shown = page(store)
    assert "This is a sample: 2,400 of 3,600 photos, at most 8 of each class." in re.sub(
        r"\s+", " ", shown.text
    )
    assert len(shown.pictures()) == 2400
    assert shown.charts["data"]["points"] == []  # there are neither features nor a model


def test_a_damaged_file_is_named_and_stops_nothing(platform: Platform) -> None:
    store = platform.store
    versions = current(store, RAW_IMAGES)
    [cut] = versions["Banana"].parts
    file = Path(store.uri, cut.path)
    file.write_bytes(file.read_bytes()[:-10])
    [changed] = versions["Kiwi"].parts
    file = Path(store.uri, changed.path)
    rows = pq.read_table(file)
    contents = rows.column("content").to_pylist()
    contents[1] = contents[0]
    rewrite(file, rows.set_column(rows.schema.get_field_index("content"), "content", pa.array(contents)))
    [model] = Path(store.uri).glob("pca_model/version=*/*/model/model.json")
    model.write_text('{"explained_variance": ["a", NaN]}')
    store.write("feature_quality/current.json", b'{"confusions": 3}')
    store.write("run_records/x/raw_images.json", b"[]")
    parquet.read_part.cache_clear()  # the command is another process
    parquet._read_columns.cache_clear()

    result = fruits(platform, "report", "--no-open")
    assert result.exit_code == 0, result.output
    assert "damaged  5 things in the store cannot be read" in result.output
    shown = page(store)
    for text in (
        f"{cut.path} cannot be read",
        f"the photo 'Kiwi/1_100.jpg' in {store.uri_of(changed.path)} does not match its SHA-256",
        "pca_model: ",
        "feature_quality: ",
        "run_records/x/raw_images.json: this is no record of a run",
    ):
        assert text in shown.text, text
    assert {"Kiwi/0_100.jpg", "Lemon/0_100.jpg"} <= shown.files
    assert not {"Kiwi/1_100.jpg", "Banana/0_100.jpg"} & shown.files


def test_a_store_without_photos_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(FruitsError, match=r"has no photos yet\. Run the pipeline first: fruits run"):
        write_report(open_root(str(tmp_path / "store")))
    assert not (tmp_path / "store").exists()


# S3 and erasures.


def test_the_report_of_a_store_on_s3_is_the_same(platform: Platform, tmp_path: Path) -> None:
    write_report(platform.store)
    on_disk = page(platform.store)
    with s3_bucket(tmp_path, "fruits") as uri:
        store = open_root(f"{uri}/store")
        store.write_many(files_below(Path(platform.settings.store)))
        settings = {**platform.settings.model_dump(), "store": store.uri}
        platform.settings = Settings(**settings, _env_file=None)
        result = fruits(platform, "report", "--no-open")
        assert result.exit_code == 0, result.output
        copy = platform.home / "report.html"
        assert f"report  {store.uri}/{REPORT_FILE}" in result.output
        assert f"copy  {copy}" in result.output
        assert copy.read_bytes() == store.read(REPORT_FILE)
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        on_s3 = page(store)
    assert on_s3.charts == on_disk.charts
    assert on_s3._pictures == on_disk._pictures


def test_a_report_that_may_show_erased_photos_is_not_written(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fruits_assets.report.page import render

    def erased_before(values: dict[str, object]) -> bytes:
        assert fruits(platform, "erase", "Kiwi/0_100.jpg", "--yes").exit_code == 0
        return render(values)

    monkeypatch.setattr(write, "render", erased_before)
    with pytest.raises(FruitsError, match="Photos were erased while this job worked"):
        write_report(platform.store)
    assert not platform.store.has(REPORT_FILE)
