"""The proof: PyTorch eager, in float32 and float64, against onnxruntime, over lengths, batches and padding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from export.batches import BATCHES, MIN_POSITIONS, Batch, make_masks, pad
from export.chain import FINAL_OUTPUT, LAYER_OUTPUT
from export.float64 import as_float64
from export.probes import At, TensorSpec, stream
from export.proof import Accuracy, ParityError, Proof, largest, same_bits, tolerance
from export.session import Array, Tensors, open_graph, run_graph
from export.sources import Layer, Source
from export.trace import Step, layer_graph


@dataclass(slots=True)
class _Sequence:
    """One sequence on its way through the layers, on all four roads at once.

    `tokens` are its mask and, where layers turn by position, positions; `truth` is the layer's answer in float64.
    """

    tokens: tuple[Array, ...]
    eager32: torch.Tensor
    eager64: torch.Tensor
    alone: Array
    truth: Tensors

    @property
    def one(self) -> list[Array]:
        """Its tokens as a batch of one, unpadded."""
        return [values[None] for values in self.tokens]


@dataclass(slots=True)
class _Case:
    """A batch on its way: `hidden` [batch, sequence, hidden] and its tokens enter the next layer's graph."""

    batch: Batch
    sequences: list[_Sequence]
    tokens: list[Array]
    hidden: Array
    lean: Array


def prove(source: Source, folder: Path, step: Step) -> Proof:
    """Runs every batch through the graphs in `folder` and through PyTorch, and holds one against the other.

    One graph is open at a time, and no layer's float64 weights beside it (docs/decisions/0034).

    Raises:
        ParityError: An output breaks the rule; for our own blocks also where an answer depends on its neighbours or on
            the graph that computed it.
    """
    proof = Proof(cases=len(BATCHES))
    step("parity of model.onnx")
    run = _Run(source, folder, proof)
    for index in range(len(source.layers)):
        step(f"parity of layer {index + 1}/{len(source.layers)}")
        run.layer(index)
    breach = next((found.breach for found in proof.outputs.values() if found.breach), None)
    if breach:
        raise ParityError(breach, proof)
    if source.config and not proof.padded_equals_alone:
        raise ParityError("an answer in a padded batch differs from the same sequence's answer alone", proof)
    if source.config and not proof.layers_equal_model:
        raise ParityError("the chain of layers answers differently from model.onnx", proof)
    return proof


class _Run:
    """Every batch, sent through model.onnx and then, layer by layer, through the layers' graphs and modules."""

    def __init__(self, source: Source, folder: Path, proof: Proof) -> None:
        self.source, self.folder, self.proof = source, folder, proof
        model = open_graph(folder, "model.onnx")
        self.cases = [
            _case(batch.cut_to(source.max_sequence_length), np.random.default_rng(number), source, model)
            for number, batch in enumerate(BATCHES, start=1)
        ]

    def layer(self, index: int) -> None:
        """Sends all batches through a layer, and compares every probe of it; after the last one also block_output."""
        # The longest by itself: its answers in float64 take half as much as those of all others together.
        for cases in (self.cases[:-1], self.cases[-1:]):
            self._find_truth(self.source.layers[index], cases)
            self._run(index, cases)

    def _run(self, index: int, cases: Sequence[_Case]) -> None:
        layer, graph = self.source.layers[index], open_graph(self.folder, layer_graph(index))
        for case in cases:
            ours = run_graph(graph, case.hidden, *case.tokens)
            answers = [self._sequence(layer, graph, case, row, ours) for row in range(len(case.sequences))]
            for spec in layer.outputs:
                name = spec.name if spec.name == FINAL_OUTPUT else f"layers.{index}.{spec.name}"
                self._compare(name, spec, ours[spec.name], answers, case)
            case.hidden = ours.get(LAYER_OUTPUT, case.hidden)
            if index == len(self.source.layers) - 1:
                self._compare_model(case, ours, answers)

    def _find_truth(self, layer: Layer, cases: Sequence[_Case]) -> None:
        """The layer's float64 answers, so that its float64 weights are gone before its graph is opened."""
        double = as_float64(layer.module)
        for case in cases:
            for sequence in case.sequences:
                sequence.truth = eager(double, sequence.eager64, *sequence.one)

    def _sequence(self, layer: Layer, graph: Any, case: _Case, row: int, ours: Tensors) -> tuple[Tensors, Tensors]:
        """A sequence's answers by PyTorch, float32 and float64; ours alone is held against ours in a batch of more."""
        sequence = case.sequences[row]
        plain, truth = eager(layer.module, sequence.eager32, *sequence.one), sequence.truth
        padded = [pad([values]) for values in sequence.tokens]
        alone = run_graph(graph, sequence.alone, *padded) if len(case.sequences) > 1 else ours
        self._same_alone(layer.outputs, ours, alone, row, len(sequence.tokens[0]))
        if LAYER_OUTPUT in plain:
            sequence.eager32 = torch.from_numpy(plain[LAYER_OUTPUT])
            sequence.eager64 = torch.from_numpy(truth[LAYER_OUTPUT])
            sequence.alone = alone[LAYER_OUTPUT]
        sequence.truth = {}
        return plain, truth

    def _compare_model(self, case: _Case, ours: Tensors, answers: Sequence[tuple[Tensors, Tensors]]) -> None:
        """Holds model.onnx against the chain of layers, and against what PyTorch's chain came to."""
        last = FINAL_OUTPUT if FINAL_OUTPUT in ours else LAYER_OUTPUT
        self.proof.layers_equal_model &= same_bits(case.lean, ours[last])
        renamed = [({FINAL_OUTPUT: plain[last]}, {FINAL_OUTPUT: truth[last]}) for plain, truth in answers]
        self._compare(FINAL_OUTPUT, stream(FINAL_OUTPUT, self.source.hidden_size), case.lean, renamed, case)

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
        answers: Sequence[tuple[Tensors, Tensors]],
        case: _Case,
    ) -> None:
        """Holds one output of a batch to the rule of facts S and remembers the largest errors."""
        kept = [np.flatnonzero(sequence.tokens[0]) for sequence in case.sequences]
        truth = [_clip(cut(spec, f64[spec.name][0], keep)) for (_, f64), keep in zip(answers, kept, strict=True)]
        plain = [cut(spec, f32[spec.name][0], keep) for (f32, _), keep in zip(answers, kept, strict=True)]
        own = max(largest(f32 - f64) for f32, f64 in zip(plain, truth, strict=True))
        found = self.proof.outputs.setdefault(name, Accuracy())
        found.eager_float32_max_error = max(found.eager_float32_max_error, own)
        for row, (f64, keep) in enumerate(zip(truth, kept, strict=True)):
            error = np.abs(cut(spec, ours[row], keep) - f64)
            found.max_error = max(found.max_error, largest(error))
            bound = tolerance(own, f64)
            # Not "error > bound": a NaN must fail.
            if found.breach is None and not np.all(error <= bound):
                found.breach = _sentence(name, case.batch, row, error, bound, alone=self.source.config is None)


def _sentence(name: str, batch: Batch, row: int, error: Array, bound: Array, *, alone: bool) -> str:
    worst = np.unravel_index(np.argmax(np.nan_to_num(error - bound, nan=np.inf)), error.shape)
    sentence = (
        f"{name} is off by {error[worst]:.3g} where {bound[worst]:.3g} is allowed, in the batch of lengths "
        f"{list(batch.lengths)} with padding {batch.padding}, sequence {row}"
    )
    if alone and {*batch.lengths} != {max(MIN_POSITIONS, *batch.lengths)}:
        sentence += "; the oracle runs each sequence alone, so an answer that moves with its padding fails here"
    return sentence


def _case(batch: Batch, generator: np.random.Generator, source: Source, model: Any) -> _Case:
    """A batch of random rows, zero where they are masked, as the server sends it; with model.onnx's answer."""
    masks = make_masks(batch)
    rows = [generator.standard_normal((len(mask), source.hidden_size)).astype(np.float32) for mask in masks]
    rows = [row * mask[:, None].astype(np.float32) for row, mask in zip(rows, masks, strict=True)]
    tokens = [(mask, *_positions(source, mask, generator)) for mask in masks]
    sequences = [_start(row, own) for row, own in zip(rows, tokens, strict=True)]
    padded, hidden = [pad(kind) for kind in zip(*tokens, strict=True)], pad(rows)
    return _Case(batch, sequences, padded, hidden, run_graph(model, hidden, *padded)[FINAL_OUTPUT])


def _positions(source: Source, mask: Array, generator: np.random.Generator) -> list[Array]:
    """Where the source's layers turn by position: each token's, any that there are and in any order."""
    limit = source.config and source.config.max_position_embeddings
    return [generator.integers(0, limit, len(mask))] if limit else []


def _start(row: Array, tokens: tuple[Array, ...]) -> _Sequence:
    tensor = torch.from_numpy(row)[None]
    return _Sequence(tokens, tensor, tensor.double(), pad([row]), {})


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
