"""A model's runs: `model.onnx` for who wants the output, the chain of layers for who wants the inside."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service import logs
from service.budget import LARGE_RUN_BYTES, activations_bytes
from service.cost import Cost, measure
from service.errors import StartError, UnavailableError
from service.manifest import FINAL_OUTPUT, ModelSpec
from service.memory import Held, trim
from service.padding import choose, pad, unpad
from service.session import Session, Stop
from service.settings import Settings
from service.shedding import hold_answers
from service.tensors import Batch, Float32Array, Output, Sequence

_log = logs.get("runner")

LEAN = (Output(None, FINAL_OUTPUT),)
_LARGE = threading.Lock()  # held by the one large run of all models: at once, two would need the memory of both
_ANSWERS = Held()  # of all models


class Runner:
    """Runs batches of sequences, and knows what a run costs.

    Args:
        spec: the model.
        model: the session of model.onnx.
        load_layers: gives the sessions of layers' graphs; called for layers not loaded yet.
        settings: the limits.

    Attributes:
        cost: of a run of model.onnx, once `warm_up` has measured it.
    """

    cost: Cost

    def __init__(
        self,
        spec: ModelSpec,
        model: Session,
        load_layers: Callable[[Iterable[int]], dict[int, Session]],
        settings: Settings,
    ) -> None:
        self._spec = spec
        self._model = model
        self._load_layers = load_layers
        self._settings = settings
        self._layers: dict[int, Session] = {}
        self._refused = False  # remembered: a second reading of the files would be as bad

    def load(self, layers: Iterable[int]) -> None:
        """Loads these layers' graphs, where they are not loaded yet."""
        if missing := [layer for layer in layers if layer not in self._layers]:
            self._layers |= self._load_layers(missing)

    def warm_up(self, most_tokens: int) -> None:
        """Runs model.onnx on a few shapes, and learns which batches pay.

        Args:
            most_tokens: padded positions of the largest batch that may be formed.
        """
        hidden_size = self._spec.hidden_size

        def run(size: int, length: int) -> None:
            shape = size, length
            self._run_model(Batch(np.ones((*shape, hidden_size), np.float32), np.ones(shape, np.int64)), Stop())

        self.cost = measure(run, self._spec.max_sequence_length, most_tokens)

    @property
    def batch_tokens(self) -> int:
        """Padded positions of a batch, beyond which a larger one does not pay."""
        return self.cost.batch_tokens

    def choose(self, lengths: list[int]) -> list[int]:
        """The next batch, as indices, from the lengths of sequences of one depth, first in line first."""
        return choose(lengths, self.cost)

    def predict_s(self, length: int) -> float:
        """Seconds of a lean run of one sequence of so many positions."""
        return self.cost.seconds(1, length)

    def job(self, sequences: list[Sequence]) -> "BatchRun":
        """One batch, of sequences of one `depth`, to be run."""
        return BatchRun(self, sequences, Stop())

    def depth(self, wanted: tuple[Output, ...]) -> int | None:
        """The last layer that must be run for these tensors; None if model.onnx gives them."""
        if wanted == LEAN:
            return None
        if LEAN[0] in wanted:
            return len(self._spec.layers) - 1
        return max(output.layer for output in wanted if output.layer is not None)

    def run(self, sequences: list[Sequence], stop: Stop | None = None) -> list[tuple[Float32Array, ...]]:
        """Runs one batch.

        Args:
            sequences: all of one `depth`.
            stop: ends it early; it then raises.

        Returns:
            For each sequence its tensors in the order of its `outputs`, unpadded.

        Raises:
            OverloadedError: these answers and those that are not written yet would take too much memory.
        """
        depth, stop = self.depth(sequences[0].outputs), stop or Stop()
        batch = pad(sequences)
        wanted = tuple(dict.fromkeys(output for sequence in sequences for output in sequence.outputs))
        self._hold_answers(wanted, batch)
        with _one_large(activations_bytes(self._spec, *batch.attention_mask.shape)):
            if depth is None:
                arrays = {LEAN[0]: self._run_model(batch, stop)}
            else:
                arrays = self._run_layers(batch, wanted, depth, stop)
        for array in arrays.values():
            _ANSWERS.add(array)
        return [
            tuple(unpad(arrays[output], self._spec.tensor(output), row, len(sequence)) for output in sequence.outputs)
            for row, sequence in enumerate(sequences)
        ]

    def _hold_answers(self, wanted: tuple[Output, ...], batch: Batch) -> None:
        """Refuses arrays that do not fit beside those under way; where there are none, any fit."""
        size, length = batch.attention_mask.shape
        growths = [self._spec.tensor(output).growth for output in wanted]
        more = 4 * size * sum(elements * length**power for elements, power in growths)
        hold_answers(_ANSWERS.bytes, more, self._settings)

    def _run_model(self, batch: Batch, stop: Stop) -> Float32Array:
        return self._model.run([FINAL_OUTPUT], _feeds(batch.hidden_states, batch), stop)[0]

    def _run_layers(
        self, batch: Batch, wanted: tuple[Output, ...], depth: int, stop: Stop
    ) -> dict[Output, Float32Array]:
        """Runs the layers one after another, as far as the last one asked for."""
        arrays: dict[Output, Float32Array] = {}
        hidden_states, last = batch.hidden_states, len(self._spec.layers) - 1
        whole = LEAN[0] in wanted
        self._load_for_run(range(depth + 1))
        for layer in range(depth + 1):
            asked = [output for output in wanted if output.layer == layer]
            names = dict.fromkeys(output.probe for output in asked)
            if layer < depth:
                names["layer_output"] = None
            if layer == last and whole:
                names[self._final_name] = None
            arrays_of_layer = self._layers[layer].run(list(names), _feeds(hidden_states, batch), stop)
            found = dict(zip(names, arrays_of_layer, strict=True))
            arrays.update({output: found[output.probe] for output in asked})
            if layer == last and whole:
                arrays[LEAN[0]] = found[self._final_name]
            hidden_states = found.get("layer_output", hidden_states)
        return arrays

    def _load_for_run(self, layers: Iterable[int]) -> None:
        try:
            if not self._refused:
                self.load(layers)
        except StartError as error:
            _log.error("layers cannot be loaded", model=self._spec.name, reason=str(error))
            self._refused = True
        if self._refused:
            message = "the layers' graphs cannot be loaded, the log says why; block_output alone is served"
            raise UnavailableError(message, code="layers_unavailable")

    @property
    def _final_name(self) -> str:
        """The output of the last layer's graph that is the model's answer."""
        names = [tensor.name for tensor in self._spec.layers[-1].outputs]
        return FINAL_OUTPUT if FINAL_OUTPUT in names else "layer_output"


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

    def result(self) -> list[tuple[Float32Array, ...]]:
        """Runs it."""
        return self.runner.run(self.sequences, self.handle)

    def stop(self) -> None:
        """Ends the run, or keeps it from beginning."""
        self.handle.stop()


@contextmanager
def _one_large(size_bytes: int) -> Iterator[None]:
    """Waits until no other large run is under way; gives back what lies about before this one, and what it leaves."""
    if size_bytes <= LARGE_RUN_BYTES:
        yield
        return
    with _LARGE:
        trim()
        try:
            yield
        finally:
            trim()


def _feeds(hidden_states: Float32Array, batch: Batch) -> dict[str, NDArray[Any]]:
    return {"hidden_states": hidden_states, "attention_mask": batch.attention_mask}
