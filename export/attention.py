"""Multi-head scaled dot-product attention, written as the chapter writes it."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from export.config import BlockConfig
from export.linear import linear, matrix, vector
from export.norm import make_norm
from export.position import bias_by_distance, buckets, rotate, rotations
from export.probes import At, computed

# onnxruntime's CPU product splits sums longer than this in a way that depends on the padded length; chunks of this
# size, added, make an answer the same to the last bit alone and in a batch (docs/decisions/0003-parity.md).
MAX_SUM = 128


class Attention(nn.Module):
    """softmax(q·kᵀ / √d_k)·v for each head, heads concatenated times W_O (Vaswani et al. 2017, section 3.2).

    Heads may share keys and values, queries and keys may have a norm of their own, and scores another scale, a cap and
    a bias by distance.
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        hidden, heads, shared = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
        self.heads, self.key_value_heads, self.rotary = heads, shared, config.rotary
        self.causal, self.window = config.mask == "causal", config.window
        self.scale, self.softcap = config.scale, config.softcap
        self.W_Q = matrix(hidden, heads * config.head_dim)
        self.b_Q = vector(heads * config.head_dim, present=config.query_bias)
        self.W_K = matrix(hidden, shared * config.head_dim)
        self.b_K = vector(shared * config.head_dim, present=config.key_bias)
        self.W_V = matrix(hidden, shared * config.value_head_dim)
        self.b_V = vector(shared * config.value_head_dim, present=config.value_bias)
        self.W_O = matrix(heads * config.value_head_dim, hidden)
        self.b_O = vector(hidden, present=config.output_bias)
        self.query_norm = make_norm(config.qk_norm, config.head_dim, config.norm_eps, bias=False)
        self.key_norm = make_norm(config.qk_norm, config.head_dim, config.norm_eps, bias=False)
        self.relative = config.relative_bias
        self.relative_bias = matrix(self.relative.num_buckets, heads) if self.relative else None
        # Tables are made here, because tensors that a trace makes belong to it.
        if self.rotary:
            rotations(self.rotary, torch.float32)
        if self.relative:
            buckets(self.relative, causal=self.causal)

    def forward(
        self,
        x: Float[Tensor, "batch sequence hidden"],
        attention_mask: Int[Tensor, "batch sequence"],
        position_ids: Int[Tensor, "batch sequence"] | None = None,
        at: At = computed,
    ) -> dict[str, Float[Tensor, "batch _ ..."]]:
        """The probes between attention_input and resid_mid of export/probes.py, in its order.

        Args:
            x: What W_Q, W_K and W_V see, float.
            attention_mask: int64, 1 = attend, 0 = this key is hidden from every query.
            position_ids: int64, by which rotary queries and keys are turned; None: 0, 1, 2 and so on.
            at: What each probe is to be, from its name and what was computed.
        """
        query = self.query_norm(split(linear(x, self.W_Q, self.b_Q), self.heads))
        key = self.key_norm(split(linear(x, self.W_K, self.b_K), self.key_value_heads))
        unrotated = {}
        if self.rotary:
            unrotated = {"query_unrotated": at("query_unrotated", query), "key_unrotated": at("key_unrotated", key)}
            positions = count_up(x) if position_ids is None else position_ids
            query, key = (rotate(tensor, positions, self.rotary) for tensor in unrotated.values())
        query, key = at("query", query), at("key", key)
        value = at("value", split(linear(x, self.W_V, self.b_V), self.key_value_heads))
        allowed = visible(attention_mask, self.window, causal=self.causal)
        # A sum and a product, computed in place; onnxruntime's Where takes three maps more (docs/decisions/0035).
        # The dtype's minimum and not -inf: a row with nothing to attend to stays finite, and no NaN can arise.
        hiding = torch.where(allowed, query.new_zeros(()), torch.finfo(query.dtype).min)
        found = scaled_scores(query, repeat_heads(key, self.heads), self.scale)
        if self.softcap:
            found = torch.tanh(found / self.softcap) * self.softcap
        if self.relative and self.relative_bias is not None:
            found = found + bias_by_distance(self.relative_bias, x.shape[1], self.relative, causal=self.causal)
        scores = at("attention_scores", found + hiding)
        # After that softmax such a row is uniform; it must be all zero, as nothing was attended to.
        weights = at("attention_weights", torch.softmax(scores, dim=-1) * allowed)
        context = at("context", (weights @ repeat_heads(value, self.heads).transpose(1, 2)).transpose(1, 2))
        return {
            **unrotated,
            "query": query,
            "key": key,
            "value": value,
            "attention_scores": scores,
            "attention_weights": weights,
            "context": context,
            "attention_output": at("attention_output", linear(context.flatten(2), self.W_O, self.b_O)),
        }


def count_up(x: Float[Tensor, "batch sequence hidden"]) -> Int[Tensor, "1 sequence"]:
    """Positions where none are given: 0, 1, 2 and so on."""
    return torch.arange(x.shape[1], device=x.device)[None]


def split(x: Float[Tensor, "batch sequence _"], heads: int) -> Float[Tensor, "batch sequence {heads} _"]:
    """The heads that lie side by side in x, each on its own."""
    return x.reshape(*x.shape[:2], heads, -1)


def repeat_heads(x: Float[Tensor, "batch sequence _ size"], heads: int) -> Float[Tensor, "batch sequence {heads} size"]:
    """A key or value for each head: those of one key-value head are for `heads` / key-value heads in a row."""
    shared = x.shape[2]
    if shared == heads:
        return x
    return x[:, :, :, None].expand(-1, -1, -1, heads // shared, -1).flatten(2, 3)


def scaled_scores(
    query: Float[Tensor, "batch sequence head head_dim"],
    key: Float[Tensor, "batch sequence head head_dim"],
    scale: float | None,
) -> Float[Tensor, "batch head sequence sequence"]:
    """q·kᵀ / √d_k (or · scale) for each head: how much each query looks for each key, before the mask."""
    queries, keys = query.transpose(1, 2), key.permute(0, 2, 3, 1)
    head_dim = query.shape[-1]
    products = queries[..., :MAX_SUM] @ keys[..., :MAX_SUM, :]
    for start in range(MAX_SUM, head_dim, MAX_SUM):
        products = products + queries[..., start : start + MAX_SUM] @ keys[..., start : start + MAX_SUM, :]
    return products / math.sqrt(head_dim) if scale is None else products * scale


def visible(
    attention_mask: Int[Tensor, "batch sequence"], window: int | None, *, causal: bool
) -> Bool[Tensor, "batch 1 #sequence sequence"]:
    """Which key (last axis) each query may attend to; one row for all queries where all of them see the same.

    Args:
        attention_mask: int64, 1 = attend.
        window: Keys on a side, the query's own counted; None is all.
        causal: Whether a query sees no key after it.
    """
    allowed: Tensor = (attention_mask != 0)[:, None, None, :]
    position = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    query, key = position[:, None], position[None, :]
    if causal:
        allowed = allowed & (key <= query)
    if window is not None:
        allowed = allowed & (query - key < window)
        if not causal:
            allowed = allowed & (key - query < window)
    return allowed
