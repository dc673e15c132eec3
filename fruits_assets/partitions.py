"""One partition for each fruit class: the classes of the store, and those of the photos at an observation.

Deleting a partition deletes no data. The class comes back with the next observation.
"""

from collections.abc import Iterable
from typing import Any

import click
import dagster as dg

from spark_jobs.wording import named

# Dagster's tags for a run of one partition, and of a contiguous range of partitions.
PARTITION = "dagster/partition"
RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"

# An error names this many classes.
_NAMED = 10


class _FruitClasses(dg.DynamicPartitionsDefinition):
    """Dagster's dynamic partitions. An unknown key of a command is an error with a remedy.

    Dagster's own error has a traceback, and tells neither the known keys nor what to do.
    """

    def validate_partition_key(self, partition_key: str, context: Any) -> None:
        try:
            super().validate_partition_key(partition_key, context)
        except dg.DagsterUnknownPartitionError:
            known = context.dynamic_partitions_store.get_dynamic_partitions(self.name)
            names = named(known, _NAMED)
            raise click.ClickException(
                f"Dagster knows no class {partition_key!r}. It knows {names or 'none'}. This command "
                "registers the classes of the photos: fruits observe"
            ) from None


fruit_classes = _FruitClasses(name="fruit_class")


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
