"""Parameters and reports of jobs as JSON, and what the driver of a job measures."""

import dataclasses
import json
import platform
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pyspark.sql import SparkSession

from spark_jobs.tasks import Reporter

# What a step on a cluster reads, and what it leaves, in its folder of the store.
PARAMS, REPORT, MEASURED = "params.json", "report.json", "measured.json"

T = TypeVar("T")


def to_json(value: Any) -> bytes:
    """A dataclass as JSON in UTF-8. Raises `TypeError` where it holds anything but plain types."""
    return json.dumps(dataclasses.asdict(value), ensure_ascii=False).encode()


def from_json(kind: type[T], content: bytes) -> T:
    """The dataclass that `to_json` wrote. Raises `TypeError` where fields are missing or unknown."""
    return _typed(kind, json.loads(content))


def _typed(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind)
        if unknown := value.keys() - hints.keys():
            raise TypeError(
                f"{kind.__name__} has no field {sorted(unknown)[0]!r}; the code and the JSON differ"
            )
        return kind(**{name: _typed(hints[name], one) for name, one in value.items()})
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is dict:
        return {key: _typed(arguments[1], one) for key, one in value.items()}
    if origin is list:
        return [_typed(arguments[0], one) for one in value]
    if origin in (Union, types.UnionType):
        [other] = [argument for argument in arguments if argument is not type(None)]
        return None if value is None else _typed(other, value)
    return value


Params = TypeVar("Params")
Report = TypeVar("Report")

Job = Callable[[SparkSession, Params, Reporter], Report]


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """What a job tells of one class: the images and bytes that it wrote, and the version of the data.

    `gone` is true for a class that has no photos any more, of which the last version was kept.
    """

    images: int
    bytes: int
    data_version: str
    gone: bool = False


# What decides about speed and results, beside Spark and Python.
_PACKAGES = ("openvino", "numpy", "pyarrow")


@dataclass(frozen=True)
class Measured:
    """Seconds of the job alone, Spark's id of the application, and versions by name on its driver."""

    seconds: float
    application: str
    versions: dict[str, str]


def run_measured(
    spark: SparkSession, job: Job[Params, Report], params: Params, report: Reporter
) -> tuple[Report, Measured]:
    """Runs a job in a session that has started. Raises what the job raises."""
    started = time.monotonic()
    result = job(spark, params, report)
    seconds = round(time.monotonic() - started, 2)
    versions = {"python": platform.python_version(), "spark": spark.version}
    versions |= {package: version(package) for package in _PACKAGES}
    return result, Measured(seconds, str(spark.sparkContext.applicationId), versions)
