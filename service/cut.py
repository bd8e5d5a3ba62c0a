"""What an address says behind its name: a cut by numpy's basic slicing, and a reduction of what it left."""

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import EllipsisType

import numpy as np

from service.errors import IllegalRequestError, nearest
from service.manifest import SEQUENCE_AXES, TensorSpec
from service.tensors import Cut, Int64Array, Reduction, Span, View

_INTEGER = re.compile(r"-?\d{1,9}", re.ASCII)
_CALL = re.compile(r"(?P<name>\w{1,32})(?:\((?P<argument>[^()]*)\))?", re.ASCII)
_ARGUMENTS = {"entropy": None, "norm": None, "mean": "axis", "max": "axis", "top": "k"}
_WHOLE = (Span(), Span(0), Span(None, None, 1), Span(0, None, 1))
MAX_TOP = 10**6
_CELL_BYTES, _INDEX_BYTES = 4, 8


def read_cut(text: str | None, tensor: TensorSpec, place: str) -> Cut:
    """Reads what is between the brackets: an item for each axis but the batch's; empty if nothing is cut.

    Args:
        text: without the brackets; None: there were none.
        tensor: that is cut.
        place: of the address, for errors.

    Raises:
        IllegalRequestError: no such items, more than there are axes, or an index outside an axis whose size is fixed.
    """
    if text is None:
        return ()
    axes = tensor.axes[1:]
    items = [_read_item(item.strip(" "), place) for item in text.split(",")]
    given = sum(item is not ... for item in items)
    if given > len(axes) or items.count(...) > 1:
        message = f"expected at most {len(axes)} items ({', '.join(axes)}) and one ..., got others"
        raise _wrong_cut(message, place)
    dots = items.index(...) if ... in items else len(items)
    left = [Span()] * (len(axes) - given)
    cut = tuple(item for item in (*items[:dots], *left, *items[dots + 1 :]) if item is not ...)
    for axis, size, item in zip(axes, tensor.shape[1:], cut, strict=True):
        if isinstance(item, int) and size != -1 and not -size <= item < size:
            raise _out_of_range(size, axis, "", place)
    return cut


def _read_item(text: str, place: str) -> int | Span | EllipsisType:
    if text == "...":
        return ...
    parts = [part.strip(" ") for part in text.split(":")]
    if len(parts) > 3 or not all(_INTEGER.fullmatch(part) or (part == "" and len(parts) > 1) for part in parts):
        raise _wrong_cut("expected integers, slices A:B or A:B:STEP and ... between the brackets", place)
    numbers = [int(part) if part else None for part in parts]
    if len(parts) == 1:
        return int(parts[0])
    if len(parts) == 3 and numbers[2] == 0:
        raise _wrong_cut("expected a step other than 0", place)
    return Span(*numbers)


def read_reduction(text: str | None, tensor: TensorSpec, cut: Cut, place: str) -> Reduction | None:
    """Reads what is behind the bar.

    Args:
        text: without the bar; None: there was none.
        tensor: that is reduced.
        cut: of it.
        place: of the address, for errors.

    Raises:
        IllegalRequestError: no reduction, or not one of this tensor.
    """
    if text is None:
        return None
    match = _CALL.fullmatch(text.strip(" "))
    name = match["name"] if match else ""
    if match is None or name not in _ARGUMENTS or (match["argument"] is None) != (_ARGUMENTS[name] is None):
        hint = nearest(text.partition("(")[0], _ARGUMENTS) if name not in _ARGUMENTS else ""
        message = f"expected entropy, norm, mean(AXIS), max(AXIS) or top(K) behind the bar{hint}"
        raise _wrong_reduction(message, place)
    left = axes_left(tensor, cut)
    if not left:
        raise _wrong_reduction("expected an axis to reduce, but the cut leaves a single number", place)
    if name == "entropy" and (tensor.name != "attention_weights" or (cut and cut[-1] not in _WHOLE)):
        raise _wrong_reduction("expected entropy of attention_weights whose axis key is not cut", place)
    if name == "top":
        return Reduction(name, k=_read_count(match["argument"], place))
    if name in {"entropy", "norm"}:
        return Reduction(name)
    if (axis := match["argument"].strip(" ")) not in left:
        raise _wrong_reduction(f"expected an axis that is left, one of {', '.join(left)}", place)
    return Reduction(name, left.index(axis))


def _read_count(text: str, place: str) -> int:
    if not re.fullmatch(r"\d{1,7}", text.strip(" "), re.ASCII) or not 1 <= int(text) <= MAX_TOP:
        raise _wrong_reduction(f"expected top(K) with K from 1 to {MAX_TOP:,}", place)
    return int(text)


def check_lengths(view: View, tensor: TensorSpec, lengths: Sequence[int], place: str, first: int = 0) -> None:
    """Holds a cut against sequences of these lengths, of which the first is sequence `first`.

    Raises:
        IllegalRequestError: an index is outside one of them, or the cut leaves nothing to take a mean or a maximum of.
    """
    for axis, item in zip(tensor.axes[1:], view.cut, strict=True):
        if isinstance(item, int) and axis in SEQUENCE_AXES and not -min(lengths) <= item < min(lengths):
            number = next(i for i, length in enumerate(lengths) if not -length <= item < length)
            raise _out_of_range(lengths[number], axis, f" in sequence {first + number}", place)
    if view.reduction is not None and view.reduction.name in {"mean", "max"}:
        distinct = list(dict.fromkeys(lengths))
        sizes = cut_sizes(tensor, view.cut, distinct)[view.reduction.axis]
        if not sizes.all():
            number = lengths.index(distinct[int((sizes == 0).argmax())])
            message = f"expected something to take the {view.reduction.name} of, but the cut leaves nothing"
            raise _wrong_reduction(f"{message} in sequence {first + number}", place)


def as_index(cut: Cut) -> tuple[int | slice, ...]:
    """The cut as numpy takes it."""
    return tuple(item if isinstance(item, int) else slice(*item) for item in cut)


def axes_left(tensor: TensorSpec, cut: Cut) -> list[str]:
    """The axes that a cut leaves, the batch's not among them."""
    axes = tensor.axes[1:]
    return [axis for axis, item in zip(axes, cut, strict=True) if isinstance(item, Span)] if cut else axes


def cut_sizes(tensor: TensorSpec, cut: Cut, lengths: Sequence[int]) -> list[Int64Array]:
    """The size of each axis that is left, for sequences of these lengths: int64 [length] each."""
    items = cut or (Span(),) * len(tensor.axes[1:])
    dynamic = [axis in SEQUENCE_AXES for axis in tensor.axes[1:]]
    return [
        np.array([_size(item, length if grows else size) for length in lengths], np.int64)
        for item, size, grows in zip(items, tensor.shape[1:], dynamic, strict=True)
        if isinstance(item, Span)
    ]


def view_bytes(view: View, tensor: TensorSpec, lengths: Mapping[int, int], *, padded: bool) -> int:
    """What a view gives for so many sequences of each length; `padded`: all as large as the largest on each axis."""
    if not (padded or view.cut or view.reduction):  # as most, and of every run
        fixed, power = tensor.growth
        cells: int = sum([count * fixed * length**power for length, count in lengths.items()])
        return _CELL_BYTES * cells
    sizes, cell_bytes = cut_sizes(tensor, view.cut, list(lengths)), _CELL_BYTES
    if view.reduction is not None:
        last = sizes.pop(view.reduction.axis)
        if view.reduction.name == "top":
            sizes.append(np.minimum(last, view.reduction.k))
            cell_bytes += _INDEX_BYTES
    if padded:
        return cell_bytes * sum(lengths.values()) * math.prod(int(size.max()) for size in sizes)
    rows = zip(*(size.tolist() for size in (*sizes, np.array(list(lengths.values())))), strict=True)
    return cell_bytes * sum(map(math.prod, rows))


@lru_cache(2**16)
def _size(span: Span, size: int) -> int:
    return len(range(size)[slice(*span)])


def _wrong_cut(message: str, place: str) -> IllegalRequestError:
    return IllegalRequestError(message, code="wrong_slice", at=place)


def _out_of_range(size: int, axis: str, where: str, place: str) -> IllegalRequestError:
    message = f"expected an index from {-size} to {size - 1} of axis {axis}{where}"
    return IllegalRequestError(message, code="index_out_of_range", at=place)


def _wrong_reduction(message: str, place: str) -> IllegalRequestError:
    return IllegalRequestError(message, code="wrong_reduction", at=place)
