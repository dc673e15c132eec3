"""Spark's and YARN's settings for a cluster, calculated from the instance type and the number of nodes."""

from resources.instance_types import InstanceTypeError, instance
from spark_jobs.dimensions import TASKS_PER_CORE
from spark_jobs.store.root import IO_THREADS

# Memory of a Python worker with its decoder, 1,500 MB at most: 450 MB for OpenVINO with its model, one batch
# and Arrow, and up to 950 MB for the photos that FRUITS_MAX_IMAGE_PIXELS allows.
WORKER_MIB = 1430
HEAP_MIB = 1024
# Reserved on every node for the application master of a step in client mode, which needs 512 + 384 MiB. YARN
# rounds the memory of each container up, by less than 64 MiB.
MASTER_MIB = 1024
MASTER_HEAP_MIB = 512

# EMR counts less than the nominal memory on newer families: 15.25 of 16 GiB on m6i.xlarge, and 93 % on
# r6i.32xlarge, the least of all (`MemoryGB` in EMR's answer to ListSupportedInstanceTypes).
COUNTED_SHARE = 0.92
# Of the memory that it counts, EMR gives YARN all but a quarter, but never less than 2 or more than 8 GiB of
# it, which the operating system and EMR's daemons keep: 12,288 of 16,384 MiB on m5.xlarge, and 57,344 of
# 65,536 on m5.4xlarge ("Task configuration" in the EMR release guide,
# https://docs.aws.amazon.com/emr/latest/ReleaseGuide/emr-hadoop-task-config.html).
KEPT_SHARE, KEPT_MIB_LEAST, KEPT_MIB_MOST = 0.25, 2048, 8192


def spark_submit_conf(
    instance_type: str, nodes: int, region: str, most_nodes: int | None = None
) -> dict[str, str]:
    """Spark's settings for a step on `nodes` core nodes of one instance type, with the store in `region`.

    With managed scaling up to `most_nodes`, Spark asks for more executors where a stage has more full tasks
    than the cores of the nodes run. A stage of few photos has no such tasks, so EMR adds no nodes for it.

    Each node runs one executor with all its cores, because each Python worker is a separate process anyway.
    The executor's memory is the heap of its JVM (1 GiB, which holds no images) and an overhead of at least
    1,430 MiB for each Python worker. A node with less memory uses fewer cores. YARN schedules by memory
    alone, so the overhead is the whole rest of the node, and no second executor fits. Example: m5.xlarge has
    11,304 MiB for YARN. Less 1,024 for an application master and 1,024 of heap, 9,256 MiB remain for 4
    workers.

    The pool of Spark's own S3 connections, which only event logs use, has `IO_THREADS` connections for each
    worker, and as many more.

    Raises `InstanceTypeError` for an unknown instance type, and where a node has no room for a worker.
    """
    cores, room = executor_cores(instance_type), _room(instance_type)
    connections = IO_THREADS * (cores + 1)
    return {
        "spark.yarn.am.memory": f"{MASTER_HEAP_MIB}m",
        **_executors(nodes, most_nodes or nodes),
        "spark.executor.cores": str(cores),
        "spark.executor.memory": f"{HEAP_MIB}m",
        "spark.executor.memoryOverhead": f"{room}m",
        # EMR's Spark would fit executors to the nodes by itself.
        "spark.yarn.heterogeneousExecutors.enabled": "false",
        "spark.executorEnv.AWS_REGION": region,
        "spark.default.parallelism": str(nodes * cores),
        "spark.hadoop.fs.s3.maxConnections": str(connections),  # EMRFS
        "spark.hadoop.fs.s3a.connection.maximum": str(connections),
        # Without it, S3A asks another region for the bucket's own, and the private subnet reaches none.
        "spark.hadoop.fs.s3a.endpoint.region": region,
        "spark.task.maxFailures": "4",
        "spark.driver.maxResultSize": "0",
        "spark.rpc.message.maxSize": "512",
    }


def _executors(least: int, most: int) -> dict[str, str]:
    """The settings of a fixed number of executors, or of dynamic allocation between two numbers."""
    if least == most:
        return {"spark.dynamicAllocation.enabled": "false", "spark.executor.instances": str(least)}
    settings = {
        "enabled": "true",
        "minExecutors": least,
        "initialExecutors": least,
        "maxExecutors": most,
        "executorAllocationRatio": 1 / TASKS_PER_CORE,
        # Executors with the shuffle files of a running stage stay, also where YARN has no shuffle service.
        "shuffleTracking.enabled": "true",
    }
    return {f"spark.dynamicAllocation.{name}": str(value) for name, value in settings.items()}


def executor_cores(instance_type: str) -> int:
    """The number of cores, and so of Python workers, that an executor uses on a node of this type.

    Raises `InstanceTypeError` for an unknown instance type, and where a node has no room for a worker.
    """
    workers = min(instance(instance_type).vcpus, _room(instance_type) // WORKER_MIB)
    if workers < 1:
        raise InstanceTypeError(
            f"A node {instance_type} gives YARN {yarn_mib(instance_type):,} MiB. An application master, the "
            f"JVM of an executor and a Python worker need {MASTER_MIB + HEAP_MIB + WORKER_MIB:,} MiB, so no "
            "executor would start. Use a larger instance type."
        )
    return workers


def yarn_mib(instance_type: str) -> int:
    """YARN's memory on a node of this type, in MiB: at most as much as EMR gives by default.

    So executors fit both on clusters that runs start, which get this value (`yarn_site`), and on a cluster of
    the user's own. Raises `InstanceTypeError` for an unknown instance type.
    """
    memory = instance(instance_type).memory_gib * 1024 * COUNTED_SHARE
    return int(memory - min(max(KEPT_SHARE * memory, KEPT_MIB_LEAST), KEPT_MIB_MOST))


def yarn_site(core_type: str) -> dict[str, str]:
    """The properties of yarn-site for a cluster with core nodes of this type.

    They apply to the primary node too, on which YARN runs nothing. Raises `InstanceTypeError` for an unknown
    instance type.
    """
    memory = str(yarn_mib(core_type))
    return {
        "yarn.nodemanager.resource.memory-mb": memory,
        "yarn.scheduler.maximum-allocation-mb": memory,
    }


def _room(instance_type: str) -> int:
    """The memory for Python workers on a node of this type, in MiB."""
    return yarn_mib(instance_type) - MASTER_MIB - HEAP_MIB
