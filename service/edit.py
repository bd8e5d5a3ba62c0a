"""What a batch's sequences want changed, applied to its tensors on their way through the layers."""

from collections.abc import Sequence as Sequences
from graphlib import TopologicalSorter

import numpy as np

from service.cut import as_index
from service.manifest import ModelSpec
from service.padding import unpad
from service.tensors import Edit, Float32Array, Output, Sequence

_ORDER = {"scale": 0, "add": 1, "set": 2}


def with_sources(sequences: Sequences[Sequence]) -> list[Sequence]:
    """The sequences, and behind them those that they take from."""
    if not any(sequence.edits for sequence in sequences):
        return list(sequences)
    found = {id(sequence): sequence for sequence in sequences}
    waiting = list(sequences)
    while waiting:
        sequence = waiting.pop()
        for source in (sequence.request[edit.value] for edit in sequence.edits if isinstance(edit.value, int)):
            if id(source) not in found:
                found[id(source)] = source
                waiting.append(source)
    return list(found.values())


class Edits:
    """The changes of a batch.

    Args:
        sequences: the batch's rows, with all that they take from among them.
        spec: the model.
    """

    def __init__(self, sequences: Sequences[Sequence], spec: ModelSpec) -> None:
        self._sequences = sequences
        self._spec = spec
        self._of: dict[Output, dict[int, list[Edit]]] = {}
        for row, sequence in enumerate(sequences):
            for edit in sequence.edits:
                self._of.setdefault(edit.output, {}).setdefault(row, []).append(edit)
        self._rows = {id(sequence): row for row, sequence in enumerate(sequences)} if self._of else {}

    def __bool__(self) -> bool:
        """Whether anything is changed."""
        return bool(self._of)

    def probes(self, layer: int) -> set[str]:
        """What is changed in a layer."""
        return {output.probe for output in self._of if output.layer == layer}

    def change(self, output: Output, values: Float32Array) -> Float32Array:
        """A tensor of the batch, float32 [batch, ...], as it is to go on; `values` stay as they are.

        In a cell scales multiply, then adds sum, then `set` decides; who takes from another row takes what that row has
        after its own changes. Rows that change nothing keep every bit, and so does padding, except that its scores
        become less than any: the least float32, which hides it else, is what a client may set all others to.
        """
        changed, of = values.copy(), self._of[output]
        cells = [unpad(changed, self._spec.tensor(output), row, len(s)) for row, s in enumerate(self._sequences)]
        sources = {row: {self._source(row, edit) for edit in edits} - {row} for row, edits in of.items()}
        with np.errstate(over="ignore", invalid="ignore"):  # the answer tells what is not finite
            for row in TopologicalSorter(sources).static_order():
                for edit in sorted(of.get(row, ()), key=lambda edit: _ORDER[edit.verb]):
                    _apply(cells[row], edit, cells[self._source(row, edit)])
        if output.probe == "attention_scores":
            for row in of:
                changed[row, ..., len(self._sequences[row]) :] = -np.inf
        return changed

    def clear_padding(self, hidden_states: Float32Array) -> None:
        """Zeroes the padding of what leaves a layer: a change may have made it infinite, and 0 times that is no 0."""
        for row, sequence in enumerate(self._sequences):
            if sequence.edits:
                hidden_states[row, len(sequence) :] = 0

    def _source(self, row: int, edit: Edit) -> int:
        """The row that an edit takes from; its own if it takes from none."""
        return self._rows[id(self._sequences[row].request[edit.value])] if isinstance(edit.value, int) else row


def _apply(cells: Float32Array, edit: Edit, source: Float32Array) -> None:
    where = as_index(edit.cut)
    if edit.verb == "scale":
        cells[where] *= edit.value
    elif edit.verb == "add":
        cells[where] += edit.value
    else:
        cells[where] = source[where] if isinstance(edit.value, int) else edit.value
