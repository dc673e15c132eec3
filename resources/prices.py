"""AWS's prices of nodes, storage and requests."""

import math
import tomllib
from dataclasses import dataclass
from pathlib import Path

from resources.instance_types import InstanceTypeError, instance
from spark_jobs.errors import FruitsError

_PRICES = Path(__file__).with_name("prices.toml")


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Prices of one region in USD. `vcpu_hour` is the sum of EC2's price and EMR's fee by instance family."""

    date: str
    region: str
    vcpu_hour: dict[str, float]
    s3_gb_month: float
    s3_thousand_puts: float
    s3_thousand_gets: float
    interface_endpoint_hour: float
    kms_key_month: float

    def instance_hour(self, instance_type: str) -> float | None:
        """The on-demand price of an EMR node of this type, in USD an hour; None where it is unknown."""
        try:
            known = instance(instance_type)
        except InstanceTypeError:
            return None
        price = self.vcpu_hour.get(known.family)
        return None if price is None else price * known.vcpus

    def cluster_hour(self, primary_type: str, core_type: str, core_nodes: int) -> float:
        """The on-demand price of a primary node and core nodes without their disks, in USD an hour.

        Raises `FruitsError` for a type without a price.
        """
        total = 0.0
        for instance_type, number in ((primary_type, 1), (core_type, core_nodes)):
            price = self.instance_hour(instance_type)
            if price is None:
                raise FruitsError(
                    f"The prices of {self.region}, {self.date}, have none for {instance_type}, so the cost "
                    f"of a cluster is unknown. Use one of {', '.join(sorted(self.vcpu_hour))}, or name a "
                    "file with more prices in FRUITS_PRICES."
                )
            total += number * price
        return total


def load_prices(file: Path | None = None) -> Prices:
    """The prices in a TOML file with the tables of `prices.toml`, which is the default.

    Raises `FruitsError` with the name of a file that cannot be read, that lacks a price, or in which a price
    is negative, infinite or not a number.
    """
    file = file or _PRICES
    try:
        read = tomllib.loads(file.read_text())
        return Prices(
            date=str(read["date"]),
            region=str(read["region"]),
            vcpu_hour={family: _usd(of["ec2"]) + _usd(of["emr"]) for family, of in read["vcpu_hour"].items()},
            s3_gb_month=_usd(read["s3"]["gb_month"]),
            s3_thousand_puts=_usd(read["s3"]["thousand_puts"]),
            s3_thousand_gets=_usd(read["s3"]["thousand_gets"]),
            interface_endpoint_hour=_usd(read["vpc"]["interface_endpoint_hour"]),
            kms_key_month=_usd(read["kms"]["key_month"]),
        )
    except OSError as error:
        raise FruitsError(f"FRUITS_PRICES={file} cannot be read: {error.strerror}.") from None
    except KeyError as error:
        raise FruitsError(
            f"FRUITS_PRICES={file} has no {error.args[0]!r}; see resources/prices.toml."
        ) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise FruitsError(f"FRUITS_PRICES={file}: {error}; see resources/prices.toml.") from None


def _usd(price: float) -> float:
    if not 0 <= price < math.inf:
        raise ValueError(f"{price} is not a price")
    return float(price)
