"""What `transformers`' eager attention computes in the models of pretrained.py, on the way too, and how far ours is."""

import copy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from export.proof import tolerance
from tests.export.pretrained import CASES, LAYERS, make

Array = NDArray[Any]

# Of a layer's probes those that transformers' modules do not pass on.
NOT_PASSED = frozenset({"attention_scores", "resid_mid", "resid_post"})


class Oracle:
    """What transformers computes in a model's layers, from hidden states that are given to one of them.

    Args:
        name: The case.
        double: In float64.
    """

    def __init__(self, name: str, *, double: bool) -> None:
        case, model = CASES[name], make(name)
        base = getattr(model, case.base) if case.base else model
        self._model = copy.deepcopy(base).double() if double else base
        if double and case.family.startswith("gemma"):
            for module in self._model.modules():
                if hasattr(module, "_norm"):
                    module.register_forward_hook(_norm_in_float64)
        self._modules, self._kind = case.modules, case.family
        self._sees_images = self._model.main_input_name == "pixel_values"
        self._rotary: Any = getattr(self._model, "rotary_emb", None)
        lists = [module for module in self._model.modules() if isinstance(module, nn.ModuleList)]
        (self._layers,) = (found for found in lists if len(found) == LAYERS)

    def __call__(self, hidden: Array, mask: Array, first: int = 0, end: int = LAYERS) -> list[dict[str, Array]]:
        """Each layer's probes with an oracle, of one sequence; the last one's `block_output` is last_hidden_state.

        Args:
            hidden: [sequence, hidden], what enters layer `first`.
            mask: [sequence], 1 = attend.
            first: The layer that takes it.
            end: One after the last layer that is asked for.

        Returns:
            Of each layer tensors without the batch's axis, at the positions where the mask is 1.
        """
        kept = np.flatnonzero(mask)
        positions = np.arange(len(mask))
        if self._sees_images:  # and takes no mask: what is hidden is left out, as only the order counts
            hidden, mask = hidden[kept], mask[kept]
        found: list[dict[str, Any]] = [{} for _ in self._layers]
        with self._hooked(found, torch.from_numpy(hidden)[None].to(self._model.dtype), first), torch.inference_mode():
            answer = self._model(**self._inputs(mask, positions), output_attentions=True)
        for layer, weights in zip(found, answer.attentions, strict=True):
            layer["attention_weights"] = weights
        found[-1]["block_output"] = answer.last_hidden_state
        if self._rotary:
            for index, layer in enumerate(found):
                self._turn(layer, index, torch.from_numpy(positions)[None])
        keep = slice(None) if self._sees_images else kept
        return [{key: _cut(key, value[0].numpy(), keep) for key, value in layer.items()} for layer in found[first:end]]

    def embed(self, ids: Sequence[int]) -> Array:
        """What enters the first layer, [sequence, hidden], for the ids of one sequence."""
        found: list[dict[str, Any]] = [{} for _ in self._layers]
        with self._hooked(found), torch.inference_mode():
            self._model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.int64))
        values: Array = found[0]["layer_input"][0].numpy()
        return values

    def _inputs(self, mask: Array, positions: Array) -> dict[str, Any]:
        if self._sees_images:
            return {"pixel_values": torch.zeros(1, 3, 8, 8, dtype=self._model.dtype)}
        return {
            "input_ids": torch.full((1, len(mask)), 7),
            "attention_mask": torch.from_numpy(mask)[None],
            **({"position_ids": torch.from_numpy(positions)[None]} if self._rotary else {}),
        }

    def _turn(self, layer: dict[str, Any], index: int, positions: torch.Tensor) -> None:
        """What the modules passed on is not turned yet; the model's own functions turn it."""
        size = _head_dim(self._model.config)
        heads = [layer[name].reshape(*layer[name].shape[:2], -1, size) for name in ("query", "key")]
        layer["query_unrotated"], layer["key_unrotated"] = heads
        turn: Any = vars(sys.modules[type(self._model).__module__])["apply_rotary_pos_emb"]
        kind = (self._model.config.layer_types[index],) if self._kind == "modernbert" else ()
        with torch.inference_mode():
            cos, sin = self._rotary(heads[0], positions, *kind)
            layer["query"], layer["key"] = turn(*heads, cos, sin, unsqueeze_dim=2)

    @contextmanager
    def _hooked(
        self, found: list[dict[str, Any]], hidden: torch.Tensor | None = None, first: int = 0
    ) -> Iterator[None]:
        handles = [layer.register_forward_pre_hook(_hide, with_kwargs=True) for layer in self._layers]
        if hidden is not None:
            handles += [self._layers[first].register_forward_pre_hook(lambda _m, args: (hidden, *args[1:]))]
        for layer, probes in zip(self._layers, found, strict=True):
            handles += _watch(
                layer, self._modules, probes, partial(SPLITS.get(self._kind, _thirds), self._model.config)
            )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _hide(_layer: nn.Module, args: tuple[Any, ...], more: dict[str, Any]) -> Any:
    """The mask with float32's minimum.

    Many a float64 model has a softmax of float32, in which float64's minimum becomes -inf, and a row with nothing to
    attend to NaN, which spreads through its value.
    """

    def bound(value: Any) -> Any:
        floats = isinstance(value, torch.Tensor) and value.dtype == torch.float64
        return value.clamp(min=torch.finfo(torch.float32).min) if floats else value

    return (*args[:1], *map(bound, args[1:])), {name: bound(value) for name, value in more.items()}


def _norm_in_float64(norm: Any, inputs: tuple[torch.Tensor], _output: torch.Tensor) -> Any:
    """Gemma's norm without its casts to float32: with four a layer their roundings are as large as what is measured."""
    return norm._norm(inputs[0]) * (1.0 + norm.weight)


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _thirds(_config: Any, packed: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return packed.chunk(3, dim=-1)


def _head_by_head(config: Any, packed: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return packed.reshape(*packed.shape[:2], config.num_attention_heads, 3, -1).unbind(-2)


def _by_size(config: Any, packed: torch.Tensor) -> tuple[torch.Tensor, ...]:
    shared = config.num_key_value_heads * _head_dim(config)
    return packed[..., : -2 * shared], packed[..., -2 * shared : -shared], packed[..., -shared:]


SPLITS = {"gpt_neox": _head_by_head, "phi3": _by_size}  # how queries, keys and values are packed


def _watch(layer: nn.Module, names: tuple[str, ...], probes: dict[str, Any], unpack: Any) -> list[Any]:
    """Hooks that keep what goes in and out of a layer and of its six products."""

    def keep(inside: str, outside: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            whole = output[0] if isinstance(output, tuple) else output
            probes[inside], probes[outside] = inputs[0], whole.chunk(2, dim=-1)[0] if outside == gated else whole

        return hook

    query, key, value, out, up, down = (layer.get_submodule(name) for name in names)
    gated = (
        "ffn_pre_activation" if names[4].endswith(("gate_up_proj", "Wi")) else None
    )  # the gate, and beside it the other
    pairs = [(layer, "layer_input", "layer_output"), (out, "context", "attention_output"),
             (up, "ffn_input", "ffn_pre_activation"), (down, "ffn_post_activation", "ffn_output")]  # fmt: skip
    if query is key:

        def split(_module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
            probes["attention_input"] = inputs[0]
            probes["query"], probes["key"], probes["value"] = unpack(output)

        return [query.register_forward_hook(split), *(m.register_forward_hook(keep(i, o)) for m, i, o in pairs)]
    # The value's hook comes last: what a norm of queries or keys is given is no attention_input.
    pairs += [(module, "attention_input", name) for module, name in ((query, "query"), (key, "key"), (value, "value"))]
    return [module.register_forward_hook(keep(inside, outside)) for module, inside, outside in pairs]


def _cut(name: str, values: Array, keep: Any) -> Array:
    cut: Array = values[:, keep][:, :, keep] if name == "attention_weights" else values[keep]
    return cut


def _ours(probes: Mapping[str, Array], name: str, row: int, keep: Array) -> Array:
    """One of our probes, of one sequence, at the kept positions."""
    if name == "block_output" and name not in probes:
        name = "layer_output"  # no norm comes after it
    return _cut(name, probes[name][row], keep)


Run = Callable[[int, Array, Array], Mapping[str, Array]]  # (layer, hidden_states, attention_mask) → its probes


def chain(run: Run, depth: int, hidden: Array, mask: Array) -> list[Mapping[str, Array]]:
    """The probes of layer after layer, each fed by the one before."""
    answers: list[Mapping[str, Array]] = []
    for index in range(depth):
        answers.append(run(index, hidden, mask))
        hidden = answers[-1]["layer_output"]
    return answers


def make_rows(masks: Sequence[Array], hidden_size: int, seed: int) -> list[Array]:
    """Hidden states for each mask, float32 [sequence, hidden]; zero where it is 0, as the server sends them."""
    generator = np.random.default_rng(seed)
    rows = [generator.standard_normal((len(mask), hidden_size)).astype(np.float32) for mask in masks]
    return [row * mask[:, None].astype(np.float32) for row, mask in zip(rows, masks, strict=True)]


def worst_error(
    oracles: tuple[Oracle, Oracle],
    answers: Sequence[Mapping[str, Array]],
    rows: Sequence[Array],
    masks: Sequence[Array],
    first: int = 0,
) -> float:
    """Holds a batch's probes to the rule, cell by cell, and gives the largest distance from float64.

    Args:
        oracles: transformers in float32 and in float64.
        answers: Ours, a dict a layer.
        rows: What enters layer `first`, a sequence each.
        masks: 1 = attend, a sequence each.
        first: The source's number of the first of these layers.
    """
    worst = 0.0
    for row, (hidden, mask) in enumerate(zip(rows, masks, strict=True)):
        plain, truth = (oracle(hidden, mask, first, first + len(answers)) for oracle in oracles)
        for index, names in enumerate(truth):
            assert names.keys() - {"block_output"} == answers[index].keys() - NOT_PASSED - {"block_output"}
            for name, wanted in names.items():
                ours = _ours(answers[index], name, row, np.flatnonzero(mask))
                error = np.abs(ours - wanted.reshape(ours.shape))
                bound = tolerance(float(np.abs(plain[index][name] - wanted).max(initial=0)), wanted).reshape(ours.shape)
                assert np.all(error <= bound), f"layer {first + index} {name} of {len(mask)} positions, sequence {row}"
                worst = max(worst, float(error.max(initial=0)))
    return worst
