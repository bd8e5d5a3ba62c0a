"""Protobuf's bytes without objects made of them: how many fields they have, whose request they are, a list in one.

Of messages that are empty a parser makes forty times as many bytes as they have: 16 MiB of them would be 670.
"""

from collections.abc import Collection, Iterator, Mapping

from service.errors import IllegalRequestError, UnreadableError

MAX_FIELDS = 8192  # of a request, those of its inputs, outputs and parameters among them
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_MAX_VARINT_BYTES = 10


def scan(body: bytes, names: tuple[int, ...], nested: Mapping[int, Collection[int]]) -> tuple[str, ...]:
    """Texts of the fields numbered `names`, empty where there is none; the last one counts, as for every parser.

    Args:
        body: a message.
        names: numbers of fields that hold text.
        nested: numbers of fields that hold messages, whose fields are counted too; and of fields in them that do.

    Raises:
        UnreadableError: not a message of protobuf.
        IllegalRequestError: more fields than any request has.
    """
    found, count = dict.fromkeys(names, b""), 0
    for number, value in _fields(memoryview(body)):
        count += 1 + (_count(value, MAX_FIELDS - count, nested[number]) if number in nested else 0)
        if count > MAX_FIELDS:
            message = f"expected at most {MAX_FIELDS:,} fields in all, got more"
            raise IllegalRequestError(message, code="too_many_lists", at="body")
        if number in found:
            found[number] = bytes(value)
    try:
        return tuple(text.decode() for text in found.values())
    except UnicodeDecodeError:
        raise unreadable() from None


def packed(number: int, data: bytes) -> bytes:
    """A field that is a list of float32, as protobuf writes it: their bytes behind its number and their length."""
    return _write_varint(number << 3 | _LENGTH) + _write_varint(len(data)) + data


def unreadable() -> UnreadableError:
    """What is no message of protobuf."""
    return UnreadableError("expected a message of the protocol, as protobuf writes it", code="invalid_message")


def _count(message: memoryview, most: int, nested: Collection[int] = ()) -> int:
    """How many fields a message has, with those of the nested ones, or more than `most`."""
    count = 0
    for number, value in _fields(message):
        count += 1 + (_count(value, most - count) if number in nested else 0)
        if count > most:
            break
    return count


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and bytes of each field; of those that have no length before them, no bytes."""
    position = 0
    while position < len(message):
        tag, position = _read_varint(message, position)
        number, kind = tag >> 3, tag & 7
        length = _FIXED_BYTES.get(kind, 0)
        if kind == _VARINT:
            _, position = _read_varint(message, position)
        elif kind == _LENGTH:
            length, position = _read_varint(message, position)
        elif not length:
            raise unreadable()
        if position + length > len(message):
            raise unreadable()
        yield number, message[position : position + length]
        position += length


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first; and where it ends."""
    value = 0
    for place, byte in enumerate(message[position : position + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, position + place + 1
    raise unreadable()


def _write_varint(value: int) -> bytes:
    pieces = bytearray()
    while value > 0x7F:
        pieces.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*pieces, value))
