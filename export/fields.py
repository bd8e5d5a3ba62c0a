"""The fields of a config held to their names and kinds."""

import dataclasses
import difflib
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin


def refuse_unknown(cls: type, fields: Mapping[str, Any]) -> None:
    """Holds the names of fields to those of a dataclass.

    Raises:
        ValueError: One that it does not have; names the nearest.
    """
    names = [field.name for field in dataclasses.fields(cls)]
    for key in fields:
        if key in names:
            continue
        near = difflib.get_close_matches(key, names, n=1, cutoff=0.0)
        raise ValueError(f"unknown field {key!r}; the nearest is {near[0]!r}")


def check_fields(config: Any, before: str = "") -> None:
    """Holds each field of a dataclass to its kind.

    Args:
        config: Made of literals, booleans, sizes (int, at least 1), positive numbers (float) and what may be None.
        before: What stands before a field's name in the message.

    Raises:
        ValueError: One is something else.
    """
    for field in dataclasses.fields(config):
        _check_field(f"{before}{field.name}", field.type, getattr(config, field.name))


def _check_field(name: str, kind: Any, value: object) -> None:
    if isinstance(kind, UnionType):
        if value is None:
            return
        (kind,) = {*get_args(kind)} - {NoneType}
    if get_origin(kind) is Literal and value not in get_args(kind):
        raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}; got {value!r}")
    if dataclasses.is_dataclass(kind) and type(value) is not kind:
        raise ValueError(f"{name} must be an object or null, got {value!r}")
    if kind is bool and not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")
    if kind is int and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    if kind is float and (
        isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf")
    ):
        raise ValueError(f"{name} must be a positive number, got {value!r}")
