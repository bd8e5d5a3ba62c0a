"""Interventions in JSON: {ADDRESS: {VERB: a number, lists of numbers, or {"from": a sequence}}}, or a list of these.

As tensors they are called ADDRESS.VERB; the first axis is 1, for every sequence, or has one value a sequence.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import simdjson

from service.codec.envelope import read_fields, read_whole, wrong_type
from service.errors import IllegalRequestError
from service.intervention import VERBS
from service.request import Intervention
from service.tensors import Float32Array

MOST = 4096  # that `max_interventions` can be set to
_NESTED = 8  # more than any tensor has axes
MOST_AXES = 1 + _NESTED  # the batch's, and a value's


def read(value: Any) -> tuple[tuple[Intervention, ...], int | None]:
    """Reads the field: one object for every sequence, or a list with an object or null a sequence, and its length.

    Args:
        value: simdjson's.

    Raises:
        IllegalRequestError: something else; says where, an address by its number in its object.
    """
    if isinstance(value, simdjson.Object):
        return tuple(_read_object(value, None, "interventions")), None
    if not isinstance(value, simdjson.Array):
        raise wrong_type("an object, or a list with an object or null a sequence", value, "interventions")
    found: list[Intervention] = []
    for index, item in enumerate(value):
        if isinstance(item, simdjson.Object):
            found += _read_object(item, index, f"interventions[{index}]")
            if len(found) > MOST:
                raise too_many(f"interventions[{index}]")
        elif item is not None:
            raise wrong_type("an object or null", item, f"interventions[{index}]")
    return tuple(found), len(value)


def count_brackets(value: Any) -> int:
    """Opening square brackets in the text of a value, those in strings too."""
    if isinstance(value, str):
        return value.count("[")
    if isinstance(value, simdjson.Object):
        return sum(count_brackets(key) + count_brackets(value[key]) for key in value.keys())  # noqa: SIM118
    if not isinstance(value, simdjson.Array):
        return 0
    if len(value) and isinstance(value[0], int | float):  # and so all the others
        return 1
    return 1 + sum(count_brackets(item) for item in value)


def split_name(name: str) -> tuple[str, str] | None:
    """ADDRESS and VERB of a tensor called ADDRESS.VERB; None for any other name."""
    address, _, verb = name.rpartition(".")
    return (address, verb) if address and verb in VERBS and "\0" not in address else None


def check_shape(shape: Sequence[int], batch_size: int, place: str) -> None:
    """Holds a tensor's shape against the batch; what is behind its first axis is left to check.py.

    Raises:
        IllegalRequestError: the first size is neither 1 nor the batch's, or there are more than any value has.
    """
    check_rank(len(shape), f"{place}.shape")
    if shape[0] not in {1, batch_size}:
        message = f"expected 1, for all sequences, or {batch_size}, one for each, got {shape[0]}"
        raise IllegalRequestError(message, code="wrong_shape", at=f"{place}.shape[0]")


def check_rank(rank: int, place: str) -> None:
    """Holds the number of a tensor's axes against what a value may have; before its sizes are multiplied.

    Raises:
        IllegalRequestError: none, or too many.
    """
    if not 1 <= rank <= MOST_AXES:
        message = f"expected a shape of 1 to {MOST_AXES} sizes, got {rank}"
        raise IllegalRequestError(message, code="wrong_shape", at=place)


def from_tensors(tensors: Iterable[tuple[str, Sequence[Float32Array], str]]) -> tuple[Intervention, ...]:
    """The interventions of tensors: one for every sequence, or one a sequence.

    Args:
        tensors: a name ADDRESS.VERB, values by the first axis, and the place in the request, of each.

    Raises:
        IllegalRequestError: more than can be set as a limit.
    """
    found: list[Intervention] = []
    for name, values, place in tensors:
        address, _, verb = name.rpartition(".")
        sequences = range(len(values)) if len(values) > 1 else (None,)
        pairs = zip(sequences, values, strict=True)
        found += [Intervention(sequence, address, verb, np.asarray(value), place) for sequence, value in pairs]
        if len(found) > MOST:
            raise too_many(place)
    return tuple(found)


def too_many(place: str) -> IllegalRequestError:
    """More interventions than any limit lets through."""
    message = f"expected at most {MOST:,} interventions, got more"
    return IllegalRequestError(message, code="too_many_interventions", at=place)


def _read_object(value: Any, sequence: int | None, place: str) -> list[Intervention]:
    found: list[Intervention] = []
    addresses = list(islice(value.keys(), MOST + 1))
    if len(addresses) > MOST:
        raise too_many(place)
    seen = set()
    for number, address in enumerate(addresses):
        where = f"{place}[{number}]"
        if address in seen:
            raise IllegalRequestError("an address came twice", code="duplicate_field", at=where)
        seen.add(address)
        if "\0" in address:  # where simdjson would end the key, and find another one's value
            raise IllegalRequestError("expected an address, got a NUL", code="unknown_output", at=where)
        verbs = value[address]
        if not isinstance(verbs, simdjson.Object):
            raise wrong_type("an object of scale, add or set", verbs, where)
        if not len(verbs):
            raise IllegalRequestError("expected scale, add or set, got none", code="missing_field", at=where)
        for verb, operand in read_fields(verbs, VERBS, where).items():
            found.append(Intervention(sequence, address, verb, _read_value(operand, f"{where}.{verb}"), where))
    return found


def _read_value(value: Any, place: str) -> Float32Array | int:
    if isinstance(value, simdjson.Object):
        fields = read_fields(value, ("from",), place)
        if "from" not in fields:
            raise IllegalRequestError("expected from, got none", code="missing_field", at=place)
        return read_whole(fields["from"], f"{place}.from")
    with np.errstate(over="ignore"):  # what became infinite is found by the check
        return np.asarray(_read_numbers(value, place), np.float64).astype(np.float32)


def _read_numbers(value: Any, place: str, depth: int = 0) -> Any:
    """A number, or lists of them that are equally long on every level."""
    if type(value) in (int, float):
        return value
    if not isinstance(value, simdjson.Array) or depth == _NESTED:
        raise wrong_type('a number, lists of numbers, or {"from": a sequence}', value, place)
    if not (len(value) and isinstance(value[0], simdjson.Array)):
        numbers = value.as_list()
        for index, number in enumerate(numbers):
            if type(number) not in (int, float):
                raise wrong_type("a number", value[index], f"{place}[{index}]")
        return np.asarray(numbers, np.float64)
    rows = [_read_numbers(row, f"{place}[{index}]", depth + 1) for index, row in enumerate(value)]
    for index, row in enumerate(rows):
        if np.shape(row) != rows[0].shape:
            message = f"expected lists as long as the first ones, {list(rows[0].shape)}, got {list(np.shape(row))}"
            raise IllegalRequestError(message, code="wrong_shape", at=f"{place}[{index}]")
    return np.stack(rows)
