"""The cores and the memory of executors on the nodes of a cluster, against the memory that EMR gives YARN."""

import pytest

from resources.emr import sizing
from resources.emr.sizing import executor_cores, spark_submit_conf, yarn_mib, yarn_site
from resources.instance_types import InstanceTypeError
from tests.resources.test_instance_types import Offered, accepted

# MiB of an application master in client mode: spark.yarn.am.memory, and the least
# spark.yarn.am.memoryOverhead (https://spark.apache.org/docs/3.5.6/running-on-yarn.html).
MASTER = 512 + 384

# `yarn.nodemanager.resource.memory-mb` in "Task configuration" of the EMR release guide, as of emr-7.12
# (https://docs.aws.amazon.com/emr/latest/ReleaseGuide/emr-hadoop-task-config.html).
EMRS_YARN_MIB = {
    "c7g.xlarge": 5_632,
    "c7g.2xlarge": 11_712,
    "c7g.4xlarge": 23_424,
    "c7g.8xlarge": 54_272,
    "c7g.12xlarge": 85_504,
    "c7a.24xlarge": 179_200,
    "c7a.48xlarge": 366_592,
    "m5.xlarge": 12_288,
    "m6i.xlarge": 11_712,
    "m6i.2xlarge": 23_424,
    "m7g.4xlarge": 54_272,
    "m7g.8xlarge": 116_736,
    "m7g.16xlarge": 241_664,
    "m7a.32xlarge": 491_520,
    "m7a.48xlarge": 741_376,
}


def emrs_yarn_mib(counted_gib: float) -> float:
    """EMR's rule, which `EMRS_YARN_MIB` follow: the memory that it counts less a quarter, but 2 to 8 GiB."""
    mib = counted_gib * 1024
    return mib - min(max(mib / 4, 2048), 8192)


def rounded_up(mib: int, minimum_allocation: int) -> int:
    """The size of a container of YARN: a multiple of yarn.scheduler.minimum-allocation-mb."""
    return -(-mib // minimum_allocation) * minimum_allocation


def executor_mib(conf: dict[str, str]) -> int:
    return sum(int(conf[f"spark.executor.memory{part}"].removesuffix("m")) for part in ("", "Overhead"))


@pytest.mark.parametrize(("instance_type", "mib"), EMRS_YARN_MIB.items())
def test_yarn_gets_no_more_memory_than_emr_gives(offered: Offered, instance_type: str, mib: int) -> None:
    assert emrs_yarn_mib(offered[instance_type]["MemoryGB"]) == mib
    assert 0.85 * mib < yarn_mib(instance_type) <= mib


@pytest.mark.parametrize("minimum_allocation", [1, 32, 64])
def test_each_accepted_node_has_room_for_an_application_master_and_one_executor(
    offered: Offered, minimum_allocation: int
) -> None:
    for instance_type in filter(accepted, offered):
        conf = spark_submit_conf(instance_type, 3, "eu-west-3")
        executor = executor_mib(conf)
        given = emrs_yarn_mib(offered[instance_type]["MemoryGB"])
        assert yarn_mib(instance_type) <= given, instance_type
        both = rounded_up(MASTER, minimum_allocation) + rounded_up(executor, minimum_allocation)
        assert both <= yarn_mib(instance_type), instance_type
        assert given < 2 * executor, f"{instance_type} has room for a second executor"


def test_the_system_of_a_node_keeps_two_gib_and_from_16_gib_on_three_and_a_half(offered: Offered) -> None:
    for instance_type in filter(accepted, offered):
        counted = offered[instance_type]["MemoryGB"] * 1024
        kept = counted - yarn_mib(instance_type)
        assert kept >= (3584 if counted > 14 * 1024 else 2048), instance_type


@pytest.mark.parametrize(
    ("instance_type", "cores"),
    [
        ("c5.xlarge", 2),
        ("c6g.2xlarge", 6),
        ("c5.4xlarge", 14),
        ("c7g.8xlarge", 32),
        ("m5.xlarge", 4),
        ("m7g.2xlarge", 8),
        ("r5.8xlarge", 32),
    ],
)
def test_an_executor_uses_the_cores_for_which_its_node_has_memory(instance_type: str, cores: int) -> None:
    conf = spark_submit_conf(instance_type, 3, "eu-west-3")
    assert executor_cores(instance_type) == cores
    assert conf["spark.executor.instances"] == "3"
    assert conf["spark.executor.cores"] == str(cores)
    assert conf["spark.default.parallelism"] == str(3 * cores)


def test_each_worker_has_its_memory_on_every_accepted_node(offered: Offered) -> None:
    for instance_type in filter(accepted, offered):
        conf = spark_submit_conf(instance_type, 1, "eu-west-3")
        overhead = int(conf["spark.executor.memoryOverhead"].removesuffix("m"))
        assert overhead >= int(conf["spark.executor.cores"]) * sizing.WORKER_MIB, instance_type


def test_a_node_without_room_for_a_worker_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "WORKER_MIB", 4096)
    with pytest.raises(InstanceTypeError, match=r"c5\.xlarge gives YARN 5,488 MiB\. .* need 6,144 MiB"):
        spark_submit_conf("c5.xlarge", 2, "eu-west-3")


def test_yarn_is_set_to_the_memory_by_which_executors_are_sized() -> None:
    assert yarn_site("m6i.xlarge") == {
        "yarn.nodemanager.resource.memory-mb": "11304",
        "yarn.scheduler.maximum-allocation-mb": "11304",
    }


def test_a_step_has_the_region_and_emr_does_not_change_its_executors() -> None:
    conf = spark_submit_conf("m5.xlarge", 2, "eu-central-1")
    assert (
        conf["spark.executorEnv.AWS_REGION"] == conf["spark.hadoop.fs.s3a.endpoint.region"] == "eu-central-1"
    )
    assert conf["spark.yarn.heterogeneousExecutors.enabled"] == "false"
    assert conf["spark.yarn.am.memory"] == "512m"
