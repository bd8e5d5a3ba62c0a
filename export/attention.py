"""Multi-head scaled dot-product attention, written as the chapter writes it."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from export.config import BlockConfig, Mask
from export.linear import linear, matrix, vector
from export.probes import At, computed

# onnxruntime's CPU product splits sums longer than this in a way that depends on the padded length; chunks of this
# size, added, make an answer the same to the last bit alone and in a batch (docs/decisions/0003-parity.md).
MAX_SUM = 128


class Attention(nn.Module):
    """softmax(q·kᵀ / √d_k)·v for each head, heads concatenated times W_O (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        hidden, heads = config.hidden_size, config.num_attention_heads
        self.heads, self.mask = heads, config.mask
        self.W_Q = matrix(hidden, heads * config.head_dim)
        self.b_Q = vector(heads * config.head_dim, present=config.query_bias)
        self.W_K = matrix(hidden, heads * config.head_dim)
        self.b_K = vector(heads * config.head_dim, present=config.key_bias)
        self.W_V = matrix(hidden, heads * config.value_head_dim)
        self.b_V = vector(heads * config.value_head_dim, present=config.value_bias)
        self.W_O = matrix(heads * config.value_head_dim, hidden)
        self.b_O = vector(hidden, present=config.output_bias)

    def forward(
        self,
        x: Float[Tensor, "batch sequence hidden"],
        attention_mask: Int[Tensor, "batch sequence"],
        at: At = computed,
    ) -> dict[str, Float[Tensor, "batch _ ..."]]:
        """The probes query to attention_output of export/probes.py, in its order.

        Args:
            x: What W_Q, W_K and W_V see, float.
            attention_mask: int64, 1 = attend, 0 = this key is hidden from every query.
            at: What each probe is to be, from its name and what was computed.
        """
        query = at("query", self._split(linear(x, self.W_Q, self.b_Q)))
        key = at("key", self._split(linear(x, self.W_K, self.b_K)))
        value = at("value", self._split(linear(x, self.W_V, self.b_V)))
        allowed = visible(attention_mask, self.mask)
        # A sum and a product, computed in place; onnxruntime's Where takes three maps more (docs/decisions/0035).
        # The dtype's minimum and not -inf: a row with nothing to attend to stays finite, and no NaN can arise.
        hiding = torch.where(allowed, query.new_zeros(()), torch.finfo(query.dtype).min)
        scores = at("attention_scores", scaled_scores(query, key) + hiding)
        # After that softmax such a row is uniform; it must be all zero, as nothing was attended to.
        weights = at("attention_weights", torch.softmax(scores, dim=-1) * allowed)
        context = at("context", (weights @ value.transpose(1, 2)).transpose(1, 2))
        return {
            "query": query,
            "key": key,
            "value": value,
            "attention_scores": scores,
            "attention_weights": weights,
            "context": context,
            "attention_output": at("attention_output", linear(context.flatten(2), self.W_O, self.b_O)),
        }

    def _split(self, x: Float[Tensor, "batch sequence _"]) -> Float[Tensor, "batch sequence head _"]:
        return x.reshape(*x.shape[:2], self.heads, -1)


def scaled_scores(
    query: Float[Tensor, "batch sequence head head_dim"], key: Float[Tensor, "batch sequence head head_dim"]
) -> Float[Tensor, "batch head sequence sequence"]:
    """q·kᵀ / √d_k for each head: how much each query looks for each key, before the mask."""
    queries, keys = query.transpose(1, 2), key.permute(0, 2, 3, 1)
    head_dim = query.shape[-1]
    products = queries[..., :MAX_SUM] @ keys[..., :MAX_SUM, :]
    for start in range(MAX_SUM, head_dim, MAX_SUM):
        products = products + queries[..., start : start + MAX_SUM] @ keys[..., start : start + MAX_SUM, :]
    return products / math.sqrt(head_dim)


def visible(attention_mask: Int[Tensor, "batch sequence"], mask: Mask) -> Bool[Tensor, "batch 1 #sequence sequence"]:
    """Which key (last axis) each query may attend to; one row for all queries where the mask is bidirectional."""
    allowed: Tensor = (attention_mask != 0)[:, None, None, :]
    if mask == "causal":
        position = torch.arange(attention_mask.shape[1], device=attention_mask.device)
        allowed = allowed & (position[None, :] <= position[:, None])
    return allowed
