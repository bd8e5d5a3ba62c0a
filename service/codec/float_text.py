"""JSON's text of float32 tensors, both ways: the binding of float_text.c.

C runs without the interpreter's lock, so the event loop and the runs go on meanwhile, and a long text is halved
between two threads. docs/decisions/0009-native-text.md has the figures.
"""

import ctypes
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from service.tensors import Float32Array

LIBRARY = Path(__file__).with_name("libfloat_text.so")  # made by hatch_build.py
MAX_SEQUENCES, FEW_SEQUENCES = 2**16, 2**12  # each becomes an array of its own; the few within some milliseconds
_HALVED_NUMBERS = 16_384  # below this, a second thread costs more than it saves
_HALVED_BYTES = 10 * _HALVED_NUMBERS
_NUMBER_BYTES = 18  # -0.00000123456789 and its comma
_SLACK_BYTES = 64  # C writes in words
_OTHER = ThreadPoolExecutor(1, "float-text")


def read(body: bytes, start: int, most_sequences: int = MAX_SEQUENCES) -> tuple[tuple[Float32Array, ...], int] | None:
    """Reads a list of sequences of rows of numbers, each sequence's rows of one length.

    A number is read as float64 and then rounded to float32; beyond float32's range it becomes infinite.

    Args:
        body: JSON text.
        start: the place of the list's opening bracket.
        most_sequences: in each half, that the list may have.

    Returns:
        One array [sequence, hidden] a sequence, and the place after the list's closing bracket. None if there is no
        such list: bad syntax, another depth, an element that is no number, uneven or empty rows, a number beyond
        float64, too many sequences.
    """
    stop = _find_end(body, start, len(body))
    middle = body.find(b"]", (start + stop) // 2, stop) + 1 if stop - start >= _HALVED_BYTES else 0
    if not (middle and body[middle - 2 : middle - 1].isdigit()):  # else it may close more than a row
        return _read_part(body, start, len(body), most_sequences)
    second = _OTHER.submit(_read_part, body, middle, len(body), most_sequences, resumed=True)
    first = _read_part(body, start, middle, most_sequences)
    if first is None or first[1] != middle:  # the list is wrong, or ends in the first half
        second.cancel()
        return first
    rest = second.result()
    arrays = rest and _join(first[0], rest[0])
    return (arrays, rest[1]) if rest and arrays else None


def read_flat(body: bytes, start: int) -> tuple[Float32Array, int] | None:
    """Reads a list of numbers, each as `read` does.

    Args:
        body: JSON text.
        start: the place of the list's opening bracket.

    Returns:
        The numbers [count], and the place after the list's closing bracket. None if there is no such list: bad syntax,
        an empty list, an element that is no number, a number beyond float64.
    """
    stop = _find_end(body, start, len(body))
    middle = body.find(b",", (start + stop) // 2, stop) + 1 if stop - start >= _HALVED_BYTES else 0
    if not middle:
        return _read_numbers(body, start, len(body))
    second = _OTHER.submit(_read_numbers, body, middle, len(body), resumed=True)
    first = _read_numbers(body, start, middle)
    if first is None or first[1] != middle:  # the list is wrong, or ends in the first half
        second.cancel()
        return first
    rest = second.result()
    return rest and (np.concatenate((first[0], rest[0])), rest[1])


def write(array: Float32Array) -> tuple[bytes | memoryview, ...] | None:
    """Writes nested lists; each number is the shortest that reads back as the same float32.

    Args:
        array: float32, C-contiguous, of any rank.

    Returns:
        Pieces of the text, to be joined; None if a number is not finite.
    """
    rows = np.atleast_1d(array)
    half = len(rows) // 2 if rows.size >= _HALVED_NUMBERS else 0
    other = _OTHER.submit(_write_items, rows[:half]) if half else None
    last = _write_items(rows[half:])
    first = other.result() if other else b""
    if first is None or last is None:
        return None
    bracket, end = (b"[", b"]") if array.ndim else (b"", b"")
    return bracket, first, b"," if half else b"", last, end


Arrays = tuple[Float32Array, ...]


def _find_end(body: bytes, start: int, stop: int) -> int:
    """Where a list of numbers has ended at the latest: none has a quote in it."""
    end = body.find(b'"', start, stop)
    return stop if end < 0 else end


def _count_most(body: bytes, start: int, stop: int) -> int:
    """Numbers that a list may have there: one and its comma are two bytes at least."""
    return (_find_end(body, start, stop) - start) // 2 + 1


def _read_part(
    body: bytes, start: int, stop: int, most_sequences: int, *, resumed: bool = False
) -> tuple[Arrays, int] | None:
    """Reads on from `start` until the list ends, or a row at `stop`, if that is not the end of the body.

    Args:
        body: JSON text.
        start: the list's opening bracket or, resumed, the place after a row.
        stop: the end of the text that is read.
        most_sequences: that there may be.
        resumed: the first array goes on with the sequence of the row before, and may be empty.
    """
    most = _count_most(body, start, stop)
    values = np.empty(most, np.float32)
    shapes = np.empty((min(most, most_sequences), 2), np.int64)
    position = ctypes.c_int64(start)
    cut, arrays = stop < len(body), (values.ctypes.data, shapes.ctypes.data)
    count = _C.read_part(body, stop, position, resumed, cut, *arrays, len(shapes))
    if count < 0:
        return None
    if count == 1:
        rows, width = shapes[0].tolist()
        return (values[: rows * width].reshape(rows, width),), position.value
    ends = np.cumsum(shapes[:count].prod(axis=1)).tolist()
    pairs = zip([0, *ends], ends, shapes[:count].tolist(), strict=False)
    return tuple(values[first:last].reshape(shape) for first, last, shape in pairs), position.value


def _read_numbers(body: bytes, start: int, stop: int, *, resumed: bool = False) -> tuple[Float32Array, int] | None:
    """Reads on from `start` until the list ends, or a comma before `stop`, if that is not the end of the body.

    Args:
        body: JSON text.
        start: the list's opening bracket or, resumed, the place after a comma.
        stop: the end of the text that is read.
        resumed: whether the list began before.
    """
    values = np.empty(_count_most(body, start, stop), np.float32)
    position = ctypes.c_int64(start)
    count = _C.read_numbers(body, stop, position, resumed, stop < len(body), values.ctypes.data)
    return None if count < 0 else (values[:count], position.value)


def _join(arrays: Arrays, others: Arrays) -> Arrays | None:
    """Puts a sequence that was cut in two together; None if its rows are uneven."""
    head, tail = arrays[-1], others[0]
    if tail.size:
        if head.shape[1] != tail.shape[1]:
            return None
        head = np.concatenate((head, tail))
    return (*arrays[:-1], head, *others[1:])


def _write_items(array: Float32Array) -> memoryview | None:
    """The items of the first axis, between commas; None if a number is not finite."""
    lists = int(np.cumprod(array.shape[:-1]).sum())
    text = np.empty(_NUMBER_BYTES * array.size + 3 * lists + _SLACK_BYTES, np.uint8)
    shape = (ctypes.c_int64 * array.ndim)(*array.shape)
    size = _C.write_items(array.ctypes.data, shape, array.ndim, text.ctypes.data)
    return None if size < 0 else text.data[:size]


def _load() -> ctypes.CDLL:
    if not LIBRARY.exists():
        raise ImportError(f"{LIBRARY} is missing: install the package (make install), which compiles it")
    library = ctypes.CDLL(str(LIBRARY))
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    library.read_part.argtypes = [
        ctypes.c_char_p, integer, ctypes.POINTER(integer), ctypes.c_bool, ctypes.c_bool, pointer, pointer, integer
    ]  # fmt: skip
    library.read_numbers.argtypes = library.read_part.argtypes[:6]
    library.write_items.argtypes = [pointer, ctypes.POINTER(integer), integer, pointer]
    library.read_part.restype = library.read_numbers.restype = library.write_items.restype = integer
    return library


_C = _load()
