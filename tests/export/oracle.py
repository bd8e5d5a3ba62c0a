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
        if self._config.norm == "none" or (name == "attention_norm" and not self._config.attention_norm):
            return rows
        if self._config.norm.startswith("rms"):
            return self.rms(rows, name, 1.0 if self._config.norm == "rms_one_plus" else 0.0)
        centred = rows - rows.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + self._config.norm_eps)
        return np.asarray(scaled * self._state[f"{name}.weight"] + self._state.get(f"{name}.bias", 0.0))

    def rms(self, rows: Array, name: str, plus: float = 0.0) -> Array:
        length = np.linalg.norm(rows, axis=-1, keepdims=True)
        scaled = rows / np.sqrt(length**2 / rows.shape[-1] + self._config.norm_eps)
        return np.asarray(scaled * (plus + self._state[f"{name}.weight"]))

    def bias(self, bucket: int, head: int) -> float:
        return float(self._state["attention.relative_bias"][bucket, head])

    def added(self, rows: Array, part: str) -> Array:
        """What a part adds to the stream, from what it gives."""
        if self._config.layer_scale:
            return np.asarray(rows * self._state[f"after_{part}.weight"])
        return self.norm(rows, f"after_{part}") if self._config.placement == "sandwich" else rows


def block(config: Any, state: Mapping[str, Array], x: Array, mask: Array, positions: Array) -> dict[str, Array]:
    """Every probe of one sequence: x [sequence, hidden], mask (1 = attend) and positions [sequence]; no batch axis."""
    weights, pre = _Weights(config, state), config.placement != "post"
    found = {"layer_input": x, "attention_input": weights.norm(x, "attention_norm") if pre else x}
    _project(config, weights, found, positions)
    _attend(config, weights, found, mask)
    found["attention_output"] = weights.affine(found["context"].reshape(len(x), -1), "attention", "O")
    stream = x + weights.added(found["attention_output"], "attention")
    if config.parallel == "none":
        found["resid_mid"] = stream
        found["ffn_input"] = weights.norm(stream, "ffn_norm" if pre else "attention_norm")
    else:
        found["ffn_input"] = weights.norm(x, "ffn_norm" if config.parallel == "two_norms" else "attention_norm")
    _feed_forward(config, weights, found)
    found["resid_post"] = (stream if pre else found["ffn_input"]) + weights.added(found["ffn_output"], "ffn")
    found["layer_output"] = found["resid_post"] if pre else weights.norm(found["resid_post"], "ffn_norm")
    return found


def _project(config: Any, weights: _Weights, found: dict[str, Array], positions: Array) -> None:
    rows = found["attention_input"]
    query, key, value = (weights.affine(rows, "attention", letter) for letter in "QKV")
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    found["query"] = query.reshape(len(rows), heads, config.head_dim)
    found["key"] = key.reshape(len(rows), shared, config.head_dim)
    if config.qk_norm == "rms":
        found |= {name: weights.rms(found[name], f"attention.{name}_norm") for name in ("query", "key")}
    if config.rotary:
        for name in ("query", "key"):
            found[f"{name}_unrotated"] = found.pop(name)
        for name in ("query", "key"):
            found[name] = np.stack(
                [_turn(config.rotary, *one) for one in zip(found[f"{name}_unrotated"], positions, strict=True)]
            )
    found["value"] = value.reshape(len(rows), shared, config.value_head_dim)


def _turn(rotary: Any, heads: Array, position: int) -> Array:
    """One position's heads [head, head_dim], each pair a complex number that is multiplied by e^(i·angle)."""
    frequencies = np.array([_frequency(rotary, pair) for pair in range(rotary.dims // 2)], np.float32)
    turns = np.exp(1j * (np.float32(position) * frequencies).astype(np.float64))
    left, right = np.arange(rotary.dims).reshape(2, -1)  # number i with i + dims/2
    if rotary.pairs == "interleaved":
        left, right = left * 2, left * 2 + 1
    turned, answer = (heads[:, left] + 1j * heads[:, right]) * turns, heads.copy()
    answer[:, left], answer[:, right] = turned.real, turned.imag
    return answer


def _frequency(rotary: Any, pair: int) -> float:
    plain = rotary.theta ** (-2 * pair / rotary.dims)
    if rotary.scaling == "none":
        return float(plain)
    if rotary.scaling == "linear":
        return float(plain / rotary.factor)
    turns = rotary.original_max_position_embeddings * plain / (2 * math.pi)  # in the original length
    share = np.clip((turns - rotary.low_freq_factor) / (rotary.high_freq_factor - rotary.low_freq_factor), 0, 1)
    return float(share * plain + (1 - share) * plain / rotary.factor)


def _attend(config: Any, weights: _Weights, found: dict[str, Array], mask: Array) -> None:
    length, heads = len(mask), config.num_attention_heads
    lowest = float(np.finfo(np.float32).min)
    found["attention_scores"] = np.full((heads, length, length), lowest)
    found["attention_weights"] = np.zeros((heads, length, length))
    found["context"] = np.zeros((length, heads, config.value_head_dim))
    for head in range(heads):
        shared = head * config.num_key_value_heads // heads
        for row in range(length):
            seen = [key for key in _near(config, row, length) if mask[key]]
            scores = found["key"][seen, shared] @ found["query"][row, head] * (config.scale or config.head_dim**-0.5)
            if config.softcap:
                scores = config.softcap * np.tanh(scores / config.softcap)
            if config.relative_bias:
                scores = scores + [weights.bias(_bucket(config, key - row), head) for key in seen]
            found["attention_scores"][head, row, seen] = scores
            if seen:
                exponents = np.exp(scores - scores.max())
                found["attention_weights"][head, row, seen] = exponents / exponents.sum()
        found["context"][:, head] = found["attention_weights"][head] @ found["value"][:, shared]


def _bucket(config: Any, distance: int) -> int:
    """By whole numbers: bucket exact + k begins where (distance / exact)^n is (farthest / exact)^k, of n such buckets.

    The buckets of the keys after the query come last.
    """
    bias, causal = config.relative_bias, config.mask == "causal"
    side = bias.num_buckets if causal else bias.num_buckets // 2
    exact, away = side // 2, abs(distance)
    wide = side - exact
    starts = [bias.max_distance**k * exact**wide for k in range(wide)]
    bucket = away if away < exact else exact + sum(away**wide * exact**k >= start for k, start in enumerate(starts)) - 1
    return bucket + (side if distance > 0 else 0)


def _near(config: Any, row: int, length: int) -> range:
    """The keys that a query would see if none were hidden."""
    reach = length if config.window is None else config.window - 1
    return range(max(0, row - reach), (row if config.mask == "causal" else min(length - 1, row + reach)) + 1)


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
