"""The layers' graphs: loaded on first use, one layer's tensors in memory at a time, changed on their way if asked."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service import logs
from service.edit import Edits
from service.errors import StartError, UnavailableError
from service.manifest import POSITIONS, ModelSpec
from service.memory import trim
from service.session import Session, Stop
from service.tensors import Batch, Float32Array, Output

LOAD_AGAIN_S = 10.0  # after there was no memory or no descriptor: a load takes seconds, in which nobody else is run

_log = logs.get("layers")


class Layers:
    """A model's layers.

    Args:
        spec: the model.
        load: gives the sessions of graphs by their path; called for those not loaded yet.
    """

    def __init__(self, spec: ModelSpec, load: Callable[[Iterable[str]], dict[str, Session]]) -> None:
        self._spec = spec
        self._load = load
        self._sessions: dict[str, Session] = {}
        # What a failed load is answered with, and until when: a second reading of bad files would be as bad.
        self._refusal: UnavailableError | None = None
        self._refused_until_s = 0.0

    def load(self, graphs: Iterable[str]) -> None:
        """Loads these graphs, where they are not loaded yet."""
        if missing := [graph for graph in graphs if graph not in self._sessions]:
            try:
                self._sessions |= self._load(missing)
            finally:
                trim()  # the files' bytes

    def prepare(self, depth: int, edits: Edits, stop: Stop) -> None:
        """Loads what a run as far as layer `depth` needs.

        Raises:
            UnavailableError: a file is not as its manifest says, or there was no memory for it just now.
        """
        graphs = [self._graph(layer, edits) for layer in range(depth + 1)]
        if self._sessions.keys() >= set(graphs):
            return
        if time.monotonic() >= self._refused_until_s:
            stop.waits = True
            try:
                self.load(graphs)
            except (StartError, OSError) as error:
                message = "the layers' graphs cannot be loaded, the log says why; block_output alone is served"
                passes = isinstance(error, OSError) or isinstance(error.__cause__, OSError)
                until_s = time.monotonic() + LOAD_AGAIN_S if passes else math.inf
                self._refuse(error, UnavailableError(message, code="layers_unavailable"), until_s)
            except MemoryError as error:
                message = "out of memory for the layers' graphs; ask for block_output alone, or later"
                refusal = UnavailableError(message, code="out_of_memory")
                self._refuse(error, refusal, time.monotonic() + LOAD_AGAIN_S)
            else:
                self._refusal = None
            finally:
                stop.waits = False
        if self._refusal is not None:
            raise self._refusal.with_traceback(None)  # or it would grow by each

    def _refuse(self, error: Exception, refusal: UnavailableError, until_s: float) -> None:
        _log.error("layers cannot be loaded", model=self._spec.name, reason=str(error))
        self._refusal, self._refused_until_s = refusal, until_s

    def run(
        self, layer: int, names: Sequence[str], hidden_states: Float32Array, batch: Batch, edits: Edits, stop: Stop
    ) -> dict[str, Float32Array]:
        """Runs one layer.

        Args:
            layer: its number.
            names: probes, and `block_output` where the layer gives it.
            hidden_states: what enters it, of the run's own where another layer gave it.
            batch: whose mask and positions are used.
            edits: of the batch.
            stop: ends the run.
        """
        session = self._sessions[self._graph(layer, edits)]
        if layer:
            edits.clear_padding(hidden_states)
        if "layer_input" in edits.probes(layer):
            hidden_states = edits.change(Output(layer, "layer_input"), hidden_states)
        feeds = feeds_of(hidden_states, batch)
        feeds |= self._overrides(layer, session, feeds, edits, stop)
        return dict(zip(names, session.run(list(names), feeds, stop), strict=True))

    def _overrides(
        self, layer: int, session: Session, feeds: dict[str, NDArray[Any]], edits: Edits, stop: Stop
    ) -> dict[str, NDArray[Any]]:
        """What is changed, one site after another in the order of the data: each sees the changes before it."""
        editable, wanted = self._spec.layers[layer].editable, edits.probes(layer)
        sites = editable.sites if editable else []
        overrides: dict[str, NDArray[Any]] = {}
        flags = np.zeros(len(sites), np.bool_)
        for number, site in enumerate(sites):
            if site in wanted:
                computed = session.run([site], {**feeds, **overrides}, stop)[0]
                flags[number] = True
                overrides |= {"overridden": flags, f"override_{site}": edits.change(Output(layer, site), computed)}
        return overrides

    def _graph(self, layer: int, edits: Edits) -> str:
        """The graph that a layer is run by: whoever changes nothing in it does not pay for those who might."""
        spec = self._spec.layers[layer]
        changed = edits.probes(layer) - {"layer_input"}
        return spec.editable.graph if changed and spec.editable else spec.graph


def feeds_of(hidden_states: Float32Array, batch: Batch) -> dict[str, NDArray[Any]]:
    """What a graph of the model is given for a batch where `hidden_states` enter it."""
    feeds: dict[str, NDArray[Any]] = {"hidden_states": hidden_states, "attention_mask": batch.attention_mask}
    return feeds if batch.position_ids is None else {**feeds, POSITIONS: batch.position_ids}
