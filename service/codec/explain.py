"""The slow second reading of a JSON request: Python objects, each checked, to name the first place that is wrong.

What turns out to be right after all (an escape in a string sends a body here, too) is accepted.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service.codec.envelope import MAX_LISTS, kind_of, parse, read_urgency, too_many_lists
from service.codec.interventions import read as read_interventions
from service.errors import IllegalRequestError, UnreadableError
from service.request import Tensors

TENSOR_RANK = {"hidden_states": 3, "input_ids": 2, "attention_mask": 2, "position_ids": 2}
_ELEMENTS = {
    "hidden_states": "a number",
    "input_ids": "a whole number of 64 bits",
    "attention_mask": "0, 1, true or false",
    "position_ids": "a whole number of 64 bits",
}


def _is_whole(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


_GOOD: dict[str, Callable[[Any], bool]] = {
    "hidden_states": lambda value: type(value) in (int, float),
    "input_ids": _is_whole,
    "position_ids": _is_whole,
    "attention_mask": lambda value: type(value) is bool or (type(value) is int and value in (0, 1)),
}
_STRINGS = {"text": "a string or a list of strings", "outputs": "a list of addresses"}
_LISTS = {
    "hidden_states": "numbers",
    "input_ids": "whole numbers",
    "attention_mask": "0 or 1",
    "position_ids": "whole numbers",
}


def explain(body: bytes) -> Tensors:
    """Reads what the fast way of nested_json.py could not.

    Raises:
        UnreadableError: not JSON.
        IllegalRequestError: names the first place that is wrong.
    """
    if body.count(b"{") > MAX_LISTS or body.count(b'"') > 2 * MAX_LISTS:
        raise too_many_lists()
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise UnreadableError("expected JSON: the text breaks its grammar", code="invalid_json") from None
    for name, value in fields.items():
        if name in TENSOR_RANK:
            _explain_lists(name, value, TENSOR_RANK[name])
        elif name in _STRINGS:
            _explain_strings(name, value)
    return _from_objects(fields)


def _from_objects(fields: dict[str, Any]) -> Tensors:
    text = fields.get("text")
    with np.errstate(over="ignore"):
        return Tensors(
            hidden_states=_each(fields, "hidden_states", lambda rows: np.asarray(rows, np.float64).astype(np.float32)),
            input_ids=_each(fields, "input_ids", lambda ids: np.asarray(ids, np.int64)),
            text=None if text is None else (text,) if isinstance(text, str) else tuple(text),
            attention_mask=_each(fields, "attention_mask", lambda mask: np.asarray(mask, np.bool_)),
            position_ids=_each(fields, "position_ids", lambda ids: np.asarray(ids, np.int64)),
            outputs=None if fields.get("outputs") is None else tuple(fields["outputs"]),
            **_interventions(fields),
            **read_urgency(fields),
        )


def _interventions(fields: dict[str, Any]) -> dict[str, Any]:
    if "interventions" not in fields:
        return {}
    document = parse(orjson.dumps({"interventions": fields["interventions"]}))
    interventions, listed = read_interventions(document["interventions"])
    return {"interventions": interventions, "intervention_lists": listed}


def _each(fields: dict[str, Any], name: str, make: Callable[[Any], NDArray[Any]]) -> Any:
    return tuple(make(sequence) for sequence in fields[name]) if name in fields else None


def _explain_lists(place: str, value: Any, rank: int) -> None:
    """Raises for the first list, length or element under `place` that is not as the rank wants it."""
    name = place.partition("[")[0]
    if not isinstance(value, list):
        depth = TENSOR_RANK[name] - rank
        raise _wrong_type(f"a list of {('sequences', 'positions')[depth] if rank > 1 else _LISTS[name]}", value, place)
    if rank == 1:
        _explain_elements(name, place, value)
        return
    if name == "hidden_states" and rank == 2 and not value:
        raise IllegalRequestError("expected at least 1 position, got 0", code="empty_sequence", at=place)
    for index, item in enumerate(value):
        _explain_lists(f"{place}[{index}]", item, rank - 1)
    if name == "hidden_states" and rank == 2:
        for index, row in enumerate(value):
            message = f"expected as many numbers as in the first position ({len(value[0])}), got {len(row)}"
            if not row:
                message = "expected at least 1 number, got 0"
            if not row or len(row) != len(value[0]):
                raise IllegalRequestError(message, code="wrong_shape", at=f"{place}[{index}]")


def _explain_elements(name: str, place: str, values: list[Any]) -> None:
    # Millions of elements may come, so each costs one step in C where its type says enough.
    if name == "hidden_states" and set(map(type, values)) <= {int, float}:
        return
    for index, value in enumerate(values):
        if not _GOOD[name](value):
            raise _wrong_type(_ELEMENTS[name], value, f"{place}[{index}]")


def _explain_strings(name: str, value: Any) -> None:
    if isinstance(value, str) and name == "text":
        return
    if not isinstance(value, list):
        raise _wrong_type(_STRINGS[name], value, name)
    if not value:
        what, code = ("address", "no_outputs") if name == "outputs" else ("sequence", "empty_batch")
        raise IllegalRequestError(f"expected at least one {what}, got an empty list", code=code, at=name)
    for index, item in enumerate(value):
        if not isinstance(item, str):
            raise _wrong_type("a string", item, f"{name}[{index}]")


def _wrong_type(expected: str, value: Any, place: str) -> IllegalRequestError:
    came = kind_of(value)
    if came == "a number" and expected in _ELEMENTS.values():
        came = "another number"
    return IllegalRequestError(f"expected {expected}, got {came}", code="wrong_type", at=place)
