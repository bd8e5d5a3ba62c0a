"""The proof of the editable graphs: unchanged they are the layers, and what is overridden goes on as in PyTorch."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from export.float64 import as_float64
from export.parity import cut, eager
from export.probes import sites
from export.proof import ParityError, Proof, largest, same_bits, tolerance
from export.session import Array, Tensors, open_graph, run_graph
from export.sources import Layer, Source
from export.trace import editable_graph, layer_graph

_MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
_MASKED = 1e30  # scores beyond it, below zero, are of masked cells: half of them would be no mask in float64


def prove_overrides(source: Source, folder: Path, proof: Proof) -> None:
    """Overrides each site of each layer by half of what it is, and holds all that follows to the rule.

    Raises:
        ParityError: An editable graph differs from its layer's own, or an override does not do what it says.
    """
    for index, layer in enumerate(source.layers):
        hidden = np.random.default_rng(index).standard_normal((*_MASK.shape, source.hidden_size)).astype(np.float32)
        hidden *= _MASK[..., None].astype(np.float32)
        truths = _overridden(as_float64(layer.module), layer, torch.from_numpy(hidden).double())
        oracles = _overridden(layer.module, layer, torch.from_numpy(hidden))
        plain = run_graph(open_graph(folder, layer_graph(index)), hidden, _MASK)
        editable = open_graph(folder, editable_graph(index))
        unchanged = run_graph(editable, hidden, _MASK)
        if any(not same_bits(plain[name], unchanged[name]) for name in plain):
            raise ParityError(f"the editable graph of layer {index} differs from the layer's own", proof)
        for number, (site, eager32, eager64) in enumerate(zip(sites(layer.outputs), oracles, truths, strict=True)):
            flags = np.arange(len(truths)) == number
            feeds = {"overridden": flags, f"override_{site.name}": _half(plain[site.name])}
            if not _equal(layer, run_graph(editable, hidden, _MASK, more=feeds), eager32, eager64):
                raise ParityError(f"layers.{index}.{site.name} overridden does not go on as in PyTorch", proof)
            proof.overridden_sites += 1


def _overridden(module: nn.Module, layer: Layer, hidden: torch.Tensor) -> list[Tensors]:
    """The layer's answer by PyTorch with each site overridden, one after another."""
    return [eager(module, hidden, _MASK, at=partial(_halve, site.name)) for site in sites(layer.outputs)]


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
