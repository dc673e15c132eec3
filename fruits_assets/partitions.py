"""One partition for each fruit class; the keys are registered when the photos are observed."""

import dagster as dg

fruit_classes = dg.DynamicPartitionsDefinition(name="fruit_class")


def known_classes(instance: dg.DagsterInstance) -> list[str]:
    """The classes registered so far, in the order of their registration."""
    return list(instance.get_dynamic_partitions(str(fruit_classes.name)))


def register_classes(instance: dg.DagsterInstance, labels: list[str]) -> None:
    instance.add_dynamic_partitions(str(fruit_classes.name), labels)
