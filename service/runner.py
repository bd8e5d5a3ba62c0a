"""A model's runs: `model.onnx` for who wants the output, the chain of layers for who wants the inside."""

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np

from service.budget import LARGE_RUN_BYTES, activations_bytes
from service.cost import Cost, measure
from service.cut import view_bytes
from service.edit import Edits, with_sources
from service.layers import Layers, feeds_of
from service.manifest import FINAL_OUTPUT, ROLLOUT, ModelSpec, TensorSpec
from service.memory import Held, one_large, trim
from service.padding import choose, pad, unpad
from service.reduction import Rollout
from service.session import Session, Stop
from service.settings import Settings
from service.shedding import hold_answers
from service.tensors import Batch, Float32Array, Found, Output, Sequence, View
from service.view import owners, take

_FINAL, _ROLLOUT = Output(None, FINAL_OUTPUT), Output(None, ROLLOUT)
LEAN = (View(_FINAL),)
_WEIGHTS, _STREAM = "attention_weights", "layer_output"
_TRIMMED_BYTES = 2**28  # of activations, from which on a page fault for each page of a layer is worth its memory
_ANSWERS = Held()  # of all models


class Runner:
    """Runs batches of sequences, and knows what a run costs.

    Args:
        spec: the model.
        model: the session of model.onnx.
        load: gives the sessions of layers' graphs by their path; called for those not loaded yet.
        settings: the limits.

    Attributes:
        cost: of a run of model.onnx, once `warm_up` has measured it.
    """

    cost: Cost

    def __init__(
        self,
        spec: ModelSpec,
        model: Session,
        load: Callable[[Iterable[str]], dict[str, Session]],
        settings: Settings,
    ) -> None:
        self._spec = spec
        self._model = model
        self._layers = Layers(spec, load)
        self._settings = settings

    def load_layers(self) -> None:
        """Loads all layers' graphs, the editable ones too."""
        self._layers.load(graph for layer in self._spec.layers for graph in layer.graphs)

    def warm_up(self, most_tokens: int) -> None:
        """Runs model.onnx on a few shapes, and learns which batches pay.

        Args:
            most_tokens: padded positions of the largest batch that may be formed.
        """

        def run(size: int, length: int) -> None:
            shape = size, length
            states = np.ones((*shape, self._spec.hidden_size), np.float32)
            sequences = [Sequence(*pair, LEAN) for pair in zip(states, np.ones(shape, np.bool_), strict=True)]
            self._run_model(pad(sequences, positions=self._spec.takes_positions), sequences, Stop())

        self.cost = measure(run, self._spec.max_sequence_length, most_tokens)

    @property
    def batch_tokens(self) -> int:
        """Padded positions of a batch, beyond which a larger one does not pay."""
        return self.cost.batch_tokens

    @property
    def takes_all_cores(self) -> bool:
        """Whether a run has as many threads as there are cores."""
        return self._model.takes_all_cores

    def choose(self, lengths: list[int]) -> list[int]:
        """The next batch, as indices, from the lengths of sequences of one depth, first in line first."""
        return choose(lengths, self.cost)

    def predict_s(self, length: int) -> float:
        """Seconds of a lean run of one sequence of so many positions."""
        return self.cost.seconds(1, length)

    def job(self, sequences: list[Sequence]) -> "BatchRun":
        """One batch, of sequences of one `depth`, to be run."""
        return BatchRun(self, sequences, Stop())

    def depth(self, wanted: tuple[View, ...], *, edited: bool = False) -> int | None:
        """The last layer that must be run for these; None if model.onnx gives them."""
        if wanted == LEAN and not edited:
            return None
        outputs = {view.output for view in wanted}
        if outputs == {_FINAL} and not edited:
            return None
        last = len(self._spec.layers) - 1
        return max(last if output.layer is None else output.layer for output in outputs)

    def run(self, sequences: list[Sequence], stop: Stop | None = None) -> list[tuple[Found, ...]]:
        """Runs one batch.

        Args:
            sequences: all of one `depth`.
            stop: ends it early; it then raises.

        Returns:
            For each sequence what its `views` ask for, in order, unpadded.

        Raises:
            OverloadedError: these answers and those that are not written yet would take too much memory.
        """
        every, stop = with_sources(sequences), stop or Stop()
        views = tuple([view for sequence in sequences for view in sequence.views])  # some have block_output alone
        depth = self.depth(views, edited=bool(edits := Edits(every, self._spec)))
        batch = pad(every, positions=self._spec.takes_positions)
        size, length = batch.attention_mask.shape
        self._hold_answers(views, size, length)
        activations = activations_bytes(self._spec, size, length) * (2 if edits else 1)  # a tensor, and as it was
        large = activations > LARGE_RUN_BYTES
        with one_large(stop) if large else nullcontext():
            if depth is None:
                found = self._run_model(batch, sequences, stop)
            else:
                stop.gives_back = activations > _TRIMMED_BYTES
                found = self._run_layers(batch, sequences, depth, edits, stop)
        _ANSWERS.add(map(owners, found))
        return found

    def _hold_answers(self, views: Iterable[View], size: int, length: int) -> None:
        """Refuses arrays that do not fit beside those under way; where there are none, any fit."""
        if not (held_bytes := _ANSWERS.bytes):
            return
        more = 0
        for view, count in Counter(views).items():
            whole = not view.cut and view.reduction is None  # a part of the batch's array, which is kept
            more += view_bytes(view, self._spec.tensor(view.output), {length: size if whole else count}, padded=False)
        hold_answers(held_bytes, more, self._settings)

    def _run_model(self, batch: Batch, sequences: list[Sequence], stop: Stop) -> list[tuple[Found, ...]]:
        values = self._model.run([FINAL_OUTPUT], feeds_of(batch.hidden_states, batch), stop)[0]
        parts = [part[: len(sequence)] for part, sequence in zip(values, sequences, strict=True)]
        return [tuple([take(part, view) for view in s.views]) for part, s in zip(parts, sequences, strict=True)]

    def _run_layers(
        self, batch: Batch, sequences: list[Sequence], depth: int, edits: Edits, stop: Stop
    ) -> list[tuple[Found, ...]]:
        """Runs the layers one after another, as far as the last one asked for."""
        self._layers.prepare(depth, edits, stop)
        rows = [_Row(row, sequence) for row, sequence in enumerate(sequences)]
        hidden_states = batch.hidden_states
        for layer in range(depth + 1):
            asked = {view.output for row in rows for view in row.sequence.views}
            sources = self._sources(layer, asked)
            names = dict.fromkeys((*sources.values(), *[_WEIGHTS] * (_ROLLOUT in asked), *[_STREAM] * (layer < depth)))
            found = self._layers.run(layer, list(names), hidden_states, batch, edits, stop)
            for output, name in sources.items():
                self._give(rows, output, found[name])
            for row in rows:
                if row.views_of(_ROLLOUT):
                    row.rollout.add(row.cut(found[_WEIGHTS], self._spec.probes[layer][_WEIGHTS]))
            hidden_states = found.get(_STREAM, hidden_states)
            del found  # or this layer's maps would be there beside the next one's
            if stop.gives_back:
                trim()  # the next one's may not fit into the pieces that they have left
        for row in rows:
            for view in row.views_of(_ROLLOUT):
                row.found[view] = take(row.rollout.result(), view)
        return [tuple(row.found[view] for view in row.sequence.views) for row in rows]

    def _sources(self, layer: int, asked: set[Output]) -> dict[Output, str]:
        """What is asked of a layer, each with its name in the layer's graph."""
        sources = {output: output.probe for output in asked if output.layer == layer}
        if _FINAL in asked and layer == len(self._spec.layers) - 1:
            sources[_FINAL] = self._final_name
        return sources

    def _give(self, rows: "list[_Row]", output: Output, values: Float32Array) -> None:
        tensor = self._spec.tensor(output)
        for row in rows:
            for view in row.views_of(output):
                row.found[view] = take(row.cut(values, tensor), view)

    @property
    def _final_name(self) -> str:
        """The output of the last layer's graph that is the model's answer."""
        names = [tensor.name for tensor in self._spec.layers[-1].outputs]
        return FINAL_OUTPUT if FINAL_OUTPUT in names else _STREAM


@dataclass(slots=True)
class _Row:
    """A row of a batch: its sequence, and what was found for it so far."""

    index: int
    sequence: Sequence
    found: dict[View, Found] = field(default_factory=dict)
    rollout: Rollout = field(default_factory=Rollout)
    _views: dict[Output, list[View]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for view in self.sequence.views:
            self._views.setdefault(view.output, []).append(view)

    def views_of(self, output: Output) -> list[View]:
        return self._views.get(output, [])

    def cut(self, values: Float32Array, tensor: TensorSpec) -> Float32Array:
        return unpad(values, tensor, self.index, len(self.sequence))


@dataclass(frozen=True, slots=True)
class BatchRun:
    """A batch that is to be run.

    Attributes:
        runner: of the model.
        sequences: all of one depth.
        handle: ends the run.
    """

    runner: Runner
    sequences: list[Sequence]
    handle: Stop

    def result(self) -> list[tuple[Found, ...]]:
        """Runs it."""
        return self.runner.run(self.sequences, self.handle)

    @property
    def waits(self) -> bool:
        """Whether it waits for another's run, or for graphs."""
        return self.handle.waits

    def stop(self) -> None:
        """Ends the run, or keeps it from beginning."""
        self.handle.stop()
