"""The comparison of environments: its rows, its tables, and the metadata of the asset."""

import csv
import html
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import dagster as dg
import pytest

from fruits_assets.assets.environment_comparison import environment_comparison
from fruits_assets.costs.comparison import REPORTED, SHOWN, Row, newest, rows_of
from fruits_assets.costs.comparison_tables import as_csv, as_markdown
from fruits_assets.costs.run_records import STAGES, RunRecord, write_record
from resources.prices import load_prices
from resources.settings import Settings
from spark_jobs.store.pointers import current_one
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import ENVIRONMENT_COMPARISON
from tests.support import RECORD

MAX_EVENT_BYTES = 30_000
PRICES = load_prices()
SECONDS = dict(zip(STAGES, (10.0, 40.0, 4.0, 6.0), strict=True))
BYTES = dict(zip(STAGES, (10_000_000, 5_000_000, 0, 1_000_000), strict=True))
START = datetime(2026, 11, 23, 10, tzinfo=UTC)


def run_of(
    environment: Literal["local", "emr"], owner: str, minute: int = 0, **changed: Any
) -> list[RunRecord]:
    """Returns the four records of a run of 2,000 images."""
    on_emr = environment == "emr"
    template = replace(
        RECORD,
        run=f"run of {owner}",
        root_run=f"run of {owner}",
        owner=owner,
        environment=environment,
        finished=(START + timedelta(minutes=minute)).isoformat(),
        engine="EMR" if on_emr else "Spark",
        images=2000,
        classes=20,
        known_classes=20,
        nodes=2 if on_emr else 1,
        cores=8 if on_emr else 2,
        instance_type="m5.xlarge" if on_emr else None,
        cost_usd=0.01 if on_emr else None,
    )
    return [
        replace(template, stage=stage, seconds=SECONDS[stage], bytes=BYTES[stage], **changed)
        for stage in STAGES
    ]


def table_of(markdown: str) -> list[dict[str, str]]:
    lines = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in markdown.splitlines()
        if line.startswith("|")
    ]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def one_row(records: list[RunRecord]) -> Row:
    [row] = rows_of(records)
    return row


def test_a_row_is_the_sum_of_its_stages() -> None:
    row = one_row(run_of("emr", "a"))
    assert row.seconds == 60
    assert row.images_per_second == pytest.approx(2000 / 60)
    assert row.compute_usd_for_1000 == pytest.approx(4 * 0.01 / 2)
    assert row.storage_usd_for_1000(PRICES) == pytest.approx(16e6 / 2 / 1e9 * PRICES.s3_gb_month)
    assert (row.nodes, row.cores, row.classes, row.known_classes) == (2, 8, 20, 20)


def test_a_local_run_has_a_price_for_storage_but_not_for_compute() -> None:
    row = one_row(run_of("local", "a"))
    assert row.compute_usd_for_1000 is None
    assert row.storage_usd_for_1000(PRICES)


def test_a_stage_without_a_price_leaves_the_row_without_a_price() -> None:
    first, *others = run_of("emr", "a")
    assert one_row([replace(first, cost_usd=None), *others]).compute_usd_for_1000 is None


def test_several_runs_of_one_command_are_one_row() -> None:
    halves = [
        replace(record, run=run, root_run=run, images=1000, classes=10, seconds=record.seconds / 2)
        for run in ("first range", "second range")
        for record in run_of("local", "a")
    ]
    row = one_row(halves)
    assert (row.images, row.classes, row.seconds) == (2000, 20, 60)
    assert row.images_per_second == pytest.approx(2000 / 60)


def test_the_last_attempt_of_a_repeated_stage_counts() -> None:
    first = run_of("local", "a")
    again = [
        replace(
            record, run="from the failure on", seconds=1.0, finished=record.finished.replace("10:", "11:")
        )
        for record in first[2:]
    ]
    row = one_row(first + again)
    assert (row.images, row.classes, row.seconds) == (2000, 20, 10 + 40 + 1 + 1)
    assert row.finished == again[-1].finished


def test_a_repeated_run_belongs_to_its_backfill_after_its_end() -> None:
    # Dagster does not give the repeated run the tags of the ended backfill.
    first = run_of("local", "a")
    again = [replace(record, run="again", owner=record.root_run, seconds=1.0) for record in first[2:]]
    row = one_row(first + again)
    assert (row.run, row.seconds) == ("a", 10 + 40 + 1 + 1)


def test_a_repeated_run_is_the_newest() -> None:
    runs = [run_of("local", str(number), number) for number in range(SHOWN + 1)]
    again = [replace(record, run="again") for record in run_of("local", "0", SHOWN + 1)]
    kept = [row.run for row in newest(rows_of([record for run in [*runs, again] for record in run]))]
    assert kept == [*map(str, range(2, SHOWN + 1)), "0"]


def test_a_run_repeated_in_another_environment_is_a_second_row() -> None:
    rows = rows_of(run_of("local", "a") + run_of("emr", "a"))
    assert [(row.environment, row.seconds) for row in rows] == [("local", 60), ("emr", 60)]


def test_each_stage_counts_its_own_images() -> None:
    records = [
        record if record.stage == "pca_model" else replace(record, images=100, classes=1)
        for record in run_of("local", "a")
    ]
    row = one_row(records)
    assert (row.images, row.classes, row.known_classes) == (100, 1, 20)
    assert row.seconds_for_1000["pca_model"] == 2
    assert row.seconds_for_1000["mobilenet_features"] == 400


def test_a_partial_row_shows_its_classes_and_stages() -> None:
    records = [replace(record, images=300, classes=3) for record in run_of("local", "a")[:2]]
    [shown] = table_of(as_markdown(rows_of(records), PRICES))
    assert shown["classes"] == "3 of 20"
    assert shown["pca_model, s"] == "-"
    assert shown["all, s"] == "50.0 (2 of 4 stages)"


def test_a_run_without_images_has_rates_of_zero() -> None:
    row = one_row([replace(record, images=0) for record in run_of("emr", "a")])
    assert row.images_per_second == 0
    assert row.compute_usd_for_1000 is None
    assert as_csv([row], PRICES).count("\n") == 2


def test_the_reported_rows_are_labelled_and_unchanged() -> None:
    laptop, emr, with_pca = table_of(as_markdown(REPORTED, PRICES))
    assert all("as reported" in row["environment"] for row in (laptop, emr, with_pca))
    assert (laptop["images"], laptop["all, s"]) == ("5,928", "500.0")
    assert (emr["images"], emr["all, s"], emr["machines"]) == ("22,688", "300.0", "3 x m5.xlarge")
    assert (with_pca["mobilenet_features, s"], with_pca["pca_model, s"]) == ("300.0", "1,000.0")
    assert laptop["compute, USD for 1,000 images"] == "-"
    assert float(emr["compute, USD for 1,000 images"]) == pytest.approx(1.44 / 12 / 22.688, rel=0.01)
    notes = as_markdown(REPORTED, PRICES)
    for fact in ("1.44 USD an hour", "0.82 USD", "72 %", "56.3 % and 56.1 %", "5,928 and 22,688"):
        assert fact in notes


def test_the_newest_rows_of_each_environment_are_shown() -> None:
    records = [
        record
        for minute in range(SHOWN + 3)
        for record in run_of("emr" if minute < 2 else "local", str(minute), minute)
    ]
    kept = [row.run for row in newest(rows_of(records))]
    assert kept == ["0", "1", *map(str, range(3, SHOWN + 3))]


def test_partial_rows_do_not_displace_complete_rows() -> None:
    whole = [run_of("local", f"whole {number}", number) for number in range(SHOWN)]
    partial = [run_of("local", f"partial {number}", SHOWN + number)[:2] for number in range(SHOWN)]
    kept = [row.run for row in newest(rows_of([record for run in [*whole, *partial] for record in run]))]
    assert kept == ["whole 3", "whole 4", "whole 5", "partial 3", "partial 4", "partial 5"]


def test_text_from_records_is_escaped_in_markdown_and_in_csv() -> None:
    rows = rows_of(run_of("emr", "=1+1", instance_type="=a|b\\|\n<img> ![](x) `c` *d*", weights="@x"))
    [shown] = table_of(as_markdown(rows, PRICES))
    assert not re.search(r"[\\`*_~\[\]!<>|]", shown["machines"])
    assert html.unescape(shown["machines"]) == "2 x =a|b\\| <img> ![](x) `c` *d*, 8 cores"
    [row] = csv.DictReader(io.StringIO(as_csv(rows, PRICES)))
    assert (row["run"], row["weights"]) == ("'=1+1", "'@x")


def test_no_text_of_a_record_is_a_formula_where_semicolons_separate_cells() -> None:
    """As in French and German Excel. https://owasp.org/www-community/attacks/CSV_Injection"""
    versions = {"a": "b;=cmd|'/C calc'!A0", "=c": "1"}
    rows = rows_of(run_of("emr", "x;-1", weights="x;=1+1,y", versions=versions, instance_type="a;@b"))
    cells = csv.reader(io.StringIO(as_csv(rows, PRICES)), delimiter=";")
    assert [cell for row in cells for cell in row if cell and cell[0] in "=+-@"] == []
    [row] = csv.DictReader(io.StringIO(as_csv(rows, PRICES)))
    assert (row["weights"], row["instance_type"]) == ("x;'=1+1,y", "a;'@b")
    assert '"' in as_csv(rows, PRICES).splitlines()[1][:1]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def materialize(store: str, instance: dg.DagsterInstance, **changed: Any) -> dg.ExecuteInProcessResult:
    settings = Settings(images="/photos", store=store, _env_file=None, **changed)
    return dg.materialize(
        [environment_comparison],
        resources={"settings": settings},
        instance=instance,
        raise_on_error=False,
    )


def shown_metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    assert result.success
    [event] = result.get_asset_materialization_events()
    return {name: value.value for name, value in event.materialization.metadata.items()}


def content(store: Root, name: str) -> str:
    pointer = current_one(store, ENVIRONMENT_COMPARISON)
    assert pointer is not None
    return store.read(f"{pointer.directory}/{name}").decode()


def test_runs_of_both_environments_are_rows_of_one_table(store: str, instance: dg.DagsterInstance) -> None:
    root = open_root(store)
    for record in [*run_of("local", "on-this-machine"), *run_of("emr", "on-a-cluster", 5)]:
        write_record(root, record)
    metadata = shown_metadata(materialize(store, instance))
    *reported, local, emr = table_of(metadata["comparison"])
    assert len(reported) == len(REPORTED)
    assert local["environment"] == "local, 2026-11-23 10:00 on-this-"
    assert (local["machines"], emr["machines"]) == ("2 cores", "2 x m5.xlarge, 8 cores")
    for row in (local, emr):
        assert [row[f"{stage}, s"] for stage in STAGES] == ["10.0", "40.0", "4.0", "6.0"]
        assert (row["images"], row["classes"], row["images/s"]) == ("2,000", "20", "33.3")
        assert row["storage, USD for 1,000 images a month"] == "0.000192"
    assert (local["compute, USD for 1,000 images"], emr["compute, USD for 1,000 images"]) == ("-", "0.0200")
    for plot in ("time_by_stage", "throughput", "cost_of_1000_images"):
        assert metadata[plot].startswith("![preview](data:image/webp;base64,")
    assert (metadata["runs"], metadata["plotted"]) == (2, 2)
    assert metadata["unreadable_records"] == 0
    rows = list(csv.DictReader(io.StringIO(content(root, "comparison.csv"))))
    assert [row["run"] for row in rows[-2:]] == ["on-this-machine", "on-a-cluster"]
    assert [row["as_reported"] for row in rows] == ["true"] * 3 + ["false"] * 2
    assert [row["compute_usd_1000_images"] for row in rows[-2:]] == ["", "0.0200"]
    assert content(root, "comparison.md") == metadata["comparison"]


def test_a_store_without_runs_shows_the_reported_rows_only(store: str, instance: dg.DagsterInstance) -> None:
    metadata = shown_metadata(materialize(store, instance))
    assert metadata["runs"] == 0
    assert len(table_of(metadata["comparison"])) == len(REPORTED)


def test_a_partial_run_is_in_the_table_but_not_in_the_plots(store: str, instance: dg.DagsterInstance) -> None:
    for record in run_of("local", "whole"):
        write_record(open_root(store), record)
    before = shown_metadata(materialize(store, instance))
    for record in run_of("local", "features alone", 5)[:2]:
        write_record(open_root(store), record)
    after = shown_metadata(materialize(store, instance))
    assert (after["shown"], after["plotted"]) == (2, 1)
    for plot in ("time_by_stage", "throughput", "cost_of_1000_images"):
        assert after[plot] == before[plot]


def test_an_invalid_record_is_listed_and_skipped(store: str, instance: dg.DagsterInstance) -> None:
    root = open_root(store)
    for record in run_of("local", "a"):
        write_record(root, record)
    root.write("run_records/broken/raw_images.json", b"{")
    metadata = shown_metadata(materialize(store, instance))
    assert metadata["runs"] == 1
    assert metadata["unreadable_paths"] == ["run_records/broken/raw_images.json"]


def test_the_metadata_of_many_runs_fits_into_an_event(store: str, instance: dg.DagsterInstance) -> None:
    root = open_root(store)
    for minute in range(3 * SHOWN):
        environment: Literal["local", "emr"] = "emr" if minute % 2 else "local"
        for record in run_of(environment, f"{minute:036}", minute, images=100 * 3**minute % 99_991):
            write_record(root, record)
    metadata = shown_metadata(materialize(store, instance))
    assert sum(len(str(value)) for value in metadata.values()) < MAX_EVENT_BYTES - 1_000
    assert len(table_of(metadata["comparison"])) == len(REPORTED) + 2 * SHOWN
    assert len(table_of(content(root, "comparison.md"))) == len(REPORTED) + 3 * SHOWN


def test_a_replaced_comparison_is_removed_after_keep_hours(store: str, instance: dg.DagsterInstance) -> None:
    for _ in range(2):
        shown_metadata(materialize(store, instance, keep_hours=0))
    assert len(list(Path(store, ENVIRONMENT_COMPARISON).glob("version=*/*/*/comparison.csv"))) == 1


def test_an_incomplete_price_file_fails_with_the_missing_price(
    store: str, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    (tmp_path / "prices.toml").write_text("")
    result = materialize(store, instance, prices=tmp_path / "prices.toml")
    assert not result.success
    [failure] = result.filter_events(lambda event: event.is_step_failure)
    cause = failure.step_failure_data.user_failure_data
    assert cause is not None and "has no 'date'" in str(cause.description)
    assert current_one(open_root(store), ENVIRONMENT_COMPARISON) is None
