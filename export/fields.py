"""The fields of a config held to their names and kinds."""

import dataclasses
import difflib
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

# Far above every model that is known, and small enough that torch counts with it.
MAX_SIZE, _MAX_NUMBER = 2**24, 1e18


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
        config: Made of literals, booleans, sizes (int, 1 to MAX_SIZE), positive numbers (float, at most 1e18) and what
            may be None.
        before: What stands before a field's name in the message.

    Raises:
        ValueError: One is something else.
    """
    for field in dataclasses.fields(config):
        _check_field(f"{before}{field.name}", field.type, getattr(config, field.name))


def _check_field(name: str, kind: Any, value: Any) -> None:
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
    if kind is int and value > MAX_SIZE:
        raise ValueError(f"{name} must be an integer of at most {MAX_SIZE}")
    if kind is float:
        check_number(name, value)


def check_number(name: str, value: object) -> None:
    """Holds a number to what all of torch can take, an integer that JSON spells with 400 digits among it.

    Raises:
        ValueError: It is none, not positive, or above 1e18.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    if value > _MAX_NUMBER:
        raise ValueError(f"{name} must be a positive number of at most {_MAX_NUMBER:g}")
