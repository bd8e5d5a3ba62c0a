"""What a request changes on the way: addresses, verbs and values held against the model and each sequence's cells."""

from collections.abc import Iterable, Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import combinations

import numpy as np

from service.address import find_cells
from service.cut import check_lengths, cut_sizes
from service.errors import IllegalRequestError
from service.manifest import ModelSpec
from service.tensors import Edit, Float32Array, Intervention, Output, Span, View

VERBS = ("scale", "add", "set")


def read_interventions(
    interventions: Iterable[Intervention], spec: ModelSpec, lengths: Sequence[int], max_interventions: int
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
            edit, checked = Edit(view.output, view.cut, asked.verb, asked.value), set()
            for index in range(len(lengths)) if asked.sequence is None else (asked.sequence,):
                if lengths[index] not in checked:
                    _check_cells(view, edit.value, spec, lengths, index, asked.place)
                    checked.add(lengths[index])
                found[index].append(edit)
    _check_sets(found, spec, lengths)
    _check_sources(found)
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


def _check_sets(found: Sequence[Sequence[Edit]], spec: ModelSpec, lengths: Sequence[int]) -> None:
    """No cell is set twice."""
    seen = set()
    for index, (edits, length) in enumerate(zip(found, lengths, strict=True)):
        cuts = [(edit.output, edit.cut) for edit in edits if edit.verb == "set"]
        if len(cuts) < 2 or (key := (tuple(cuts), length)) in seen:  # as it is where all sequences are changed alike
            continue
        seen.add(key)
        for (output, first), (other, second) in combinations(cuts, 2):
            if output == other and _overlap(_ranges(output, first, spec, length), _ranges(other, second, spec, length)):
                name = f"layers.{output.layer}.{output.probe}"
                message = f"expected each cell to be set once, but two of {name} overlap in sequence {index}"
                raise IllegalRequestError(message, code="overlapping_set", at="interventions")


def _ranges(output: Output, cut: tuple[int | Span, ...], spec: ModelSpec, length: int) -> list[range]:
    tensor = spec.tensor(output)
    sizes = [length if size == -1 else size for size in tensor.shape[1:]]
    items = cut or (Span(),) * len(sizes)
    return [
        range(size)[slice(*item)] if isinstance(item, Span) else range(size)[item : item + 1 or None]
        for item, size in zip(items, sizes, strict=True)
    ]


def _overlap(first: Sequence[range], second: Sequence[range]) -> bool:
    return all(_meet(a, b) for a, b in zip(first, second, strict=True))


def _meet(first: range, second: range) -> bool:
    if (
        not first
        or not second
        or max(min(first[0], first[-1]), min(second[0], second[-1]))
        > min(max(first[0], first[-1]), max(second[0], second[-1]))
    ):
        return False
    return {abs(first.step), abs(second.step)} == {1} or not set(first).isdisjoint(second)


def _check_sources(found: Sequence[Sequence[Edit]]) -> None:
    """No sequence takes a tensor, by way of others, from itself."""
    takes: dict[Output, dict[int, set[int]]] = {}
    for index, edits in enumerate(found):
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
