"""Interventions as a test makes them, by numpy's index, and as a client writes them."""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # its import takes seconds
    from torch import Tensor

Cut = tuple[int | slice, ...]
VERBS = ("scale", "add", "set")


class Change(NamedTuple):
    """An intervention of one sequence.

    Attributes:
        address: without a cut.
        cut: numpy's index.
        verb: scale, add or set.
        value: a number or an array that broadcasts to the cells; an int: the sequence whose same cells are taken.
    """

    address: str
    cut: Cut
    verb: str
    value: "NDArray[np.float32] | Tensor | float"


def text_of(item: Any) -> str:
    """An item of an index as an address has it."""
    if item is ...:
        return "..."
    if isinstance(item, int):
        return str(item)
    parts = ["" if part is None else str(part) for part in (item.start, item.stop, item.step)]
    return ":".join(parts[: 2 if item.step is None else 3])


def as_json(changes: Iterable[Change]) -> dict[str, Any] | None:
    """A sequence's entry in a request's interventions; null if nothing is changed."""
    found: dict[str, Any] = {}
    for change in changes:
        address = change.address + (f"[{', '.join(map(text_of, change.cut))}]" if change.cut else "")
        value = {"from": change.value} if isinstance(change.value, int) else np.asarray(change.value).tolist()
        found.setdefault(address, {})[change.verb] = value
    return found or None


def every_verb(shapes: dict[str, tuple[int, ...]], seed: int) -> list[Change]:
    """Each verb at each address, a change by itself, of some cells and with values that broadcast.

    Args:
        shapes: of one sequence's tensor, by address.
        seed: decides on cells and values.
    """
    generator, found = np.random.default_rng(seed), []
    for (address, shape), verb in product(shapes.items(), VERBS):
        cut = _some(generator, shape)
        cells = np.empty(shape)[cut].shape
        sizes = {"scale": (), "add": cells[-1:], "set": cells}[verb]
        found.append(Change(address, cut, verb, np.asarray(generator.normal(0, 2, sizes), np.float32)))
    return found


def _some(generator: np.random.Generator, shape: Sequence[int]) -> Cut:
    """An index of which no axis is whole, so that whoever confuses two axes takes other cells; perhaps one number."""
    single = generator.integers(2 * len(shape))
    cut: list[int | slice] = []
    for axis, size in enumerate(shape):
        start = int(generator.integers(0, size - 2))
        stop = int(generator.integers(start + 2, size + (start > 0)))
        span = slice(start, stop, None if generator.random() < 0.5 else 2)
        cut.append(int(generator.integers(-size, size)) if axis == single else span)
    return tuple(cut)
