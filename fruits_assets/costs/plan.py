"""Projects the time and the cost of a run on a cluster, from the measured rates of earlier runs."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fruits_assets.costs.run_records import STAGES, RunRecord
from resources.emr.sizing import executor_cores
from resources.instance_types import common_architecture, instance
from resources.prices import Prices
from resources.settings import Settings
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_FEATURES_CSV, PCA_MODEL, RAW_IMAGES

# In a smaller run, the start of Spark distorts the rate.
MIN_IMAGES = 1000

# Assumed, not measured: the time until a cluster starts its first step, and until a step reads its first
# photo.
CLUSTER_START_SECONDS = 600
STEP_START_SECONDS = 30

# Python, Dagster and Spark on this machine, with the few seconds that each stage takes for itself.
LOCAL_START_SECONDS = 10

# S3 requests per photo, beside the PUT that uploads it. pyarrow reads the size of a photo before its content:
# HEAD and GET, which have one price. One LIST, at the price of a PUT, returns 1,000 photos. A file of results
# contains hundreds of images and needs a few requests.
GETS_A_PHOTO = 2
LISTS_A_PHOTO = 1 / 1000
GETS_OF_RESULTS, PUTS_OF_RESULTS = 1 / 25, 1 / 100


class Rate(NamedTuple):
    """The measured rate of a stage, the bytes that it stores per image, and the run that was measured."""

    images_per_core_second: float
    bytes_per_image: float
    source: str


_SHIPPED = "shipped"

# Used if the store has no run of at least `MIN_IMAGES` images. Measured by `make bench-full` (2026-11-25) on
# 5,928 photos of 100 x 100 pixels and 4.6 KB, on two cores with AVX-512. From an S3 server with a latency of
# 15 ms, ingestion processed 1,150 images/s. Features had 411 images/s and CSVs 36,513 images/s. The PCA was
# fitted and saved in 1.0 s.
SHIPPED_RATES: Mapping[str, Rate] = {
    RAW_IMAGES: Rate(575.0, 4_600, _SHIPPED),
    MOBILENET_FEATURES: Rate(206.0, 5_000, _SHIPPED),
    PCA_MODEL: Rate(2_940.0, 0, _SHIPPED),
    PCA_FEATURES_CSV: Rate(18_300.0, 330, _SHIPPED),
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A projected run of all stages.

    `seconds`, by stage, exclude the start of the cluster and of the steps. Prices in USD are for the whole
    run, except `hour_usd` (the cluster, per hour) and `storage_usd` (per month).
    """

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
        """Seconds until the cluster and all steps have started. No photo is processed meanwhile."""
        return CLUSTER_START_SECONDS + STEP_START_SECONDS * len(self.seconds)

    @property
    def all_seconds(self) -> float:
        return self.starts + sum(self.seconds.values())

    @property
    def compute_usd(self) -> float:
        return self.all_seconds / 3600 * self.hour_usd


def project(
    *,
    images: int,
    nodes: int,
    instance_type: str,
    primary_type: str,
    records: Sequence[RunRecord],
    prices: Prices,
) -> Plan:
    """Projects a run of all stages on `nodes` core nodes of `instance_type` and one primary node.

    `records` are those of earlier runs. Raises `FruitsError` if an instance type is unknown or has no price,
    or if the two types have different processors.
    """
    common_architecture(primary_type, instance_type)
    cores = nodes * executor_cores(instance_type)
    hour_usd = prices.cluster_hour(primary_type, instance_type, nodes)
    rates = {stage: rate_of(records, stage, instance_type) for stage in STAGES}
    # The photos are about as large as their copies in raw_images.
    size = images * (rates[RAW_IMAGES].bytes_per_image + sum(rate.bytes_per_image for rate in rates.values()))
    gets_usd = (GETS_A_PHOTO + GETS_OF_RESULTS) * prices.s3_thousand_gets
    puts_usd = (LISTS_A_PHOTO + PUTS_OF_RESULTS) * prices.s3_thousand_puts
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
        requests_usd=images / 1000 * (gets_usd + puts_usd),
        storage_usd=size / 1e9 * prices.s3_gb_month,
        stored_bytes=size,
    )


def expected_seconds(settings: Settings, records: Sequence[RunRecord], images: Mapping[str, int]) -> float:
    """The expected seconds of a run, from the images of each stage and the rates of earlier runs."""
    cluster = settings.env == "emr"
    nodes, core_type = settings.emr_core_nodes, settings.emr_core_type
    cores = nodes * executor_cores(core_type) if cluster else settings.spark_cores or os.cpu_count() or 1
    stages = {stage: count for stage, count in images.items() if count}
    starts = (CLUSTER_START_SECONDS if settings.makes_clusters else 0) + STEP_START_SECONDS * len(stages)
    # A stage on this machine finds photos on its disk or on S3, as the stages before it.
    records = [record for record in records if record.environment == settings.env] or records
    rates = {stage: rate_of(records, stage, core_type) for stage in stages}
    return sum(count / rates[stage].images_per_core_second / cores for stage, count in stages.items()) + (
        starts if cluster else LOCAL_START_SECONDS
    )


def rate_of(records: Iterable[RunRecord], stage: str, instance_type: str) -> Rate:
    """Returns the rate of a stage in the earlier run that is most similar, else the shipped rate.

    Runs on the same instance type come first, then runs on other clusters, then runs on this machine. Among
    equal runs, the run with most images is used, then the latest run. For ingestion, only runs on a cluster
    are used: they read the photos from S3, while a local run may read them from its disk.
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
        key=lambda record: (
            record.instance_type == instance_type,
            record.environment == "emr",
            record.images,
            record.finished,
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
    """Yields the projection as pairs of a name and a value to print."""
    for stage, seconds in plan.seconds.items():
        rate = plan.rates[stage]
        yield (
            stage,
            f"{_span(seconds)}, at {rate.images_per_core_second:,.0f} images/s a core ({rate.source})",
        )
    yield "starts", f"{_span(plan.starts)}: the cluster and {len(plan.seconds)} steps"
    yield "time", f"{_span(plan.all_seconds)} for {plan.images:,} images on {plan.cores} cores"
    yield (
        "cluster",
        f"{plan.compute_usd:,.2f} USD: {plan.nodes} x {plan.instance_type} and a primary node "
        f"{plan.primary_type} at {plan.hour_usd:,.2f} USD an hour, for EC2 and EMR",
    )
    yield "S3 requests", f"{plan.requests_usd:,.2f} USD, and {plan.upload_usd:,.2f} USD once for the upload"
    yield (
        "S3 storage",
        f"{plan.storage_usd:,.2f} USD a month for {plan.stored_bytes / 1e9:,.1f} GB of photos and results",
    )
    yield "prices", f"{prices.region}, {prices.date}, on demand, without tax or discounts"


def assumptions(plan: Plan) -> Iterator[str]:
    """Yields the assumptions of the projection, one per paragraph to print."""
    if any(rate.source == _SHIPPED for rate in plan.rates.values()):
        yield (
            "Shipped rates were measured with 5,928 photos of 100 x 100 pixels, on two cores with AVX-512. A "
            f"run of at least {MIN_IMAGES:,} photos with records in FRUITS_STORE replaces them; for "
            "raw_images, this must be a run on a cluster."
        )
    yield (
        "Each core has the same rate, for any number of cores: a vCPU of the cluster is as fast as a core of "
        "the measured run. S3 and the network are not a bottleneck. The work of the driver alone, such as "
        "listing the photos, is left out. It takes seconds if there are many classes."
    )
    if instance(plan.instance_type).architecture == "aarch64":
        yield "No run was measured on Graviton (aarch64): its vCPUs may be slower or faster."
    yield (
        "The photos are as large as those of the measured run. Larger photos take longer to read and decode."
    )
    yield (
        f"A cluster starts in {CLUSTER_START_SECONDS // 60} minutes and a step in {STEP_START_SECONDS} s. "
        "All nodes are charged during this time. The cluster terminates when the run ends. Dagster's work "
        "between the steps is left out. It takes seconds, or about a minute for 1,000 classes."
    )
    yield (
        f"Each photo takes {GETS_A_PHOTO} S3 requests. A file of results contains hundreds of photos. S3 "
        "stores each photo twice: as it is, and in raw_images. Logs, old versions and the disks of the nodes "
        "are left out. So is the price of the stack while no cluster runs, which fruits emr deploy prints."
    )


def _span(seconds: float) -> str:
    """Returns the time in seconds, minutes, or hours and minutes."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
