"""The JSON around the tensors: read by simdjson, each field known and there once."""

from collections.abc import Callable, Collection
from itertools import islice
from typing import Any

import numpy as np
import simdjson

from service.errors import IllegalRequestError, UnreadableError, nearest
from service.request import Tensors

# Each becomes a Python object before its length can be known: a 16 MiB body of `[],[],…` would be gigabytes of them.
MAX_LISTS = 2**18
LONG_BYTES = 2**15  # of JSON without its numbers: some milliseconds, if it is all lists, objects or strings
MAX_TIMEOUT_S = 86_400.0  # longer is as good as none
_COUNT_BYTES = 2**17  # small enough that the comparison's result stays in the cache
_KINDS = {
    bool: "a boolean", int: "a number", float: "a number", str: "a string",
    list: "a list", dict: "an object", simdjson.Array: "a list", simdjson.Object: "an object",
}  # fmt: skip


class LongTextError(Exception):
    """A text that holds the event loop for too long is to be read by `go_on`, in a thread.

    Its length does not tell: numbers are read in C, a hundred times sooner than lists and strings become objects.
    """

    def __init__(self, go_on: Callable[[], Tensors]) -> None:
        super().__init__("to be read in a thread")
        self.go_on = go_on


def parse(text: bytes) -> Any:
    """The text as a simdjson Object.

    Raises:
        UnreadableError: not JSON in UTF-8.
        IllegalRequestError: JSON, but no object.
    """
    if text.startswith(b"\xef\xbb\xbf"):
        raise UnreadableError("expected JSON without a byte order mark", code="invalid_json")
    if b"\0" in text[:4]:  # UTF-16 or UTF-32
        raise UnreadableError("expected JSON in UTF-8", code="invalid_json")
    try:
        document = simdjson.Parser().parse(text)
    except UnicodeDecodeError:
        raise UnreadableError("expected JSON in UTF-8", code="invalid_json") from None
    except (ValueError, RuntimeError) as error:
        raise UnreadableError(_syntax_sentence(error), code="invalid_json") from None
    if not isinstance(document, simdjson.Object):
        raise IllegalRequestError("expected a JSON object", code="wrong_type", at="body")
    return document


def read_fields(value: Any, known: Collection[str], place: str, lacking: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a simdjson Object, lists and objects in it still simdjson's; `lacking` ones are for the caller.

    Raises:
        IllegalRequestError: no object, an unknown field (whose name is not repeated), or one twice.
    """
    if not isinstance(value, simdjson.Object):
        raise wrong_type("an object", value, place)
    names = list(islice(value.keys(), len(known) + len(lacking) + 1))
    for index, name in enumerate(names):
        if name not in known and name not in lacking:
            where = "the body" if place == "body" else place
            hint = nearest(name, known) or f"; the fields are {', '.join(known)}"
            message = f"unknown field, number {index + 1} of {where}{hint}"
            raise IllegalRequestError(message, code="unknown_field", at=place)
        if name in names[:index]:
            raise IllegalRequestError(f"field {name} came twice", code="duplicate_field", at=place)
    return {name: value[name] for name in names}


def kind_of(value: Any) -> str:
    """What JSON calls a value of this type."""
    return _KINDS.get(type(value), "null")


def wrong_type(expected: str, value: Any, place: str) -> IllegalRequestError:
    """Says what was expected and the kind of what came."""
    return IllegalRequestError(f"expected {expected}, got {kind_of(value)}", code="wrong_type", at=place)


def read_whole(value: Any, place: str, least: int = 0) -> int:
    """A whole number.

    Raises:
        IllegalRequestError: something else, or less than `least`.
    """
    if type(value) is not int or value < least:
        message = f"expected a whole number of at least {least}"
        raise IllegalRequestError(message, code="wrong_type", at=place)
    return value


def as_timeout(seconds: float) -> float | None:
    """Seconds within which an answer must be computed; 0 stands for None, any time."""
    return min(seconds, MAX_TIMEOUT_S) or None


def read_urgency(fields: dict[str, Any]) -> dict[str, Any]:
    """`timeout_s` and `priority` as `Tensors` has them, from the fields of these names.

    Raises:
        IllegalRequestError: no number, or a negative one; a priority that is not whole.
    """
    seconds = fields.get("timeout_s", 0)
    if type(seconds) not in (int, float) or seconds < 0:
        message = "expected a number of seconds of at least 0"
        raise IllegalRequestError(message, code="wrong_type", at="timeout_s")
    return {"timeout_s": as_timeout(seconds), "priority": read_whole(fields.get("priority", 0), "priority")}


def count_lists(text: bytes) -> int:
    """Opening square brackets, those in strings too."""
    codes, count = np.frombuffer(text, np.uint8), 0
    for start in range(0, codes.size, _COUNT_BYTES):
        count += int(np.count_nonzero(codes[start : start + _COUNT_BYTES] == ord("[")))
    return count


def too_many_lists() -> IllegalRequestError:
    """More lists, or objects or strings in their place, than any request has."""
    message = f"expected at most {MAX_LISTS:,} lists, objects or strings in all, got more"
    return IllegalRequestError(message, code="too_many_lists", at="body")


def not_finite(key: str) -> IllegalRequestError:
    """An output that JSON cannot write."""
    message = "the answer to these finite inputs is beyond float32's range, which JSON cannot write"
    return IllegalRequestError(message, code="non_finite_output", at=key)


def _syntax_sentence(error: Exception) -> str:
    kind = str(error).partition(":")[0]
    reasons = {
        "EMPTY": "the body is empty",
        "NUMBER_ERROR": "a number is not written as JSON writes numbers, or is beyond float64 (64 bits, if whole)",
        "BIGINT_ERROR": "a whole number has more than 64 bits",
        "DEPTH_ERROR": "lists are nested too deep",
        "STRING_ERROR": "a string is not valid",
        "UNESCAPED_CHARS": "a string holds a control character",
        "UNCLOSED_STRING": "a string does not end",
    }
    return f"expected JSON: {reasons.get(kind, 'the text breaks its grammar (NaN and Infinity are not JSON)')}"
