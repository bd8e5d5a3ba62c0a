"""A transformer block in numpy float64, written apart from export/: one head at a time, no torch, no shared code."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class _Weights:
    """A block's parameters by name, and what is done with them."""

    def __init__(self, config: Any, state: Mapping[str, Array]) -> None:
        self._config = config
        self._state = {name: np.asarray(values, np.float64) for name, values in state.items()}

    def affine(self, rows: Array, part: str, letter: str) -> Array:
        product = rows @ self._state[f"{part}.W_{letter}"]
        return product + self._state.get(f"{part}.b_{letter}", 0.0)

    def norm(self, rows: Array, name: str) -> Array:
        if self._config.norm == "none":
            return rows
        if self._config.norm == "rms":
            return self.rms(rows, name)
        centred = rows - rows.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + self._config.norm_eps)
        return np.asarray(scaled * self._state[f"{name}.weight"] + self._state.get(f"{name}.bias", 0.0))

    def rms(self, rows: Array, name: str) -> Array:
        length = np.linalg.norm(rows, axis=-1, keepdims=True)
        scaled = rows / np.sqrt(length**2 / rows.shape[-1] + self._config.norm_eps)
        return np.asarray(scaled * self._state[f"{name}.weight"])


def block(config: Any, state: Mapping[str, Array], x: Array, mask: Array) -> dict[str, Array]:
    """Every probe of one sequence: x [sequence, hidden], mask [sequence], 1 = attend; no batch axis anywhere."""
    weights, pre = _Weights(config, state), config.placement == "pre"
    found = {"layer_input": x, "attention_input": weights.norm(x, "attention_norm") if pre else x}
    _project(config, weights, found)
    _attend(config, found, mask)
    found["attention_output"] = weights.affine(found["context"].reshape(len(x), -1), "attention", "O")
    found["resid_mid"] = x + found["attention_output"]
    found["ffn_input"] = weights.norm(found["resid_mid"], "ffn_norm" if pre else "attention_norm")
    _feed_forward(config, weights, found)
    found["resid_post"] = (found["resid_mid"] if pre else found["ffn_input"]) + found["ffn_output"]
    found["layer_output"] = found["resid_post"] if pre else weights.norm(found["resid_post"], "ffn_norm")
    return found


def _project(config: Any, weights: _Weights, found: dict[str, Array]) -> None:
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    for name, count, size in (("query", heads, config.head_dim), ("key", shared, config.head_dim),
                              ("value", shared, config.value_head_dim)):  # fmt: skip
        rows = weights.affine(found["attention_input"], "attention", name[0].upper())
        found[name] = rows.reshape(len(rows), count, size)
        if config.qk_norm == "rms" and name != "value":
            found[name] = weights.rms(found[name], f"attention.{name}_norm")


def _attend(config: Any, found: dict[str, Array], mask: Array) -> None:
    length, heads = len(mask), config.num_attention_heads
    lowest = float(np.finfo(np.float32).min)
    found["attention_scores"] = np.full((heads, length, length), lowest)
    found["attention_weights"] = np.zeros((heads, length, length))
    found["context"] = np.zeros((length, heads, config.value_head_dim))
    for head in range(heads):
        shared = head * config.num_key_value_heads // heads
        for row in range(length):
            seen = [k for k in range(length) if mask[k] and (config.mask == "bidirectional" or k <= row)]
            scores = found["key"][seen, shared] @ found["query"][row, head] / math.sqrt(config.head_dim)
            found["attention_scores"][head, row, seen] = scores
            if seen:
                exponents = np.exp(scores - scores.max())
                found["attention_weights"][head, row, seen] = exponents / exponents.sum()
        found["context"][:, head] = found["attention_weights"][head] @ found["value"][:, shared]


def _feed_forward(config: Any, weights: _Weights, found: dict[str, Array]) -> None:
    found["ffn_pre_activation"] = weights.affine(found["ffn_input"], "feed_forward", "1")
    found["ffn_post_activation"] = _activate(config.hidden_act, found["ffn_pre_activation"])
    if config.ffn == "glu":
        found["ffn_post_activation"] *= weights.affine(found["ffn_input"], "feed_forward", "3")
    found["ffn_output"] = weights.affine(found["ffn_post_activation"], "feed_forward", "2")


def _activate(kind: str, x: Array) -> Array:
    if kind == "relu":
        return np.where(x > 0, x, 0.0)
    if kind == "gelu":
        return np.asarray(x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))))
    if kind in {"quick_gelu", "silu"}:
        return np.asarray(x / (1 + np.exp(-(1.702 if kind == "quick_gelu" else 1.0) * x)))
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
