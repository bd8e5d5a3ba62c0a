"""The Open Inference Protocol's JSON without its numbers: every field and parameter known, of its type, there once.

A field or parameter that this server does not know is a 422, one that it knows of and does not have is a 501: nothing
that a client asks for is passed over in silence.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import simdjson

from service.codec.envelope import (
    MAX_LISTS,
    as_timeout,
    count_lists,
    parse,
    read_fields,
    read_whole,
    too_many_lists,
    wrong_type,
)
from service.errors import IllegalRequestError, UnsupportedError

MAX_ID_CHARACTERS = 128
SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")
REGION = ("shared_memory_region", "shared_memory_offset", "shared_memory_byte_size")


@dataclass(frozen=True, slots=True)
class InputHead:
    """What is said of an input.

    Attributes:
        name: as sent.
        datatype: as sent.
        shape: sizes, each at least 1.
        data: simdjson's Array, or what stands for numbers that were cut out; None: the tensor is behind the JSON.
        size_bytes: of the tensor behind the JSON.
        place: in the request.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Any
    size_bytes: int
    place: str


@dataclass(frozen=True, slots=True)
class OutputHead:
    """An output that is asked for.

    Attributes:
        name: an address.
        binary: whether as bytes behind the JSON; None: as the request as a whole says.
        place: in the request.
    """

    name: str
    binary: bool | None
    place: str


@dataclass(frozen=True, slots=True)
class Head:
    """A request without its tensors.

    Attributes:
        model: the name that KServe's client repeats from the URL; empty: none.
        id: to be echoed; empty: none.
        timeout_s: None: none.
        priority: 0: the default.
        binary: whether outputs that do not say so themselves go as bytes.
        inputs: in order.
        outputs: in order; None: all of the model's.
    """

    model: str
    id: str
    timeout_s: float | None
    priority: int
    binary: bool
    inputs: tuple[InputHead, ...]
    outputs: tuple[OutputHead, ...] | None


def read_head(text: bytes) -> Head:
    """Reads JSON.

    Raises:
        UnreadableError: not JSON.
        IllegalRequestError: a field or parameter that is missing, unknown, twice, or of another type; says where.
        UnsupportedError: a part of the protocol that this server does not have.
    """
    document = parse(text)
    if count_lists(text) > MAX_LISTS or text.count(b"{") > MAX_LISTS:
        raise too_many_lists()
    fields = read_fields(document, ("id", "parameters", "inputs", "outputs", "model_name"), "body")
    names = ("timeout", "priority", "binary_data_output")
    parameters = _read_parameters(fields, names, "parameters", SEQUENCE)
    inputs = _items(fields.get("inputs"), "input", "inputs")
    outputs = _items(fields["outputs"], "output", "outputs") if "outputs" in fields else None
    return Head(
        _string(fields, "model_name", "") if "model_name" in fields else "",
        read_id(fields.get("id", "")),
        read_timeout(parameters.get("timeout", 0)),
        read_whole(parameters.get("priority", 0), "parameters.priority"),
        read_flag(parameters, "binary_data_output", "parameters") or False,
        tuple(_read_input(value, f"inputs[{index}]") for index, value in enumerate(inputs)),
        None if outputs is None else tuple(_read_output(value, f"outputs[{i}]") for i, value in enumerate(outputs)),
    )


def _read_input(value: Any, place: str) -> InputHead:
    fields = read_fields(value, ("name", "shape", "datatype", "parameters", "data"), place)
    parameters = _read_parameters(fields, ("binary_data_size",), f"{place}.parameters", REGION)
    if ("data" in fields) == ("binary_data_size" in parameters):
        message = "expected either data or parameters.binary_data_size"
        raise IllegalRequestError(message, code="wrong_data", at=place)
    if "data" in fields and fields["data"] is None:
        raise wrong_type("a list", None, f"{place}.data")
    sizes = _items(fields.get("shape"), "size", f"{place}.shape")
    shape = tuple(read_whole(size, f"{place}.shape[{axis}]", 1) for axis, size in enumerate(sizes))
    size_bytes = read_whole(parameters.get("binary_data_size", 0), f"{place}.parameters.binary_data_size")
    name, datatype = _string(fields, "name", place), _string(fields, "datatype", place)
    return InputHead(name, datatype, shape, fields.get("data"), size_bytes, place)


def _read_output(value: Any, place: str) -> OutputHead:
    fields = read_fields(value, ("name", "parameters"), place)
    where = f"{place}.parameters"
    parameters = _read_parameters(fields, ("binary_data",), where, ("classification", *REGION))
    return OutputHead(_string(fields, "name", place), read_flag(parameters, "binary_data", where), place)


def _read_parameters(fields: dict[str, Any], known: Collection[str], place: str, lacking: Collection[str]) -> Any:
    if "parameters" not in fields:
        return {}
    parameters = read_fields(fields["parameters"], known, place, lacking)
    for name in lacking:
        if name in parameters:
            raise lack(name, place)
    return parameters


def lack(name: str, place: str) -> UnsupportedError:
    """A parameter of the protocol that is not here."""
    return UnsupportedError(f"this server has no {name}", code="unsupported", at=place)


def read_id(value: Any) -> str:
    """An id to be echoed; empty: none.

    Raises:
        IllegalRequestError: no string, too long, or with characters that do not print.
    """
    if not isinstance(value, str):
        raise wrong_type("a string", value, "id")
    if len(value) > MAX_ID_CHARACTERS or not (value.isascii() and value.isprintable()):
        message = f"expected at most {MAX_ID_CHARACTERS} printable ASCII characters"
        raise IllegalRequestError(message, code="illegal_id", at="id")
    return value


def read_timeout(value: Any) -> float | None:
    """Seconds out of microseconds; None: none.

    Raises:
        IllegalRequestError: no whole number of at least 0.
    """
    return as_timeout(read_whole(value, "parameters.timeout") / 1e6)


def _items(value: Any, what: str, place: str) -> list[Any]:
    if not isinstance(value, simdjson.Array):
        raise wrong_type(f"a list of {what}s", value, place)
    if not len(value):
        raise IllegalRequestError(f"expected at least one {what}, got an empty list", code=f"no_{what}s", at=place)
    return list(value)


def _string(fields: dict[str, Any], name: str, place: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise wrong_type("a string", value, f"{place}.{name}".lstrip("."))
    return value


def read_flag(parameters: dict[str, Any], name: str, place: str) -> bool | None:
    """A parameter that is true or false; None: not given.

    Raises:
        IllegalRequestError: something else.
    """
    value = parameters.get(name)
    if name in parameters and type(value) is not bool:
        raise wrong_type("true or false", value, f"{place}.{name}")
    return value
