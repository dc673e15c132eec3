"""Projections of time and cost: the rates, the sums, and the command `fruits plan`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fruits_assets.cli import main
from fruits_assets.costs.plan import (
    CLUSTER_START_SECONDS,
    MIN_IMAGES,
    SHIPPED_RATES,
    STEP_START_SECONDS,
    Plan,
    assumptions,
    project,
    rate_of,
)
from fruits_assets.costs.run_records import STAGES, RunRecord, write_record
from resources.prices import load_prices
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import open_root
from tests.support import RECORD

PRICES = load_prices()
LOCAL = replace(
    RECORD,
    run="0123456789",
    environment="local",
    images=10_000,
    bytes=50_000_000,
    seconds=50.0,
    nodes=1,
    cores=2,
    instance_type=None,
    cost_usd=None,
)


def of_all_stages(**changed: Any) -> list[RunRecord]:
    return [replace(LOCAL, stage=stage, **changed) for stage in STAGES]


def planned(images: int = 1_000_000, nodes: int = 20, **changed: Any) -> Plan:
    defaults: dict[str, Any] = {
        "instance_type": "m5.xlarge",
        "primary_type": "m5.xlarge",
        "records": [],
        "prices": PRICES,
    }
    return project(images=images, nodes=nodes, **(defaults | changed))


def test_a_rate_is_per_core_of_the_measured_run() -> None:
    rate = rate_of([LOCAL], "mobilenet_features", "m5.xlarge")
    assert rate.images_per_core_second == 100
    assert rate.bytes_per_image == 5000
    assert rate.source == "run 01234567 on local, 10,000 images, 2 cores, 2026-11-23"


@pytest.mark.parametrize(
    "unusable",
    [
        {"images": MIN_IMAGES - 1},
        {"cores": None},
        {"seconds": 0.0},
        {"stage": "pca_model"},
    ],
)
def test_the_shipped_rate_is_used_without_a_usable_run(unusable: dict[str, Any]) -> None:
    assert (
        rate_of([replace(LOCAL, **unusable)], "mobilenet_features", "m5.xlarge")
        is SHIPPED_RATES["mobilenet_features"]
    )


def test_the_run_most_similar_to_the_cluster_gives_the_rate() -> None:
    larger = replace(LOCAL, run="larger", images=20_000)
    later = replace(larger, run="later", finished="2026-11-24T10:00:00+00:00")
    other_type = replace(LOCAL, run="other", environment="emr", instance_type="c5.xlarge", images=2000)
    same_type = replace(other_type, run="same", instance_type="m5.xlarge", images=1500)
    runs: list[RunRecord] = []
    for better in (LOCAL, larger, later, other_type, same_type):
        runs.insert(0, better)
        rate = rate_of(runs, "mobilenet_features", "m5.xlarge")
        assert rate == rate_of(runs[::-1], "mobilenet_features", "m5.xlarge")
        assert rate.source.startswith(f"run {better.run[:8]} on")


def test_local_ingestion_gives_no_rate_for_s3() -> None:
    assert rate_of([replace(LOCAL, stage="raw_images")], "raw_images", "m5.xlarge").source == "shipped"
    on_emr = replace(LOCAL, stage="raw_images", environment="emr", instance_type="c5.xlarge")
    assert rate_of([on_emr], "raw_images", "m5.xlarge").images_per_core_second == 100


def test_the_time_is_the_work_per_core_plus_the_starts() -> None:
    plan = planned(records=of_all_stages(environment="emr"))
    assert plan.cores == 80
    assert plan.seconds == dict.fromkeys(STAGES, 1_000_000 / 100 / 80)
    assert plan.starts == CLUSTER_START_SECONDS + 4 * STEP_START_SECONDS
    assert plan.all_seconds == pytest.approx(plan.starts + 4 * 125)


def test_the_cost_is_all_nodes_with_the_emr_fee_and_s3() -> None:
    plan = planned(records=of_all_stages(environment="emr", bytes=50_000_000))
    assert plan.hour_usd == pytest.approx(21 * (0.224 + 0.048))
    assert plan.compute_usd == pytest.approx(plan.hour_usd * plan.all_seconds / 3600)
    # Four stages of 5,000 bytes an image, and the photos, as large as their copies.
    assert plan.stored_bytes == 5 * 5000 * 1_000_000
    assert plan.storage_usd == pytest.approx(25 * PRICES.s3_gb_month)
    # At least two GETs for each photo, and less than one PUT.
    gets, puts = PRICES.s3_thousand_gets, PRICES.s3_thousand_puts
    assert 1000 * 2 * gets < plan.requests_usd < 1000 * (3 * gets + puts)
    assert plan.upload_usd == pytest.approx(1000 * puts)


def test_twice_the_nodes_halve_the_work_but_not_the_starts() -> None:
    small, large = planned(nodes=10), planned(nodes=20)
    assert sum(large.seconds.values()) == pytest.approx(sum(small.seconds.values()) / 2)
    assert large.starts == small.starts


def test_the_price_of_the_primary_node_counts() -> None:
    assert planned(primary_type="m5.2xlarge").hour_usd - planned().hour_usd == pytest.approx(0.272)


@pytest.mark.parametrize(
    ("instance_type", "reason"),
    [
        ("t3.micro", "'t3.micro' is not known"),
        ("m5.large", "'m5.large' is not among those of EMR 7"),
        ("m7i.xlarge", r"have none for m7i\.xlarge, .*Use one of .*m5"),
        ("m6g.xlarge", "primary node m5.xlarge is x86_64, and the core nodes m6g.xlarge are aarch64"),
    ],
)
def test_an_instance_type_without_a_price_is_refused(instance_type: str, reason: str) -> None:
    with pytest.raises(FruitsError, match=reason):
        planned(instance_type=instance_type)


def test_a_projection_for_graviton_says_that_none_was_measured() -> None:
    graviton = planned(instance_type="m7g.xlarge", primary_type="m7g.xlarge")
    assert graviton.hour_usd < 0.86 * planned().hour_usd
    assert "Graviton" in " ".join(assumptions(graviton))
    assert "Graviton" not in " ".join(assumptions(planned()))


def test_shipped_rates_are_explained_only_if_they_are_used() -> None:
    assert "Shipped rates" in " ".join(assumptions(planned()))
    assert "Shipped rates" not in " ".join(assumptions(planned(records=of_all_stages(environment="emr"))))


def fruits_plan(*options: str) -> Result:
    arguments = ["plan", "--images", "1000000", "--nodes", "20", *options]
    return CliRunner().invoke(main, arguments, prog_name="fruits")


def values(output: str) -> dict[str, str]:
    """Returns the value of each line of the projection by its name."""
    pairs = (line.strip().partition("  ") for line in output.partition("\n\n")[0].splitlines())
    return {name: value.strip() for name, _, value in pairs}


def test_the_command_prints_its_assumptions_without_any_photos() -> None:
    result = fruits_plan()
    assert result.exit_code == 0
    lines = values(result.output)
    assert [*STAGES, "starts", "time", "cluster", "S3 requests", "S3 storage", "prices"] == list(lines)
    assert "(shipped)" in lines["pca_model"]
    assert lines["time"].endswith("for 1,000,000 images on 80 cores")
    assert "20 x m5.xlarge and a primary node m5.xlarge at 5.71 USD an hour" in lines["cluster"]
    assert lines["prices"].startswith(f"{PRICES.region}, {PRICES.date}")
    assert "\n\nAssumptions:\n- " in result.output
    assert "FRUITS_EMR_MAX_HOURLY_COST=2.0." in result.output


def test_the_command_projects_from_the_runs_in_the_store(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRUITS_STORE", store)
    monkeypatch.setenv("FRUITS_EMR_MAX_HOURLY_COST", "10")
    for record in of_all_stages(environment="emr", instance_type="m5.xlarge"):
        write_record(open_root(store), record)
    open_root(store).write("run_records/broken/raw_images.json", b"{")
    result = fruits_plan("--instance-type", "c5.4xlarge")
    assert result.exit_code == 0
    lines = values(result.output)
    assert all("at 100 images/s a core (run 01234567 on m5.xlarge" in lines[stage] for stage in STAGES)
    assert "20 x c5.4xlarge" in lines["cluster"]
    assert "run_records/broken/raw_images.json in the store is not a record" in result.output
    assert "Shipped" not in result.output


@pytest.mark.parametrize("value", ["t3.micro", "m7i.xlarge"])
def test_the_command_refuses_an_unknown_instance_type(value: str) -> None:
    result = fruits_plan("--instance-type", value)
    assert result.exit_code == 1
    assert result.output.startswith("fruits plan: ") and value in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("option", ["--images", "--nodes"])
def test_the_command_refuses_zero_images_or_nodes(option: str) -> None:
    result = fruits_plan(option, "0")
    assert result.exit_code == 2
    assert option in result.output


def test_unreadable_records_are_an_error_that_names_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "run_records").write_text("no folder")
    monkeypatch.setenv("FRUITS_STORE", str(tmp_path / "store"))
    result = fruits_plan()
    assert result.exit_code == 1
    assert result.output.startswith(f"fruits plan: The records of runs in FRUITS_STORE={tmp_path}/store")


def test_the_prices_of_fruits_prices_replace_the_shipped_prices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = Path(load_prices.__code__.co_filename).with_name("prices.toml").read_text()
    (tmp_path / "own.toml").write_text(shipped.replace("2026-11-01", "2027-01-31"))
    monkeypatch.setenv("FRUITS_PRICES", str(tmp_path / "own.toml"))
    assert values(fruits_plan().output)["prices"].startswith("eu-west-3, 2027-01-31")
