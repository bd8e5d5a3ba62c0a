"""JSON's text of float32 tensors, both ways: the binding of float_text.c.

C runs without the interpreter's lock, so the event loop and the runs go on meanwhile, and a text that is not short is
halved between its caller and a thread that helps. docs/decisions/0009-native-text.md has the figures.
"""

import ctypes
import threading
from pathlib import Path

import numpy as np

from service.tensors import Float32Array

LIBRARY = Path(__file__).with_name("libfloat_text.so")  # made by hatch_build.py
MAX_SEQUENCES, FEW_SEQUENCES = 2**16, 2**12  # each becomes an array of its own; the few within some milliseconds
_HALVED_NUMBERS = 4096  # below this, a second thread costs more than it saves
_HALVED_BYTES = 10 * _HALVED_NUMBERS
_NUMBER_BYTES = 18  # -0.00000123456789 and its comma
_SLACK_BYTES = 64  # C writes in words


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
    middle, most = _survey(body, start, b"]")
    if not (middle and body[middle - 2 : middle - 1].isdigit()):  # else it may close more than a row
        middle = 0
    values = np.empty(most, np.float32)
    sequences = min(most, most_sequences)
    shapes = np.empty((2 * sequences, 2), np.int64)  # of each half
    position = ctypes.c_int64(start)
    count = _C.read_lists(body, middle, len(body), position, values.ctypes.data, shapes.ctypes.data, sequences)
    if count < 0:
        return None
    if count == 1:
        rows, width = shapes[0].tolist()
        _shrink(values, rows * width)
        return (values.reshape(rows, width),), position.value
    ends = np.cumsum(shapes[:count].prod(axis=1)).tolist()
    _shrink(values, ends[-1] if ends else 0)
    pairs = zip([0, *ends], ends, shapes[:count].tolist(), strict=False)
    return tuple(values[first:last].reshape(shape) for first, last, shape in pairs), position.value


def read_flat(body: bytes, start: int) -> tuple[Float32Array, int] | None:
    """Reads a list of numbers, each as `read` does.

    Args:
        body: JSON text.
        start: the place of the list's opening bracket.

    Returns:
        The numbers [count], and the place after the list's closing bracket. None if there is no such list: bad syntax,
        an empty list, an element that is no number, a number beyond float64.
    """
    middle, most = _survey(body, start, b",")
    values = np.empty(most, np.float32)
    position = ctypes.c_int64(start)
    count = _C.read_numbers(body, middle, len(body), position, values.ctypes.data)
    if count < 0:
        return None
    _shrink(values, count)
    return values, position.value


def write(array: Float32Array) -> tuple[bytes | memoryview, ...] | None:
    """Writes nested lists; each number is the shortest that reads back as the same float32.

    Args:
        array: float32, C-contiguous, of any rank.

    Returns:
        Pieces of the text, to be joined; None if a number is not finite.
    """
    rows = np.atleast_1d(array)
    middle = len(rows) // 2 if rows.size >= _HALVED_NUMBERS else 0
    most_bytes = _NUMBER_BYTES * rows.size + 3 * int(np.cumprod(rows.shape[:-1]).sum())
    second = most_bytes * middle // len(rows) + _SLACK_BYTES if middle else 0
    text = np.empty(most_bytes + 2 * _SLACK_BYTES, np.uint8)
    shape, sizes = (ctypes.c_int64 * rows.ndim)(*rows.shape), (ctypes.c_int64 * 2)()
    _C.write_items(rows.ctypes.data, shape, rows.ndim, middle, text.ctypes.data, text.ctypes.data + second, sizes)
    first_bytes, second_bytes = sizes
    if first_bytes < 0 or second_bytes < 0:
        return None
    bracket, end = (b"[", b"]") if array.ndim else (b"", b"")
    comma = b"," if middle else b""
    return bracket, text.data[:first_bytes], comma, text.data[second : second + second_bytes], end


def start_helper() -> None:
    """Starts the thread that takes halves of texts; to be called once, where there are processors for two threads."""
    threading.Thread(target=_C.help, name="float-text", daemon=True).start()


def _survey(body: bytes, start: int, byte: bytes) -> tuple[int, int]:
    """Where a list of numbers is to be cut, behind this byte, or 0; and room for its numbers.

    None of them has a quote in it, which so ends it at the latest; a number and its comma are two bytes at least.
    """
    stop = body.find(b'"', start)
    stop = len(body) if stop < 0 else stop
    middle = body.find(byte, (start + stop) // 2, stop) + 1 if stop - start >= _HALVED_BYTES else 0
    return middle, (stop - start) // 2 + 2


def _shrink(values: Float32Array, count: int) -> None:
    """Gives the room behind the numbers back: it is several times theirs, and they live as long as their request."""
    values.resize(count, refcheck=False)


def _load() -> ctypes.CDLL:
    if not LIBRARY.exists():
        raise ImportError(f"{LIBRARY} is missing: install the package (make install), which compiles it")
    library = ctypes.CDLL(str(LIBRARY))
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    library.read_lists.argtypes = [
        ctypes.c_char_p, integer, integer, ctypes.POINTER(integer), pointer, pointer, integer
    ]  # fmt: skip
    library.read_numbers.argtypes = library.read_lists.argtypes[:5]
    library.write_items.argtypes = [
        pointer, ctypes.POINTER(integer), integer, integer, pointer, pointer, ctypes.POINTER(integer)
    ]  # fmt: skip
    library.read_lists.restype = library.read_numbers.restype = integer
    library.write_items.restype = library.help.restype = None
    return library


_C = _load()
