"""The prices of instance types."""

from pathlib import Path

import pytest

from resources.prices import load_prices
from spark_jobs.errors import FruitsError

SHIPPED = Path(load_prices.__code__.co_filename).with_name("prices.toml").read_text()


def test_three_m5_xlarge_nodes_cost_the_list_price_of_aws() -> None:
    assert 3 * (load_prices().instance_hour("m5.xlarge") or 0) == pytest.approx(3 * (0.224 + 0.048))


@pytest.mark.parametrize(
    ("graviton", "intel", "share"),
    [
        ("m7g", "m6i", 0.85),
        ("m6g", "m5", 0.80),
        ("c7g", "c5", 0.85),
        ("c6g", "c5", 0.80),
        ("r6g", "r5", 0.80),
    ],
)
def test_graviton_costs_a_fifth_or_a_seventh_less(graviton: str, intel: str, share: float) -> None:
    prices = load_prices()
    hour, other = (prices.instance_hour(f"{family}.2xlarge") for family in (graviton, intel))
    assert hour and other and hour / other == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("instance_type", ["m7i.xlarge", "m99.xlarge", "m5.large"])
def test_a_type_without_a_price_has_none(instance_type: str) -> None:
    assert load_prices().instance_hour(instance_type) is None


def test_the_prices_of_a_users_file_replace_the_defaults(tmp_path: Path) -> None:
    own = tmp_path / "prices.toml"
    own.write_text(SHIPPED.replace("m5 = { ec2 = 0.056", "m5 = { ec2 = 0.1"))
    assert load_prices(own).instance_hour("m5.xlarge") == pytest.approx(4 * 0.112)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has no 'date'"),
        ("date = ", "Invalid value"),
        (None, "No such file"),
        (SHIPPED.replace("gb_month = 0.024", "gb_month = nan"), "nan is not a price"),
        (SHIPPED.replace("ec2 = 0.056", "ec2 = -1", 1), "-1 is not a price"),
        (SHIPPED.replace("gb_month = 0.024", "gb_month = 'much'"), "not supported"),
    ],
)
def test_unusable_prices_are_refused_with_the_reason(tmp_path: Path, text: str | None, reason: str) -> None:
    own = tmp_path / "prices.toml"
    if text is not None:
        own.write_text(text)
    with pytest.raises(FruitsError, match=rf"prices\.toml.*{reason}"):
        load_prices(own)
