"""One partition for each fruit class. An observation of the photos registers the partition keys."""

import dagster as dg

fruit_classes = dg.DynamicPartitionsDefinition(name="fruit_class")


def known_classes(instance: dg.DagsterInstance) -> list[str]:
    """The labels of the registered classes, in the order of their registration."""
    return list(instance.get_dynamic_partitions(str(fruit_classes.name)))


def register_classes(instance: dg.DagsterInstance, labels: list[str]) -> None:
    """Adds a partition for each label. Registered labels keep their position."""
    instance.add_dynamic_partitions(str(fruit_classes.name), labels)
