"""What the hardware of a cluster dictates about a step."""

from resources.instance_types import instance

# Of a Python worker that extracts features: OpenVINO with its compiled model, one batch, Arrow.
WORKER_MIB = 700
HEAP_MIB = 1024
# Left on every node for YARN's application master of a step in client mode, 512 + 384 MiB.
MASTER_MIB = 1024
# YARN's share of a node's memory: EMR leaves the system and its daemons a quarter of it
# (m5.xlarge: 12,288 of 16,384 MiB; "Task configuration" in the EMR release guide).
YARN_SHARE = 0.75


def spark_submit_conf(instance_type: str, nodes: int, region: str) -> dict[str, str]:
    """Spark's settings for a step on `nodes` core nodes of one instance type, with the store in `region`.

    One executor a node with all its cores, because a Python worker is a process of its own anyway. Its
    memory is the heap of the JVM (1 GiB, which holds no images) and, as overhead, at least 700 MiB for each
    Python worker; where a node has less, fewer cores are used. YARN counts memory alone, so the overhead is
    all that is left, and no two executors share a node. m5.xlarge: 12,288 MiB for YARN, less 1,024 for an
    application master and 1,024 of heap, is 10,240 of overhead for 4 workers. Spark's own pool of S3
    connections, for event logs alone, is as large as what the 32 reading threads of each worker open beside
    it.

    Raises `ValueError` for an instance type of an unknown family or size.
    """
    cores, room = executor_cores(instance_type), _room(instance_type)
    return {
        "spark.executor.instances": str(nodes),
        "spark.executor.cores": str(cores),
        "spark.executor.memory": f"{HEAP_MIB}m",
        "spark.executor.memoryOverhead": f"{room}m",
        "spark.executorEnv.AWS_REGION": region,
        "spark.dynamicAllocation.enabled": "false",
        "spark.default.parallelism": str(nodes * cores),
        "spark.hadoop.fs.s3.maxConnections": str(32 * cores + 32),  # EMRFS
        "spark.hadoop.fs.s3a.connection.maximum": str(32 * cores + 32),
        "spark.task.maxFailures": "4",
        "spark.driver.maxResultSize": "0",
        "spark.rpc.message.maxSize": "512",
    }


def executor_cores(instance_type: str) -> int:
    """How many Python workers an executor on such a node has at once.

    Raises `ValueError` for an instance type of an unknown family or size.
    """
    return max(1, min(instance(instance_type).vcpus, _room(instance_type) // WORKER_MIB))


def yarn_mib(instance_type: str) -> int:
    """YARN's memory on such a node, in MiB."""
    return int(instance(instance_type).memory_gib * 1024 * YARN_SHARE)


def _room(instance_type: str) -> int:
    """What a node has for Python workers, in MiB."""
    return yarn_mib(instance_type) - MASTER_MIB - HEAP_MIB
