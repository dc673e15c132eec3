"""Instance types and their prices."""

from pathlib import Path

import pytest

from resources.instance_types import Instance, instance
from resources.prices import load_prices
from spark_jobs.errors import FruitsError

SHIPPED = Path(load_prices.__code__.co_filename).with_name("prices.toml").read_text()


@pytest.mark.parametrize(
    ("instance_type", "parts"),
    [("m5.large", ("m5", 2, 8)), ("c5.4xlarge", ("c5", 16, 32)), ("r6gd.xlarge", ("r6gd", 4, 32))],
)
def test_an_instance_type_has_a_family_vcpus_and_memory(
    instance_type: str, parts: tuple[str, int, int]
) -> None:
    assert instance(instance_type) == Instance(*parts)


@pytest.mark.parametrize("instance_type", ["m5", "t3.micro", "m5.metal", "xlarge", ""])
def test_an_unknown_instance_type_is_refused_by_name(instance_type: str) -> None:
    with pytest.raises(ValueError, match=f"'{instance_type}' is of a family or size"):
        instance(instance_type)


def test_three_m5_xlarge_nodes_cost_the_list_price_of_aws() -> None:
    assert 3 * (load_prices().instance_hour("m5.xlarge") or 0) == pytest.approx(3 * (0.224 + 0.048))


def test_a_family_without_a_price_has_none() -> None:
    assert load_prices().instance_hour("m99.xlarge") is None


def test_the_prices_of_a_users_file_replace_the_defaults(tmp_path: Path) -> None:
    own = tmp_path / "prices.toml"
    own.write_text(SHIPPED.replace("m5 = { ec2 = 0.056", "m5 = { ec2 = 0.1"))
    assert load_prices(own).instance_hour("m5.large") == pytest.approx(2 * 0.112)


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
