"""What a run on a cluster would take and cost, from the rates that earlier runs were measured at."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from fruits_assets.costs.run_records import STAGES, RunRecord
from resources.emr.sizing import executor_cores
from resources.prices import Prices
from spark_jobs.errors import FruitsError
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_FEATURES_CSV, PCA_MODEL, RAW_IMAGES

# A smaller run says more of how long Spark takes to start than of the rate.
MIN_IMAGES = 1000

# Assumed, not measured: until a cluster of instances takes its first step, and until a step takes its
# first photo.
CLUSTER_START_SECONDS = 600
STEP_START_SECONDS = 30

# What S3 is asked for, beside a PUT to upload each photo. pyarrow looks at the size of each before it gets
# it: HEAD and GET, of one price. Photos are listed 1,000 at a time, by three readers; LIST and PUT are of one
# price. Results are in files of hundreds of images, with some requests for each.
GETS_A_PHOTO = 2
LISTS_A_PHOTO = 3 / 1000
GETS_OF_RESULTS, PUTS_OF_RESULTS = 1 / 25, 1 / 100


class Rate(NamedTuple):
    """Images a second on one core, the bytes that one image leaves in the store, and who says so."""

    images_per_core_second: float
    bytes_per_image: float
    source: str


_SHIPPED = "shipped"

# For a store without a run of at least `MIN_IMAGES` images. Measured by `make bench-full` (2026-11-25) on
# 5,928 photos of 100 x 100 pixels and 4.6 KB, on two cores with AVX-512: ingestion from an S3 server behind
# 15 ms at 1,150 images/s, features at 411, a PCA with its saving in 1.0 s, CSVs at 36,513 images/s.
SHIPPED_RATES: Mapping[str, Rate] = {
    RAW_IMAGES: Rate(575.0, 4_600, _SHIPPED),
    MOBILENET_FEATURES: Rate(206.0, 5_000, _SHIPPED),
    PCA_MODEL: Rate(2_940.0, 0, _SHIPPED),
    PCA_FEATURES_CSV: Rate(18_300.0, 330, _SHIPPED),
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A projection. Seconds by stage without the starts; USD in all, but `storage_usd` a month."""

    images: int
    nodes: int
    cores: int
    instance_type: str
    primary_type: str
    rates: Mapping[str, Rate]
    seconds: Mapping[str, float]
    hour_usd: float
    upload_usd: float
    requests_usd: float
    storage_usd: float
    stored_bytes: float

    @property
    def starts(self) -> float:
        """Seconds in which no photo is worked on."""
        return CLUSTER_START_SECONDS + STEP_START_SECONDS * len(self.seconds)

    @property
    def all_seconds(self) -> float:
        return self.starts + sum(self.seconds.values())

    @property
    def compute_usd(self) -> float:
        return self.all_seconds / 3600 * self.hour_usd


def project(
    images: int,
    nodes: int,
    instance_type: str,
    primary_type: str,
    records: Iterable[RunRecord],
    prices: Prices,
) -> Plan:
    """Projects a run of all stages on `nodes` core nodes and a primary node.

    Raises `FruitsError` for an instance type that is not known, or has no price.
    """
    try:
        cores = nodes * executor_cores(instance_type)
        hour_usd = prices.cluster_hour(primary_type, instance_type, nodes)
    except ValueError as error:
        raise FruitsError(str(error)) from None
    found = list(records)
    rates = {stage: rate_of(found, stage, instance_type) for stage in STAGES}
    # The photos themselves are about as large as their copies in raw_images.
    size = images * (rates[RAW_IMAGES].bytes_per_image + sum(rate.bytes_per_image for rate in rates.values()))
    return Plan(
        images=images,
        nodes=nodes,
        cores=cores,
        instance_type=instance_type,
        primary_type=primary_type,
        rates=rates,
        seconds={stage: images / rate.images_per_core_second / cores for stage, rate in rates.items()},
        hour_usd=hour_usd,
        upload_usd=images / 1000 * prices.s3_thousand_puts,
        requests_usd=images
        / 1000
        * (
            (GETS_A_PHOTO + GETS_OF_RESULTS) * prices.s3_thousand_gets
            + (LISTS_A_PHOTO + PUTS_OF_RESULTS) * prices.s3_thousand_puts
        ),
        storage_usd=size / 1e9 * prices.s3_gb_month,
        stored_bytes=size,
    )


def rate_of(records: Iterable[RunRecord], stage: str, instance_type: str) -> Rate:
    """The rate of a stage in the run that says most about such a node, else the one that is shipped.

    Runs on this instance type come before those on other clusters, and these before one's own machine; of
    equals, the run of most images counts, and of these the latest. Ingestion counts on clusters alone: they
    read from S3, and a machine of one's own may have read its disk.
    """
    usable = [
        record
        for record in records
        if record.stage == stage
        and record.images >= MIN_IMAGES
        and record.cores
        and record.seconds
        and (record.environment == "emr" or stage != RAW_IMAGES)
    ]
    if not usable:
        return SHIPPED_RATES[stage]
    best = max(
        usable,
        key=lambda one: (
            one.instance_type == instance_type,
            one.environment == "emr",
            one.images,
            one.finished,
        ),
    )
    assert best.cores
    return Rate(
        best.images_per_second / best.cores,
        best.bytes / best.images,
        f"run {best.run[:8]} on {best.instance_type or best.environment}, {best.images:,} images, "
        f"{best.cores} cores, {best.finished[:10]}",
    )


def described(plan: Plan, prices: Prices) -> Iterator[tuple[str, str]]:
    """The projection as (name, value) lines for a person."""
    for stage, seconds in plan.seconds.items():
        rate = plan.rates[stage]
        yield (
            stage,
            f"{_span(seconds)}, at {rate.images_per_core_second:,.0f} images/s a core ({rate.source})",
        )
    yield "starts", f"{_span(plan.starts)}, of the cluster and of {len(plan.seconds)} steps"
    yield "time", f"{_span(plan.all_seconds)} for {plan.images:,} images on {plan.cores} cores"
    yield (
        "cluster",
        f"{plan.compute_usd:,.2f} USD: {plan.nodes} x {plan.instance_type} and a primary node "
        f"{plan.primary_type} at {plan.hour_usd:,.2f} USD an hour, EC2 and EMR",
    )
    yield "S3 requests", f"{plan.requests_usd:,.2f} USD, and {plan.upload_usd:,.2f} once to upload the photos"
    yield (
        "S3 storage",
        f"{plan.storage_usd:,.2f} USD a month, for {plan.stored_bytes / 1e9:,.1f} GB of photos and results",
    )
    yield "prices", f"{prices.region}, {prices.date}, on demand, without tax and discounts"


def assumptions(plan: Plan) -> Iterator[str]:
    """What the projection takes for granted, a sentence each."""
    if any(rate.source == _SHIPPED for rate in plan.rates.values()):
        yield (
            "Shipped rates are of 5,928 photos of 100 x 100 pixels, on two cores with AVX-512. A run of "
            f"{MIN_IMAGES:,} photos or more that FRUITS_STORE has records of takes their place, for "
            "raw_images one on a cluster."
        )
    yield (
        "Rates are the same for every core and any number of them: a vCPU of the cluster works as fast as a "
        "core of the run that was measured. What the driver does alone, such as listing the photos, is "
        "seconds where classes are many. S3 and the network keep up."
    )
    yield "Photos are of the same size as those of that run. A larger photo takes longer to read and decode."
    yield (
        f"A cluster starts in {CLUSTER_START_SECONDS // 60} minutes and a step in {STEP_START_SECONDS} s, "
        "and all nodes are paid for meanwhile. The cluster is terminated when the run ends; what Dagster "
        "does between steps is not in it: seconds, and with 1,000 classes about a minute."
    )
    yield (
        f"Each photo is {GETS_A_PHOTO} requests, and results are files of hundreds of photos. Photos are "
        "kept once as they are and once in raw_images. Logs, old versions, the nodes' disks, and what the "
        "stack itself costs while no cluster runs (fruits emr deploy says it) are not in it."
    )


def _span(seconds: float) -> str:
    """A time as a person says it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
