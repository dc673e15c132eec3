"""Converts parameters and reports of jobs to JSON and back, and measures a job on its driver."""

import dataclasses
import json
import platform
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pyspark.sql import SparkSession

from spark_jobs.tasks import Reporter

# The files that a step on a cluster reads from its folder of the store (parameters) and writes there.
PARAMS, REPORT, MEASURED = "params.json", "report.json", "measured.json"

T = TypeVar("T")


def to_json(value: Any) -> bytes:
    """The JSON, in UTF-8, of a dataclass whose values have types of JSON, or are dataclasses or named tuples.

    Raises `TypeError` if a value has another type.
    """
    return json.dumps(dataclasses.asdict(value), ensure_ascii=False).encode()


def from_json(kind: type[T], content: bytes) -> T:
    """The dataclass of type `kind` that `to_json` wrote.

    Raises `TypeError` if the JSON lacks a required field of `kind`, has a field that `kind` does not have, or
    a value of another type; `ValueError` if it is no JSON.
    """
    value: T = _typed(kind, json.loads(content), kind.__name__)
    return value


def _typed(kind: Any, value: Any, where: str) -> Any:
    """The value with its dataclasses restored, by the type hints alone: cluster nodes have no pydantic.

    `where` names the value in an error: the nodes of a cluster may write any JSON.
    """
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        _check(dict, value, where)
        hints = _hints(kind)
        if unknown := value.keys() - hints.keys():
            raise TypeError(
                f"{kind.__name__} has no field {sorted(unknown)[0]!r}: "
                "the JSON was written by another version of the code"
            )
        return kind(**{name: _typed(hints[name], field, f"{where}.{name}") for name, field in value.items()})
    if isinstance(kind, type) and issubclass(kind, tuple):  # a `NamedTuple`
        _check(list, value, where)
        fields = _hints(kind)
        if len(value) > len(fields):
            raise TypeError(f"{where} has {len(value)} values, and {kind.__name__} has {len(fields)}")
        return kind(*map(_typed, fields.values(), value, [f"{where}.{name}" for name in fields]))
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is dict:
        _check(dict, value, where)
        return {key: _typed(arguments[1], item, f"{where}[{key!r}]") for key, item in value.items()}
    if origin is list:
        _check(list, value, where)
        return [_typed(arguments[0], item, where) for item in value]
    if origin in (Union, types.UnionType):
        [inner] = [argument for argument in arguments if argument is not type(None)]
        return None if value is None else _typed(inner, value, where)
    _check(kind, value, where)
    return value


def _check(kind: type, value: Any, where: str) -> None:
    """Raises `TypeError` for a value of another type. `True` is no number, and a whole number is a float."""
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise TypeError(f"{where} is {str(value)[:40]!r}, which is no {kind.__name__}")


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


Params = TypeVar("Params")
Report = TypeVar("Report")

Job = Callable[[SparkSession, Params, Reporter], Report]


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """The figures of one class in the report of a job: its images and their bytes, and the data version.

    Of the images, the job has computed the `new` ones, and `kept` the rows of the other ones. `gone` images
    have left the class. `written_bytes` are those of the files that the job added. `without_photos` is true
    if the class has no photos any more; its last version stays current.
    """

    images: int
    bytes: int
    data_version: str
    new: int
    kept: int
    gone: int
    written_bytes: int
    without_photos: bool = False


# The packages whose versions affect speed and results, besides Spark and Python.
_PACKAGES = ("openvino", "numpy", "pyarrow")


@dataclass(frozen=True)
class Measured:
    """The seconds of the job without Spark's start, Spark's application id, and versions on the driver."""

    seconds: float
    application: str
    versions: dict[str, str]


def run_measured(
    spark: SparkSession, job: Job[Params, Report], params: Params, report: Reporter
) -> tuple[Report, Measured]:
    """Runs a job in a Spark session that has already started, and passes on every error of the job."""
    started = time.monotonic()
    result = job(spark, params, report)
    seconds = round(time.monotonic() - started, 2)
    versions = {"python": platform.python_version(), "spark": spark.version}
    versions |= {package: version(package) for package in _PACKAGES}
    return result, Measured(seconds, str(spark.sparkContext.applicationId), versions)
