"""The columns of a table, as Dagster shows them."""

from collections.abc import Mapping

import dagster as dg


def columns(descriptions: Mapping[str, tuple[str, str]]) -> dict[str, dg.TableSchema]:
    """Definition metadata: a table's columns as {name: (type, description)}."""
    return {
        "dagster/column_schema": dg.TableSchema(
            [dg.TableColumn(name, kind, text) for name, (kind, text) in descriptions.items()]
        )
    }
