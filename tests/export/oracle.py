"""A transformer block in numpy float64, written apart from export/: one head at a time, no torch, no shared code."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def block(config: Any, state: Mapping[str, Array], x: Array, mask: Array) -> dict[str, Array]:
    """Every probe of one sequence: x [sequence, hidden], mask [sequence], 1 = attend; no batch axis anywhere."""

    def weight(name: str) -> Array:
        return np.asarray(state[name], np.float64)

    def affine(rows: Array, part: str, letter: str) -> Array:
        bias = f"{part}.b_{letter}"
        product = rows @ weight(f"{part}.W_{letter}")
        return product + weight(bias) if bias in state else product

    def norm(rows: Array, name: str) -> Array:
        if config.norm == "none":
            return rows
        centred = rows - rows.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + config.norm_eps)
        bias = weight(f"{name}.bias") if f"{name}.bias" in state else 0.0
        return np.asarray(scaled * weight(f"{name}.weight") + bias)

    pre = config.placement == "pre"
    found: dict[str, Array] = {"layer_input": x, "attention_input": norm(x, "attention_norm") if pre else x}
    length, heads = len(x), config.num_attention_heads
    for letter, name, size in (("Q", "query", config.head_dim), ("K", "key", config.head_dim),
                               ("V", "value", config.value_head_dim)):  # fmt: skip
        found[name] = affine(found["attention_input"], "attention", letter).reshape(length, heads, size)
    lowest = float(np.finfo(np.float32).min)
    found["attention_scores"] = np.full((heads, length, length), lowest)
    found["attention_weights"] = np.zeros((heads, length, length))
    for head in range(heads):
        for row in range(length):
            seen = [k for k in range(length) if mask[k] and (config.mask == "bidirectional" or k <= row)]
            scores = found["key"][seen, head] @ found["query"][row, head] / math.sqrt(config.head_dim)
            found["attention_scores"][head, row, seen] = scores
            if seen:
                exponents = np.exp(scores - scores.max())
                found["attention_weights"][head, row, seen] = exponents / exponents.sum()
    found["context"] = np.einsum("hqk,khv->qhv", found["attention_weights"], found["value"])
    found["attention_output"] = affine(found["context"].reshape(length, -1), "attention", "O")
    found["resid_mid"] = x + found["attention_output"]
    found["ffn_input"] = norm(found["resid_mid"], "ffn_norm" if pre else "attention_norm")
    found["ffn_pre_activation"] = affine(found["ffn_input"], "feed_forward", "1")
    found["ffn_post_activation"] = _activate(config.hidden_act, found["ffn_pre_activation"])
    found["ffn_output"] = affine(found["ffn_post_activation"], "feed_forward", "2")
    found["resid_post"] = (found["resid_mid"] if pre else found["ffn_input"]) + found["ffn_output"]
    found["layer_output"] = found["resid_post"] if pre else norm(found["resid_post"], "ffn_norm")
    return found


def _activate(kind: str, x: Array) -> Array:
    if kind == "relu":
        return np.where(x > 0, x, 0.0)
    if kind == "gelu":
        return np.asarray(x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))))
    if kind == "quick_gelu":
        return np.asarray(x / (1 + np.exp(-1.702 * x)))
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
