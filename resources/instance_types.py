"""The family, the cores and the memory that the name of an EC2 instance type tells."""

import re
from typing import NamedTuple

_SIZES = {"large": 2, "xlarge": 4}
_GIB_PER_VCPU = {"c": 2, "m": 4, "r": 8}


class Instance(NamedTuple):
    """The parts of an instance type: m5.xlarge has the family m5, 4 vCPUs and 16 GiB."""

    family: str
    vcpus: int
    memory_gib: int


def instance(instance_type: str) -> Instance:
    """The parts of an instance type such as m5.xlarge. Raises `ValueError` for an unknown family or size."""
    match = re.fullmatch(r"(([cmr])\d\w*)\.(?:(\d+)?(xlarge)|(large))", instance_type)
    if match is None:
        raise ValueError(
            f"The instance type {instance_type!r} is of a family or size that is not known here. Use one of "
            "the families c, m and r, such as m5.xlarge."
        )
    family, letter, times, xlarge, _ = match.groups()
    vcpus = int(times or 1) * _SIZES["xlarge"] if xlarge else _SIZES["large"]
    return Instance(family, vcpus, vcpus * _GIB_PER_VCPU[letter])
