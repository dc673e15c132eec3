"""The instance types that settings accept, against the list of EMR."""

import re
from typing import Any

import pytest

from resources.instance_types import Instance, InstanceTypeError, instance

Offered = dict[str, dict[str, Any]]


def accepted(instance_type: str) -> bool:
    try:
        instance(instance_type)
    except InstanceTypeError:
        return False
    return True


def test_every_accepted_type_is_offered_by_emr(offered: Offered) -> None:
    families = {name.partition(".")[0] for name in offered}
    sizes = ["medium", "large", "metal", "xlarge", *(f"{times}xlarge" for times in range(100))]
    candidates = [f"{family}.{size}" for family in families for size in sizes]
    found = {candidate for candidate in candidates if accepted(candidate)}
    assert len(found) > 400
    assert found <= set(offered)


def test_every_type_of_the_families_c_m_and_r_from_the_fifth_generation_on_is_accepted(
    offered: Offered,
) -> None:
    ours = [name for name in offered if re.match(r"[cmr][5-9]", name)]
    assert [name for name in ours if not accepted(name)] == []


def test_an_accepted_type_has_the_processors_that_emr_lists(offered: Offered) -> None:
    for name in filter(accepted, offered):
        found, listed = instance(name), offered[name]
        assert found.vcpus == listed["VCPU"], name
        assert found.architecture == listed["Architecture"].lower(), name
        assert found.memory_gib * 0.92 < listed["MemoryGB"], name


@pytest.mark.parametrize(
    ("instance_type", "parts"),
    [
        ("m5.xlarge", ("m5", 4, 16, "x86_64")),
        ("c5.9xlarge", ("c5", 36, 72, "x86_64")),
        ("r6gd.2xlarge", ("r6gd", 8, 64, "aarch64")),
        ("c7i-flex.xlarge", ("c7i-flex", 4, 8, "x86_64")),
    ],
)
def test_an_instance_type_has_a_family_vcpus_memory_and_an_architecture(
    instance_type: str, parts: tuple[Any, ...]
) -> None:
    assert instance(instance_type) == Instance(*parts)


@pytest.mark.parametrize(
    "instance_type", ["m5.large", "c5.3xlarge", "m5zn.4xlarge", "m5.metal", "r6g.24xlarge", "m5"]
)
def test_a_size_that_emr_does_not_offer_is_refused_with_the_sizes_that_it_offers(instance_type: str) -> None:
    family = instance_type.partition(".")[0]
    with pytest.raises(
        InstanceTypeError, match=f"'{instance_type}' is not among .* EMR 7, which offers {family} .* xlarge,"
    ):
        instance(instance_type)


@pytest.mark.parametrize("instance_type", ["t3.micro", "m4.xlarge", "c4.large", "m99.xlarge", "xlarge", ""])
def test_a_family_that_is_not_known_is_refused(instance_type: str) -> None:
    with pytest.raises(
        InstanceTypeError, match=f"family of the instance type '{instance_type}' is not known"
    ):
        instance(instance_type)
