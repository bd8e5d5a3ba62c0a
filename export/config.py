"""What a block and a stack of blocks are made of: frozen values, checked when they are made."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from export.fields import check_fields, refuse_unknown
from export.relative_bias import RelativeBias
from export.rotary import Rotary

Norm = Literal["none", "layer", "rms", "rms_one_plus"]
Placement = Literal["pre", "post", "sandwich"]
Activation = Literal["relu", "gelu", "gelu_tanh", "quick_gelu", "silu"]
FeedForwardKind = Literal["mlp", "glu"]
QueryKeyNorm = Literal["none", "rms"]
Mask = Literal["bidirectional", "causal"]
Parallel = Literal["none", "one_norm", "two_norms"]
# The most that is computed with; the largest models have some hundred layers, and a billion numbers in a matrix.
MAX_LAYERS, _MAX_NUMBERS = 4096, 2**31
# What the state dict of a PyTorch encoder does not tell.
TOLD = ("num_attention_heads", "placement", "hidden_act", "norm_eps", "final_norm_eps")


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockConfig:
    """One transformer block: attention and feed-forward, each with its residual, in Hugging Face's words.

    Attributes:
        hidden_size: D, the width of the residual stream; every tensor between blocks has it.
        num_attention_heads: H, how many attention patterns a block computes side by side.
        num_key_value_heads: How many keys and values these heads share; H in the original, fewer with grouped queries
            (Ainslie et al. 2023, arXiv:2305.13245), where head h attends to key-value head h // (H / this). Divides H.
        head_dim: d_k, the width of a query and a key. Its root scales the scores. D/H in most models, free here.
        value_head_dim: d_v, the width of a value. Free of d_k, because only W_O has to bring H·d_v back to D.
        intermediate_size: F, the width between the feed-forward's two products; usually 4·D.
        norm: "none" is the textbook's bare formulas; "layer" is LayerNorm (Ba et al. 2016); "rms" is RMSNorm, which
            subtracts no mean (Zhang & Sennrich 2019), "rms_one_plus" the same times 1 + weight (Gemma).
        norm_eps: Added to the variance, or the mean square, so that no row divides by zero; 1e-12 in BERT, 1e-5 in
            PyTorch.
        norm_bias: Whether LayerNorm adds a bias; PyTorch's bias=False takes it away, and RMSNorm never has one.
        placement: "post" normalises after each residual sum (Vaswani et al. 2017), "pre" before each part
            (Xiong et al. 2020), "sandwich" before each part and what it gives, before that is added (Ding et al. 2021,
            arXiv:2105.13290; Gemma 2). Without a norm all are the same.
        parallel: "none" gives the feed-forward what attention has added to; else both see the block's own input and
            are added at once: each through its own norm ("two_norms", GPT-NeoX) or both through attention's
            ("one_norm", GPT-J). Pre-norm only.
        attention_norm: Whether attention's norm is there; ModernBERT's first layer, whose embeddings end with a norm,
            has none.
        layer_scale: Whether what each part adds is multiplied by a weight of hidden_size first (Touvron et al. 2021,
            arXiv:2103.17239; DINOv2). The sandwich's norms do that themselves.
        query_bias: Whether W_Q has a bias; like the next four a switch of its own, because families differ in each.
        key_bias: Whether W_K has a bias; Whisper and BEiT leave this one out.
        value_bias: Whether W_V has a bias.
        output_bias: Whether W_O has a bias.
        qk_norm: "rms" normalises each head's query and key by RMSNorm with a weight of d_k, which is the same for all
            heads, and norm_eps; Qwen3 does. "none" in most models.
        rotary: How queries and keys are turned by their positions, after their norm; None where the block knows no
            positions.
        relative_bias: What is added to scores by the distance of key and query, before the mask; None where nothing is.
        ffn: "mlp" is act(x·W_1)·W_2; "glu" gates it: (act(x·W_1) ⊙ x·W_3)·W_2 (Shazeer 2020), SwiGLU with silu.
        ffn_bias: Whether all products of the feed-forward have a bias.
        hidden_act: "relu", "gelu" (exact, by erf), "gelu_tanh" (GPT-2's approximation, 5e-4 away from exact),
            "quick_gelu" (CLIP's, 2e-2 away) or "silu" (x·σ(x), also called swish).
        scale: What q·k is multiplied by; None is 1/√d_k. Gemma 2 has a number of its own.
        softcap: Scores are bent to stay within ± this, by softcap·tanh(score / softcap), before the mask (Gemma 2).
        mask: "bidirectional" lets every position see every other, "causal" only itself and those before it.
        window: Keys that a query sees on a side, itself counted: those with |q - k| < window. Positions are counted as
            sent, hidden ones too. None is all (Beltagy et al. 2020, arXiv:2004.05150).

    Raises:
        ValueError: A size below 1 or above 2^24, sizes of a matrix above 2^31 numbers, an epsilon that is not positive,
            a word outside its list, key-value heads that do not divide the heads, more rotary dims than head_dim, a
            parallel block that is not pre-norm, a layer scale in a sandwich, or buckets that the distances of the mask
            do not fill.
    """

    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    value_head_dim: int
    intermediate_size: int
    norm: Norm = "layer"
    norm_eps: float = 1e-5
    norm_bias: bool = True
    placement: Placement = "pre"
    parallel: Parallel = "none"
    attention_norm: bool = True
    layer_scale: bool = False
    query_bias: bool = True
    key_bias: bool = True
    value_bias: bool = True
    output_bias: bool = True
    qk_norm: QueryKeyNorm = "none"
    rotary: Rotary | None = None
    relative_bias: RelativeBias | None = None
    ffn: FeedForwardKind = "mlp"
    ffn_bias: bool = True
    hidden_act: Activation = "gelu"
    scale: float | None = None
    softcap: float | None = None
    mask: Mask = "bidirectional"
    window: int | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads must divide the {self.num_attention_heads} heads, got {self.num_key_value_heads}"
            )
        if self.parallel != "none" and self.placement != "pre":
            raise ValueError(f"parallel {self.parallel} goes with placement pre, got {self.placement!r}")
        if self.layer_scale and self.placement == "sandwich":
            raise ValueError("layer_scale goes with placement pre or post, got 'sandwich'")
        if self.rotary and self.rotary.dims > self.head_dim:
            raise ValueError(f"rotary.dims must be at most head_dim {self.head_dim}, got {self.rotary.dims}")
        if self.relative_bias:
            self.relative_bias.hold(causal=self.mask == "causal")
        if self._numbers() > _MAX_NUMBERS:
            raise ValueError(f"a block's largest matrix or table must have at most {_MAX_NUMBERS} numbers")

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """A block from JSON's words; what may be left out is derived.

        That is num_key_value_heads (num_attention_heads), head_dim (hidden_size / heads) and value_head_dim (head_dim).

        Raises:
            ValueError: An unknown or missing field, or a value the block cannot have.
        """
        refuse_unknown(cls, fields)
        full = _with_head_sizes(fields)
        if isinstance(rotary := full.get("rotary"), Mapping):
            full["rotary"] = Rotary.from_dict(rotary, full["head_dim"])
        if isinstance(bias := full.get("relative_bias"), Mapping):
            full["relative_bias"] = RelativeBias.from_dict(bias)
        return cls(**full)

    def to_dict(self) -> dict[str, Any]:
        """Every field by its name, as the manifest holds it."""
        return dataclasses.asdict(self)

    def _numbers(self) -> int:
        """Of the largest matrix or table."""
        widest = max(self.num_attention_heads * max(self.head_dim, self.value_head_dim), self.intermediate_size)
        turned = self.rotary.max_position_embeddings * self.rotary.dims if self.rotary else 0
        biased = self.relative_bias.num_buckets * self.num_attention_heads if self.relative_bias else 0
        return max(self.hidden_size * widest, turned, biased)


@dataclass(frozen=True, slots=True, kw_only=True)
class StackConfig:
    """Blocks one after another, and the norm after the last.

    Attributes:
        layers: The blocks in order. They may differ in everything but hidden_size.
        final_norm: The norm of the last block's output where the source has one (pre-norm models do), else "none".
        final_norm_eps: The final norm's own epsilon: some sources differ from their blocks here.
        final_norm_bias: Whether the final norm adds a bias, if it is a LayerNorm.

    Raises:
        ValueError: No layers or more than MAX_LAYERS, layers of different hidden_size, or a value of the wrong kind.
    """

    layers: tuple[BlockConfig, ...]
    final_norm: Norm = "none"
    final_norm_eps: float = 1e-5
    final_norm_bias: bool = True

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("a stack needs at least one layer")
        if len(self.layers) > MAX_LAYERS:
            raise ValueError(f"a stack must have at most {MAX_LAYERS} layers")
        sizes = sorted({layer.hidden_size for layer in self.layers})
        if len(sizes) > 1:
            raise ValueError(f"layers of one stack must share hidden_size, got {sizes}")
        check_fields(self)

    @property
    def hidden_size(self) -> int:
        """D, which all layers share."""
        return self.layers[0].hidden_size

    @property
    def max_position_embeddings(self) -> int | None:
        """Positions that every layer has a rotation for; None where no layer turns anything."""
        return min((layer.rotary.max_position_embeddings for layer in self.layers if layer.rotary), default=None)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """A stack from JSON's words: `layers`, a list of blocks; or one block's fields and `num_layers` (else 1).

        Raises:
            ValueError: An unknown or missing field, or a value the stack cannot have.
        """
        if "layers" not in fields:
            return cls._repeat(fields)
        refuse_unknown(cls, fields)
        layers = fields["layers"]
        if not isinstance(layers, list) or not all(isinstance(layer, Mapping) for layer in layers):
            raise ValueError("layers must be a list of blocks")
        blocks = tuple(BlockConfig.from_dict(layer) for layer in layers)
        return cls(**{**fields, "layers": blocks})

    @classmethod
    def _repeat(cls, fields: Mapping[str, Any]) -> Self:
        own = {field.name for field in dataclasses.fields(cls)}
        count = fields.get("num_layers", 1)
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"num_layers must be an integer of at least 1, got {count!r}")
        if count > MAX_LAYERS:
            raise ValueError(f"num_layers must be an integer of at most {MAX_LAYERS}")
        block = {key: value for key, value in fields.items() if key not in own and key != "num_layers"}
        stack = {key: value for key, value in fields.items() if key in own}
        return cls(layers=(BlockConfig.from_dict(block),) * count, **stack)

    def to_dict(self) -> dict[str, Any]:
        """Every field by its name, as the manifest holds it; layers as a list."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**fields, "layers": [layer.to_dict() for layer in self.layers]}


def divide(hidden_size: object, num_attention_heads: object) -> int:
    """head_dim where a source has no other: hidden_size / num_attention_heads.

    Raises:
        ValueError: They do not divide.
    """
    hidden, heads = hidden_size, num_attention_heads
    if not isinstance(hidden, int) or not isinstance(heads, int) or heads < 1 or hidden % heads:
        raise ValueError(f"hidden_size {hidden} does not divide into {heads} heads")
    return hidden // heads


def _with_head_sizes(fields: Mapping[str, Any]) -> dict[str, Any]:
    missing = [name for name in ("hidden_size", "num_attention_heads", "intermediate_size") if name not in fields]
    if missing:
        raise ValueError(f"a block needs {', '.join(missing)}")
    full = dict(fields)
    if "head_dim" not in full:
        try:
            full["head_dim"] = divide(full["hidden_size"], full["num_attention_heads"])
        except ValueError as error:
            raise ValueError(f"{error}; give head_dim") from error
    full.setdefault("value_head_dim", full["head_dim"])
    full.setdefault("num_key_value_heads", full["num_attention_heads"])
    return full
