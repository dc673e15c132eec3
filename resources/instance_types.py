"""The EC2 instance types that clusters may have: those of the families c, m and r that EMR 7 offers."""

import re
from typing import Literal, NamedTuple

from spark_jobs.errors import FruitsError

Architecture = Literal["x86_64", "aarch64"]

_VCPUS_OF_XLARGE = 4
_GIB_PER_VCPU = {"c": 2, "m": 4, "r": 8}

# The families from the fifth generation on in EMR's answer to ListSupportedInstanceTypes for emr-7.13.0, with
# their sizes as multiples of xlarge.
_SIZES = {
    family: sizes
    for families, sizes in {
        "c5n": (1, 2, 4, 9, 18),
        "c5 c5d": (1, 2, 4, 9, 12, 18, 24),
        "m5zn": (1, 2, 3, 6, 12),
        "c6g c6gd c6gn c7g c7gd c7gn c7i-flex c8i-flex m6g m6gd m7g m7gd m7i-flex m8i-flex "
        "r6g r6gd r7g r7gd r8i-flex": (1, 2, 4, 8, 12, 16),
        "r7iz": (1, 2, 4, 8, 12, 16, 32),
        "c5a c5ad m5 m5a m5ad m5d m5dn m5n r5 r5a r5ad r5b r5d r5dn r5n r8gb": (1, 2, 4, 8, 12, 16, 24),
        "c6i c6id c6in m6i m6id m6idn m6in r6i r6id r6idn r6in": (1, 2, 4, 8, 12, 16, 24, 32),
        "c7i c8g c8gd c8gn m7i m8a m8g m8gd r7i r8a r8g r8gd r8gn": (1, 2, 4, 8, 12, 16, 24, 48),
        "c6a c7a m6a m7a r6a r7a": (1, 2, 4, 8, 12, 16, 24, 32, 48),
        "c8i m8i r8i": (1, 2, 4, 8, 12, 16, 24, 32, 48, 96),
    }.items()
    for family in families.split()
}


class InstanceTypeError(FruitsError, ValueError):
    """An instance type on which the platform cannot run."""


class Instance(NamedTuple):
    """The parts of an instance type: m5.xlarge has the family m5, 4 vCPUs, 16 GiB and x86-64 processors.

    `memory_gib` is the nominal memory of the letters c, m and r; EMR counts up to 8 % less.
    """

    family: str
    vcpus: int
    memory_gib: int
    architecture: Architecture


def instance(instance_type: str) -> Instance:
    """The parts of an instance type such as m5.xlarge.

    Raises `InstanceTypeError` for a type that EMR 7 does not offer, or of a family that is not known here.
    """
    family, _, size = instance_type.partition(".")
    if family not in _SIZES:
        raise InstanceTypeError(
            f"The family of the instance type {instance_type!r} is not known here. Use one of the families "
            "c, m and r from the fifth generation on, such as m5.xlarge or m7g.xlarge."
        )
    times = {_name_of(times): times for times in _SIZES[family]}.get(size)
    if times is None:
        raise InstanceTypeError(
            f"The instance type {instance_type!r} is not among those of EMR 7, which offers {family} in the "
            f"sizes {', '.join(map(_name_of, _SIZES[family]))}. Use one of them."
        )
    vcpus = times * _VCPUS_OF_XLARGE
    # In AWS's names, a g after the generation is a Graviton processor.
    architecture: Architecture = "aarch64" if re.match(r"[cmr]\dg", family) else "x86_64"
    return Instance(family, vcpus, vcpus * _GIB_PER_VCPU[family[0]], architecture)


def common_architecture(primary_type: str, core_type: str) -> Architecture:
    """The architecture of all nodes of a cluster. Raises `InstanceTypeError` where they have two."""
    primary, core = instance(primary_type).architecture, instance(core_type).architecture
    if primary != core:
        raise InstanceTypeError(
            f"The primary node {primary_type} is {primary}, and the core nodes {core_type} are {core}, but "
            "all nodes of a cluster install the same packages. Set FRUITS_EMR_PRIMARY_TYPE and "
            "FRUITS_EMR_CORE_TYPE to types of one architecture."
        )
    return core


def _name_of(times: int) -> str:
    return "xlarge" if times == 1 else f"{times}xlarge"
