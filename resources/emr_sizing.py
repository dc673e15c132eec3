"""What the hardware of a cluster dictates about a step."""

from resources.instances import instance

# Of a Python worker that extracts features: OpenVINO with its compiled model, one batch, Arrow.
WORKER_MIB = 700
HEAP_MIB = 1024
# YARN's share of a node's memory: EMR leaves the system and its daemons a quarter of it
# (m5.xlarge: 12,288 of 16,384 MiB; "Task configuration" in the EMR release guide).
YARN_SHARE = 0.75


def spark_submit_conf(instance_type: str, nodes: int) -> dict[str, str]:
    """Spark's settings for a step on `nodes` core nodes of one instance type.

    One executor a node with all its cores, because a Python worker is a process of its own anyway. Its
    memory is the heap of the JVM (1 GiB, which holds no images) and, as overhead, 700 MiB for each
    Python worker; where a node has less, fewer cores are used. m5.xlarge: 12,288 MiB for YARN, 4 cores:
    1,024 + 4 x 700 = 3,824 MiB. The pool of S3 connections is the 32 reading threads of each core and a
    few for Spark itself.

    Raises `ValueError` for an instance type of an unknown family or size.
    """
    _, cores, memory_gib = instance(instance_type)
    room = int(memory_gib * 1024 * YARN_SHARE) - HEAP_MIB
    cores = max(1, min(cores, room // WORKER_MIB))
    return {
        "spark.executor.instances": str(nodes),
        "spark.executor.cores": str(cores),
        "spark.executor.memory": f"{HEAP_MIB}m",
        "spark.executor.memoryOverhead": f"{cores * WORKER_MIB}m",
        "spark.dynamicAllocation.enabled": "false",
        "spark.default.parallelism": str(nodes * cores),
        "spark.hadoop.fs.s3.maxConnections": str(32 * cores + 32),
        "spark.task.maxFailures": "4",
        "spark.driver.maxResultSize": "0",
        "spark.rpc.message.maxSize": "512",
    }
