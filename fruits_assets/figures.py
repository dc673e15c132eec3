"""Figures of materializations, as Dagster and people read them."""

from typing import Any

# Dagster's names for the rows of a class, and of a whole table.
# https://docs.dagster.io/guides/build/assets/metadata-and-tags/table-metadata
CLASS_ROWS, TABLE_ROWS = "dagster/partition_row_count", "dagster/row_count"


def size(number: float) -> str:
    """A number of bytes for people, with three digits: `165 kB`, `1.23 GB`."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while number >= 999.5 and len(units) > 1:
        number /= 1000
        units.pop(0)
    return f"{number:.3g} {units[0]}"


def rounded(number: float) -> float:
    """A number with two significant digits."""
    return float(f"{number:.2g}")


def percent(share: float) -> float:
    """A share (0 to 1) in percent, rounded for people."""
    return round(100 * share, 1)


def class_figures(rows: int, content: int) -> dict[str, Any]:
    """The metadata of a class: its rows, and the size of its files."""
    return {CLASS_ROWS: rows, "size": size(content)}
