"""The proof: PyTorch eager, in float32 and float64, against onnxruntime, over lengths, batches and padding."""

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from export import ExportError
from export.batches import BATCHES, MIN_POSITIONS, Batch, make_masks, pad
from export.onnx_file import WEIGHTS
from export.probes import POSITIONS, At, TensorSpec, stream
from export.proof import Accuracy, ParityError, Proof, largest, same_bits, tolerance
from export.sources import Source, TextFront
from export.trace import Step

# Must be set before the import: the Linux wheel sends events out by default.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

onnxruntime.disable_telemetry_events()

_MOST_TOKENS = 4096  # of a text front; who has more positions has them in the layers

Array = NDArray[Any]
Tensors = dict[str, Array]

# Adds and normalises in another order where nothing reads the sum, so model.onnx would differ from its own layers.
DISABLED_OPTIMIZERS = ("SkipLayerNormFusion",)


@dataclass(slots=True)
class _Sequence:
    """One sequence on its way through the layers, on all four roads at once; `tokens` are its mask and positions."""

    tokens: tuple[Array, ...]
    eager32: torch.Tensor
    eager64: torch.Tensor
    alone: Array


def prove(source: Source, folder: Path, step: Step) -> Proof:
    """Runs every batch through the graphs in `folder` and through PyTorch, and holds one against the other.

    Raises:
        ParityError: An output breaks the rule; for our own blocks also where an answer depends on its neighbours or on
            the graph that computed it.
    """
    proof = Proof(cases=len(BATCHES))
    run = _Run(source, folder, proof)
    for number, batch in enumerate(BATCHES, start=1):
        step(f"parity {number}/{len(BATCHES)}")
        run.batch(batch.cut_to(source.max_sequence_length), np.random.default_rng(number))
    if source.text:
        step("parity of the text front")
        _prove_text(source.text, folder)
    breach = next((found.breach for found in proof.outputs.values() if found.breach), None)
    if breach:
        raise ParityError(breach, proof)
    if source.config and not proof.padded_equals_alone:
        raise ParityError("an answer in a padded batch differs from the same sequence's answer alone", proof)
    if source.config and not proof.layers_equal_model:
        raise ParityError("the chain of layers answers differently from model.onnx", proof)
    return proof


def _prove_text(text: TextFront, folder: Path) -> None:
    """Holds the embeddings' graph to the same rule, over the first, last and other tokens and every position."""
    session = open_graph(folder / "text" / "embeddings.onnx", (folder / WEIGHTS).read_bytes())
    length = min(text.max_tokens, _MOST_TOKENS)
    ids = np.random.default_rng(0).integers(0, text.vocab_size, (2, length))
    ids[:, 0], ids[:, -1] = 0, text.vocab_size - 1
    with torch.inference_mode():
        plain = text.embeddings(torch.from_numpy(ids)).numpy()
        truth = copy.deepcopy(text.embeddings).double()(torch.from_numpy(ids)).numpy()
    error = np.abs(session.run(["hidden_states"], {"input_ids": ids})[0] - truth)
    if not np.all(error <= tolerance(largest(plain - truth), truth)):
        raise ExportError(f"text/embeddings.onnx is off by {largest(error):.3g} from PyTorch float64")


class _Run:
    """A source's modules and graphs, loaded once; `batch` sends one batch through all of them."""

    def __init__(self, source: Source, folder: Path, proof: Proof) -> None:
        self.source, self.proof = source, proof
        self.doubles = [copy.deepcopy(layer.module).double() for layer in source.layers]
        data = (folder / WEIGHTS).read_bytes()
        self.model = open_graph(folder / "model.onnx", data)
        self.layers = [open_graph(folder / f"layers/{index}.onnx", data) for index in range(len(source.layers))]

    def batch(self, batch: Batch, generator: np.random.Generator) -> None:
        """Compares every probe, layer by layer, so that one layer's maps are in memory at a time."""
        masks = make_masks(batch)
        rows = [generator.standard_normal((len(mask), self.source.hidden_size)).astype(np.float32) for mask in masks]
        # As the server sends it: what is masked is zero.
        rows = [row * mask[:, None].astype(np.float32) for row, mask in zip(rows, masks, strict=True)]
        tokens = [(mask, *self._positions(mask, generator)) for mask in masks]
        sequences = [_start(row, own) for row, own in zip(rows, tokens, strict=True)]
        padded = [pad(kind) for kind in zip(*tokens, strict=True)]
        hidden = pad(rows)
        lean = run_graph(self.model, hidden, *padded)["block_output"]
        answers: list[tuple[Tensors, Tensors]] = []
        for index in range(len(self.layers)):
            ours = run_graph(self.layers[index], hidden, *padded)
            answers = self._layer(index, ours, sequences, batch)
            hidden = ours.get("layer_output", hidden)
        chained = ours.get("block_output", hidden)
        self.proof.layers_equal_model &= same_bits(lean, chained)
        final = [[answer.get("block_output", answer.get("layer_output")) for answer in pair] for pair in answers]
        spec = stream("block_output", self.source.hidden_size)
        self._compare("block_output", spec, lean, [(a, b) for a, b in final], masks, batch)

    def _positions(self, mask: Array, generator: np.random.Generator) -> list[Array]:
        """Where the source's layers turn by position: each token's, any that there are and in any order."""
        limit = self.source.config and self.source.config.max_position_embeddings
        return [generator.integers(0, limit, len(mask))] if limit else []

    def _layer(
        self, index: int, ours: Tensors, sequences: Sequence[_Sequence], batch: Batch
    ) -> list[tuple[Tensors, Tensors]]:
        layer = self.source.layers[index]
        answers = []
        for row, sequence in enumerate(sequences):
            own = [values[None] for values in sequence.tokens]
            eager32 = eager(layer.module, sequence.eager32, *own)
            eager64 = eager(self.doubles[index], sequence.eager64, *own)
            alone = run_graph(self.layers[index], sequence.alone, *(pad([values]) for values in sequence.tokens))
            self._same_alone(layer.outputs, ours, alone, row, len(sequence.tokens[0]))
            if "layer_output" in eager32:
                sequence.eager32 = torch.from_numpy(eager32["layer_output"])
                sequence.eager64 = torch.from_numpy(eager64["layer_output"])
                sequence.alone = alone["layer_output"]
            answers.append((eager32, eager64))
        masks = [sequence.tokens[0] for sequence in sequences]
        for spec in layer.outputs:
            name = spec.name if spec.name == "block_output" else f"layers.{index}.{spec.name}"
            pairs = [(first[spec.name], second[spec.name]) for first, second in answers]
            self._compare(name, spec, ours[spec.name], pairs, masks, batch)
        return answers

    def _same_alone(self, outputs: Sequence[TensorSpec], ours: Tensors, alone: Tensors, row: int, length: int) -> None:
        every = np.arange(length)
        for spec in outputs:
            batched = cut(spec, ours[spec.name][row], every)
            self.proof.padded_equals_alone &= same_bits(batched, cut(spec, alone[spec.name][0], every))

    def _compare(
        self,
        name: str,
        spec: TensorSpec,
        ours: Array,
        oracles: Sequence[tuple[Any, Any]],
        masks: Sequence[Array],
        batch: Batch,
    ) -> None:
        """Holds one output of a batch to the rule of facts S and remembers the largest errors."""
        kept = [np.flatnonzero(mask) for mask in masks]
        truth = [_clip(cut(spec, f64[0], keep)) for (_, f64), keep in zip(oracles, kept, strict=True)]
        plain = [cut(spec, f32[0], keep) for (f32, _), keep in zip(oracles, kept, strict=True)]
        own = max(largest(f32 - f64) for f32, f64 in zip(plain, truth, strict=True))
        found = self.proof.outputs.setdefault(name, Accuracy())
        found.eager_float32_max_error = max(found.eager_float32_max_error, own)
        for row, (f64, keep) in enumerate(zip(truth, kept, strict=True)):
            error = np.abs(cut(spec, ours[row], keep) - f64)
            found.max_error = max(found.max_error, largest(error))
            bound = tolerance(own, f64)
            # Not "error > bound": a NaN must fail.
            if found.breach is None and not np.all(error <= bound):
                found.breach = _sentence(name, batch, row, error, bound, alone=self.source.config is None)


def _sentence(name: str, batch: Batch, row: int, error: Array, bound: Array, *, alone: bool) -> str:
    worst = np.unravel_index(np.argmax(np.nan_to_num(error - bound, nan=np.inf)), error.shape)
    sentence = (
        f"{name} is off by {error[worst]:.3g} where {bound[worst]:.3g} is allowed, in the batch of lengths "
        f"{list(batch.lengths)} with padding {batch.padding}, sequence {row}"
    )
    if alone and {*batch.lengths} != {max(MIN_POSITIONS, *batch.lengths)}:
        sentence += "; the oracle runs each sequence alone, so an answer that moves with its padding fails here"
    return sentence


def _start(row: Array, tokens: tuple[Array, ...]) -> _Sequence:
    tensor = torch.from_numpy(row)[None]
    return _Sequence(tokens, tensor, tensor.double(), pad([row]))


def cut(spec: TensorSpec, row: Array, keep: Array) -> Array:
    """One sequence's tensor (no batch axis) at the positions in `keep`, on each of its sequence axes."""
    for axis, size in enumerate(spec.shape[1:]):
        if size < 0:
            row = np.take(row, keep, axis)
    return row


def _clip(truth: Array) -> Array:
    """float64 in float32's range: a masked score is the dtype's own minimum on both sides."""
    limit = float(np.finfo(np.float32).max)
    clipped: Array = np.clip(truth, -limit, limit)
    return clipped


def eager(module: nn.Module, hidden_states: torch.Tensor, *tokens: Array, **at: At) -> Tensors:
    """A layer's answer by PyTorch, eager, as numpy arrays.

    Args:
        module: The layer.
        hidden_states: What enters it.
        tokens: attention_mask, and position_ids if it is to have some.
        at: `at`, which changes probes on the way.
    """
    with torch.inference_mode():
        answer: Mapping[str, torch.Tensor] = module(hidden_states, *map(torch.from_numpy, tokens), **at)
    return {name: tensor.numpy() for name, tensor in answer.items()}


def open_graph(path: Path, data: bytes) -> Any:
    """A session over a graph's bytes and weights.data's bytes, as the service opens them."""
    options = onnxruntime.SessionOptions()
    # Sessions with spinning threads of their own slow each other.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_external_initializers_from_files_in_memory([WEIGHTS], [data], [len(data)])
    options.log_severity_level = 3  # it warns of every optional input
    return onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(DISABLED_OPTIMIZERS)
    )


def run_graph(session: Any, hidden_states: Array, *tokens: Array, more: Mapping[str, Array] = {}) -> Tensors:
    """All outputs of a graph, by name.

    Args:
        session: Of the graph.
        hidden_states: What enters it.
        tokens: attention_mask and, where the graph takes them, position_ids; without them 0, 1, 2 and so on.
        more: Optional inputs.
    """
    names = [output.name for output in session.get_outputs()]
    feeds = {"hidden_states": hidden_states, **dict(zip(("attention_mask", POSITIONS), tokens, strict=False)), **more}
    if POSITIONS not in feeds and POSITIONS in {value.name for value in session.get_inputs()}:
        feeds[POSITIONS] = np.broadcast_to(np.arange(hidden_states.shape[1]), hidden_states.shape[:2])
    return dict(zip(names, session.run(names, feeds), strict=True))
