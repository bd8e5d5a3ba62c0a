"""The proof of the editable graphs: unchanged they are the layers, and what is overridden goes on as in PyTorch."""

import copy
from functools import partial
from pathlib import Path

import numpy as np
import torch

from export.parity import Array, Tensors, cut, eager, open_graph, run_graph
from export.probes import sites
from export.proof import ParityError, Proof, largest, same_bits, tolerance
from export.sources import Layer, Source
from export.trace import editable_graph, layer_graph

_MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
_MASKED = 1e30  # scores beyond it, below zero, are of masked cells: half of them would be no mask in float64


def prove_overrides(source: Source, folder: Path, weights: bytes, proof: Proof) -> None:
    """Overrides each site of each layer by half of what it is, and holds all that follows to the rule.

    Raises:
        ParityError: An editable graph differs from its layer's own, or an override does not do what it says.
    """
    for index, layer in enumerate(source.layers):
        graphs = [open_graph(folder / path(index), weights) for path in (layer_graph, editable_graph)]
        hidden = np.random.default_rng(index).standard_normal((*_MASK.shape, source.hidden_size)).astype(np.float32)
        hidden *= _MASK[..., None].astype(np.float32)
        plain, unchanged = (run_graph(graph, hidden, _MASK) for graph in graphs)
        if any(not same_bits(plain[name], unchanged[name]) for name in plain):
            raise ParityError(f"the editable graph of layer {index} differs from the layer's own", proof)
        double = copy.deepcopy(layer.module).double()
        for number, site in enumerate(sites(layer.outputs)):
            flags = np.arange(len(sites(layer.outputs))) == number
            feeds = {"overridden": flags, f"override_{site.name}": _half(plain[site.name])}
            at = partial(_halve, site.name)
            eager32 = eager(layer.module, torch.from_numpy(hidden), _MASK, at=at)
            eager64 = eager(double, torch.from_numpy(hidden).double(), _MASK, at=at)
            if not _equal(layer, run_graph(graphs[1], hidden, _MASK, more=feeds), eager32, eager64):
                raise ParityError(f"layers.{index}.{site.name} overridden does not go on as in PyTorch", proof)
            proof.overridden_sites += 1


def _half(values: Array) -> Array:
    return np.where(np.abs(values) < _MASKED, values * np.float32(0.5), values)


def _halve(wanted: str, name: str, tensor: torch.Tensor) -> torch.Tensor:
    return torch.where(tensor.abs() < _MASKED, tensor * 0.5, tensor) if name == wanted else tensor


def _equal(layer: Layer, ours: Tensors, eager32: Tensors, eager64: Tensors) -> bool:
    limit = float(np.finfo(np.float32).max)
    for spec in layer.outputs:
        for row, mask in enumerate(_MASK):
            keep = np.flatnonzero(mask)
            truth = np.clip(cut(spec, eager64[spec.name][row], keep), -limit, limit)
            own = largest(cut(spec, eager32[spec.name][row], keep) - truth)
            # Not "error > bound": a NaN must fail.
            if not np.all(np.abs(cut(spec, ours[spec.name][row], keep) - truth) <= tolerance(own, truth)):
                return False
    return True
