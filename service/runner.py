"""A model's runs: `model.onnx` for who wants the output, the chain of layers for who wants the inside."""

from collections.abc import Callable, Iterable
from typing import Any

from numpy.typing import NDArray

from service import logs
from service.errors import StartError, UnavailableError
from service.manifest import FINAL_OUTPUT, ModelSpec
from service.padding import pad, unpad
from service.session import Session
from service.tensors import Batch, Float32Array, Output, Sequence

_log = logs.get("runner")

LEAN = (Output(None, FINAL_OUTPUT),)


class Runner:
    """Runs batches of sequences that ask for the same tensors.

    Args:
        spec: the model.
        model: the session of model.onnx.
        load_layers: gives the sessions of layers' graphs; called for layers not loaded yet.
    """

    def __init__(
        self, spec: ModelSpec, model: Session, load_layers: Callable[[Iterable[int]], dict[int, Session]]
    ) -> None:
        self._spec = spec
        self._model = model
        self._load_layers = load_layers
        self._layers: dict[int, Session] = {}
        self._refused = False  # remembered: a second reading of the files would be as bad

    def load(self, layers: Iterable[int]) -> None:
        """Loads these layers' graphs, where they are not loaded yet."""
        if missing := [layer for layer in layers if layer not in self._layers]:
            self._layers |= self._load_layers(missing)

    def run(self, sequences: list[Sequence]) -> list[tuple[Float32Array, ...]]:
        """Runs one batch.

        Args:
            sequences: all with the same `outputs`.

        Returns:
            For each sequence its tensors in the order of `outputs`, unpadded.
        """
        wanted = sequences[0].outputs
        batch = pad(sequences)
        arrays = {LEAN[0]: self._run_model(batch)} if wanted == LEAN else self._run_layers(batch, wanted)
        return [
            tuple(unpad(arrays[output], self._spec.tensor(output), row, len(sequence)) for output in wanted)
            for row, sequence in enumerate(sequences)
        ]

    def _run_model(self, batch: Batch) -> Float32Array:
        return self._model.run([FINAL_OUTPUT], _feeds(batch.hidden_states, batch))[0]

    def _run_layers(self, batch: Batch, wanted: tuple[Output, ...]) -> dict[Output, Float32Array]:
        """Runs the layers one after another, only as far as the last one asked for."""
        arrays: dict[Output, Float32Array] = {}
        hidden_states, last = batch.hidden_states, len(self._spec.layers) - 1
        whole = LEAN[0] in wanted
        stop = last if whole else max(output.layer for output in wanted if output.layer is not None)
        self._load_for_run(range(stop + 1))
        for layer in range(stop + 1):
            asked = [output for output in wanted if output.layer == layer]
            names = dict.fromkeys(output.probe for output in asked)
            if layer < stop:
                names["layer_output"] = None
            if layer == last and whole:
                names[self._final_name] = None
            arrays_of_layer = self._layers[layer].run(list(names), _feeds(hidden_states, batch))
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


def _feeds(hidden_states: Float32Array, batch: Batch) -> dict[str, NDArray[Any]]:
    return {"hidden_states": hidden_states, "attention_mask": batch.attention_mask}
