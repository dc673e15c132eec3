"""Parameters and reports of jobs as JSON, and back: dataclasses of plain types, lists and dictionaries."""

import dataclasses
import json
import types
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

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
