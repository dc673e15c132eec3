"""One partition for each fruit class: the classes of the store, and those of the photos at an observation.

Deleting a partition deletes no data. The class comes back with the next observation.
"""

from collections.abc import Iterable

import dagster as dg

# Dagster's tags for a run of one partition, and of a contiguous range of partitions.
PARTITION = "dagster/partition"
RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"

fruit_classes = dg.DynamicPartitionsDefinition(name="fruit_class")


def known_classes(instance: dg.DagsterInstance) -> list[str]:
    """The labels of the registered classes, in the order of their registration."""
    return list(instance.get_dynamic_partitions(str(fruit_classes.name)))


def register_classes(instance: dg.DagsterInstance, labels: Iterable[str]) -> None:
    """Adds a partition for each label, in their order. Registered labels keep their position."""
    instance.add_dynamic_partitions(str(fruit_classes.name), list(labels))


def unregister_classes(instance: dg.DagsterInstance, labels: Iterable[str]) -> None:
    """Removes the partitions of classes. A label without a partition is no error."""
    for label in labels:
        instance.delete_dynamic_partition(str(fruit_classes.name), label)
