"""Spark's settings for a step, calculated from the instance type and the number of nodes."""

from resources.instance_types import instance
from spark_jobs.store.root import IO_THREADS

# Memory of a Python worker with its decoder, 1,500 MB at most: 450 MB for OpenVINO with its model, one batch
# and Arrow, and up to 950 MB for the photos that FRUITS_MAX_IMAGE_PIXELS allows.
WORKER_MIB = 1430
HEAP_MIB = 1024
# Reserved on every node for the application master of a step in client mode, which needs 512 + 384 MiB.
MASTER_MIB = 1024
# The part of a node's memory that EMR gives to YARN; the operating system and daemons keep the rest
# (m5.xlarge: 12,288 of 16,384 MiB; "Task configuration" in the EMR release guide).
YARN_SHARE = 0.75


def spark_submit_conf(instance_type: str, nodes: int, region: str) -> dict[str, str]:
    """Spark's settings for a step on `nodes` core nodes of one instance type, with the store in `region`.

    Each node runs one executor with all its cores, because each Python worker is a separate process anyway.
    The executor's memory is the heap of its JVM (1 GiB, which holds no images) and an overhead of at least
    1,430 MiB for each Python worker. A node with less memory uses fewer cores. YARN schedules by memory
    alone, so the overhead is the whole rest of the node, and no second executor fits. Example: m5.xlarge has
    12,288 MiB for YARN. Less 1,024 for an application master and 1,024 of heap, 10,240 MiB remain for 4
    workers.

    The pool of Spark's own S3 connections, which only event logs use, has `IO_THREADS` connections for each
    worker, and as many more.

    Raises `ValueError` for an instance type of an unknown family or size.
    """
    cores, room = executor_cores(instance_type), _room(instance_type)
    connections = IO_THREADS * (cores + 1)
    return {
        "spark.executor.instances": str(nodes),
        "spark.executor.cores": str(cores),
        "spark.executor.memory": f"{HEAP_MIB}m",
        "spark.executor.memoryOverhead": f"{room}m",
        "spark.executorEnv.AWS_REGION": region,
        "spark.dynamicAllocation.enabled": "false",
        "spark.default.parallelism": str(nodes * cores),
        "spark.hadoop.fs.s3.maxConnections": str(connections),  # EMRFS
        "spark.hadoop.fs.s3a.connection.maximum": str(connections),
        "spark.task.maxFailures": "4",
        "spark.driver.maxResultSize": "0",
        "spark.rpc.message.maxSize": "512",
    }


def executor_cores(instance_type: str) -> int:
    """The number of cores, and so of Python workers, that an executor uses on a node of this type.

    Raises `ValueError` for an instance type of an unknown family or size.
    """
    return max(1, min(instance(instance_type).vcpus, _room(instance_type) // WORKER_MIB))


def yarn_mib(instance_type: str) -> int:
    """YARN's memory on a node of this type, in MiB."""
    return int(instance(instance_type).memory_gib * 1024 * YARN_SHARE)


def _room(instance_type: str) -> int:
    """The memory for Python workers on a node of this type, in MiB."""
    return yarn_mib(instance_type) - MASTER_MIB - HEAP_MIB
