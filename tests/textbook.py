"""The textbook's examples as blocks: config and weights in our own names, so that a probe gives the book's numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

EXAMPLES: dict[str, Any] = json.loads((Path(__file__).parent / "chapter_examples.json").read_text(encoding="utf-8"))
ACTIVATIONS = ("relu", "gelu", "gelu_tanh")
NAMES = (
    "textbook-projections",
    "textbook-attention",
    "textbook-feed-forward-relu",
    "textbook-feed-forward-gelu",
    "textbook-feed-forward-gelu-tanh",
    "textbook-multi-head",
)


def textbook_block(name: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """A block's config fields and its weights, float32, [in, out], for one of NAMES.

    projections: read query, key and value at x. attention: feed I₃, read query 0. feed-forward: W_O = 0 keeps the
    stream as it came, read ffn_output at x. multi-head: feed X, read attention_output.
    """
    if name == "textbook-projections":
        example = EXAMPLES["projections"]
        weights = {f"W_{part}": example[f"W_{part}"] for part in "QKV"}
        return _block(4, 1, 3, 2, weights)
    if name == "textbook-attention":
        example = EXAMPLES["attention"]
        queries = [example["q"], [0.0] * 3, [0.0] * 3]
        return _block(3, 1, 3, 2, {"W_Q": queries, "W_K": np.transpose(np.eye(3)) @ example["K"], "W_V": example["V"]})
    if name == "textbook-multi-head":
        example = EXAMPLES["multi_head"]
        weights = {f"W_{part}": np.hstack([example[f"W_{part}{head}"] for head in (1, 2)]) for part in "QKV"}
        return _block(4, 2, 2, 2, {**weights, "W_O": example["W_O"]})
    config, tensors = _block(4, 1, 4, 4, {}, 8)
    config |= {"hidden_act": name.removeprefix("textbook-feed-forward-").replace("-", "_"), "ffn_bias": True}
    example = EXAMPLES["feed_forward"]
    for part in ("W_1", "b_1", "W_2", "b_2"):
        tensors[f"layers.0.feed_forward.{part}"] = np.asarray(example[part], np.float32)
    return config, tensors


def _block(
    hidden: int, heads: int, head_dim: int, value_head_dim: int, weights: dict[str, Any], intermediate: int = 1
) -> tuple[dict[str, Any], dict[str, Array]]:
    config = {
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "head_dim": head_dim,
        "value_head_dim": value_head_dim,
        "intermediate_size": intermediate,
        "norm": "none",
        **dict.fromkeys(("query_bias", "key_bias", "value_bias", "output_bias", "ffn_bias"), False),
    }
    shapes = {
        "attention.W_Q": (hidden, heads * head_dim),
        "attention.W_K": (hidden, heads * head_dim),
        "attention.W_V": (hidden, heads * value_head_dim),
        "attention.W_O": (heads * value_head_dim, hidden),
        "feed_forward.W_1": (hidden, intermediate),
        "feed_forward.W_2": (intermediate, hidden),
    }
    tensors = {f"layers.0.{name}": np.zeros(shape, np.float32) for name, shape in shapes.items()}
    for name, weight in weights.items():
        tensors[f"layers.0.attention.{name}"] = np.ascontiguousarray(weight, np.float32)
    return config, tensors
