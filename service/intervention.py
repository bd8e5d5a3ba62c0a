"""What a request changes on the way: addresses, verbs and values held against the model and each sequence's cells."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter

import numpy as np

from service.address import find_cells
from service.cut import check_lengths, cut_sizes
from service.errors import IllegalRequestError
from service.manifest import ModelSpec, TensorSpec
from service.request import Intervention
from service.tensors import BoolArray, Cut, Edit, Float32Array, Output, Span, View

VERBS = ("scale", "add", "set")


def read_interventions(
    interventions: Sequence[Intervention], spec: ModelSpec, lengths: Sequence[int], max_interventions: int
) -> tuple[tuple[Edit, ...], ...]:
    """The edits of each sequence, in the order sent.

    Args:
        interventions: as the client wrote them.
        spec: the model.
        lengths: positions of each sequence.
        max_interventions: tensors that one request may change; one of every sequence counts once.

    Raises:
        IllegalRequestError: no tensor that can be changed, a verb that there is not, a value that does not fit the
            cells or is not finite, two `set` of one cell, a sequence that takes from itself, too many.
    """
    found: list[list[Edit]] = [[] for _ in lengths]
    alike = {length: index for index, length in reversed([*enumerate(lengths)])}  # the first of each length
    # All others are changed as one of these is; and who is to give to every sequence would give to itself.
    named = {index for asked in interventions for index in (asked.sequence, asked.value) if isinstance(index, int)}
    count = 0
    for asked in interventions:
        _check_operand(asked)
        _check_sequences(asked, len(lengths))
        views = find_cells(asked.address, spec, asked.place)
        count += len(views)
        if count > max_interventions:
            message = f"expected at most {max_interventions} changed tensors after expansion"
            raise IllegalRequestError(message, code="too_many_interventions", at=asked.place)
        for view in views:
            _check_site(view.output, spec, asked.place)
            for index in sorted(alike.values()) if asked.sequence is None else (asked.sequence,):
                _check_cells(view, asked.value, spec, lengths, index, asked.place)
            edit = Edit(view.output, view.cut, asked.verb, asked.value)
            for edits in found if asked.sequence is None else found[asked.sequence : asked.sequence + 1]:
                edits.append(edit)
    for index in sorted({*alike.values(), *named}):
        _check_sets(found[index], spec, lengths[index], index)
    _check_sources({index: found[index] for index in named})
    return tuple(map(tuple, found))


def _check_operand(asked: Intervention) -> None:
    if isinstance(asked.value, int) and asked.verb != "set":
        message = "expected a number or lists of numbers: only set takes from another sequence"
        raise IllegalRequestError(message, code="wrong_type", at=asked.place)


def _check_sequences(asked: Intervention, count: int) -> None:
    for index in (asked.sequence, asked.value):
        if isinstance(index, int) and not 0 <= index < count:
            message = f"expected a sequence from 0 to {count - 1}"
            raise IllegalRequestError(message, code="unknown_sequence", at=asked.place)


def _check_site(output: Output, spec: ModelSpec, place: str) -> None:
    sites = spec.layers[output.layer or 0].sites
    if not sites:
        message = f"model {spec.name} takes no interventions: it is a module of its own, or an older export"
        raise IllegalRequestError(message, code="no_interventions", at=place)
    if output.probe not in sites:
        message = f"expected a tensor on the way to the output, of layers.N one of {', '.join(sites)}"
        raise IllegalRequestError(message, code="unknown_site", at=place)


def _check_cells(
    view: View, value: Float32Array | int, spec: ModelSpec, lengths: Sequence[int], index: int, place: str
) -> None:
    """The cells are there, and the value fits them."""
    tensor = spec.tensor(view.output)
    for number in (index, value) if isinstance(value, int) else (index,):
        if view.cut:
            check_lengths(view, tensor, lengths[number : number + 1], place, first=number)
    cells = _shape(view, spec, lengths[index])
    if isinstance(value, int):
        if (source := _shape(view, spec, lengths[value])) != cells:
            message = (
                f"expected cells of the same shape in sequence {value}, which has {list(source)} there, "
                f"sequence {index} {list(cells)}"
            )
            raise IllegalRequestError(message, code="wrong_shape", at=place)
        return
    if not np.isfinite(value).all():
        message = "expected finite float32 numbers, got NaN, an infinity or one beyond their range"
        raise IllegalRequestError(message, code="value_overflow", at=place)
    fits = zip(reversed(value.shape), reversed(cells), strict=False)
    if value.ndim > len(cells) or not all(size in {1, wanted} for size, wanted in fits):
        message = f"expected a value that broadcasts to {list(cells)} in sequence {index}, got {list(value.shape)}"
        raise IllegalRequestError(message, code="wrong_shape", at=place)


def _shape(view: View, spec: ModelSpec, length: int) -> tuple[int, ...]:
    return tuple(int(size[0]) for size in cut_sizes(spec.tensor(view.output), view.cut, [length]))


def _check_sets(edits: Sequence[Edit], spec: ModelSpec, length: int, index: int) -> None:
    """No cell is set twice."""
    cuts: dict[Output, list[Cut]] = {}
    for edit in edits:
        if edit.verb == "set":
            cuts.setdefault(edit.output, []).append(edit.cut)
    for output, several in cuts.items():
        if len(several) > 1 and _meet(several, spec.tensor(output), length):
            name = f"layers.{output.layer}.{output.probe}"
            message = f"expected each cell to be set once, but two of {name} overlap in sequence {index}"
            raise IllegalRequestError(message, code="overlapping_set", at="interventions")


def _meet(cuts: Sequence[Cut], tensor: TensorSpec, length: int) -> bool:
    """Whether two cuts have a cell in common: they do if they have a place in common on every axis."""
    meet = np.triu(np.ones((len(cuts), len(cuts)), np.bool_), 1)
    for axis, size in enumerate(tensor.shape[1:]):
        items = tuple(cut[axis] if cut else Span() for cut in cuts)
        meet &= _meet_on_axis(items, length if size == -1 else size)
    return bool(meet.any())


@lru_cache(16)
def _meet_on_axis(items: Cut, size: int) -> BoolArray:
    """Which items of an axis have a place in common: bool [item, item]."""
    has = np.zeros((len(items), size), np.float32)
    for places, item in zip(has, items, strict=True):
        places[item if isinstance(item, int) else slice(*item)] = 1
    common: BoolArray = has @ has.T > 0
    return common


def _check_sources(found: Mapping[int, Sequence[Edit]]) -> None:
    """No sequence takes a tensor, by way of others, from itself."""
    takes: dict[Output, dict[int, set[int]]] = {}
    for index, edits in found.items():
        for edit in edits:
            if isinstance(edit.value, int):
                takes.setdefault(edit.output, {}).setdefault(index, set()).add(edit.value)
    for output, sources in takes.items():
        try:
            TopologicalSorter(sources).prepare()
        except CycleError as error:
            name = f"layers.{output.layer}.{output.probe}"
            message = f"expected {name} from another sequence, but sequence {min(error.args[1])} takes it from itself"
            raise IllegalRequestError(message, code="intervention_cycle", at="interventions") from None
