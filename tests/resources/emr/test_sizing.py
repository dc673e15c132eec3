"""The cores and the memory of executors on the nodes of a cluster."""

import pytest

from resources.emr.sizing import executor_cores, spark_submit_conf, yarn_mib

MASTER = 896  # MiB of an application master in client mode: 512 and the least overhead, 384


@pytest.mark.parametrize(
    ("instance_type", "cores"),
    [
        ("c5.large", 1),
        ("m5.large", 2),
        ("m5.xlarge", 4),
        ("c5.xlarge", 2),
        ("c5.4xlarge", 15),
        ("r5.8xlarge", 32),
    ],
)
def test_a_node_has_room_for_an_application_master_and_one_executor(instance_type: str, cores: int) -> None:
    conf = spark_submit_conf(instance_type, 3, "eu-west-3")
    executor = sum(int(conf[f"spark.executor.memory{part}"].removesuffix("m")) for part in ("", "Overhead"))
    assert MASTER + executor <= yarn_mib(instance_type) < 2 * executor
    assert executor_cores(instance_type) == cores
    assert conf["spark.executor.instances"] == "3"
    assert conf["spark.executor.cores"] == str(cores)
    assert conf["spark.default.parallelism"] == str(3 * cores)
    assert conf["spark.executorEnv.AWS_REGION"] == "eu-west-3"
