"""The transformer block and a stack of them; every tensor on the way is part of the answer."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from export.attention import Attention
from export.config import BlockConfig, StackConfig
from export.feed_forward import FeedForward
from export.norm import LayerScale, make_norm
from export.probes import At, computed


class TransformerBlock(nn.Module):
    """Attention and feed-forward, each added to the residual stream.

    Normed is what goes into each (pre), that and what comes out of it (sandwich), or the sum (post).

    Sources: Vaswani et al. 2017 (arXiv:1706.03762) for post, Xiong et al. 2020 (arXiv:2002.04745) for pre, Wang and
    Komatsuzaki 2021 (GPT-J) and Black et al. 2022 (arXiv:2204.06745) for parallel.
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.pre, self.parallel = config.placement != "post", config.parallel
        self.attention_norm = _norm(config, present=config.attention_norm)
        self.attention = Attention(config)
        self.after_attention = _addition(config)
        self.ffn_norm = _norm(config, present=config.parallel != "one_norm")
        self.feed_forward = FeedForward(config)
        self.after_ffn = _addition(config)

    def forward(
        self,
        hidden_states: Float[Tensor, "batch sequence hidden"],
        attention_mask: Int[Tensor, "batch sequence"],
        position_ids: Int[Tensor, "batch sequence"] | None = None,
        at: At = computed,
    ) -> dict[str, Float[Tensor, "batch _ ..."]]:
        """Every probe of export/probes.py, in its order; `layer_output` is the block's answer.

        Args:
            hidden_states: What enters the block, float32 (float64 when the block is, for the oracle).
            attention_mask: int64, 1 = attend, 0 = hidden as a key.
            position_ids: int64, for rotary positions; None: 0, 1, 2 and so on, whatever the mask.
            at: What each probe but `layer_input` is to be, from its name and what was computed; what follows sees it.
        """
        attention_input = at("attention_input", self.attention_norm(hidden_states) if self.pre else hidden_states)
        attention = self.attention(attention_input, attention_mask, position_ids, at)
        found = {"layer_input": hidden_states, "attention_input": attention_input, **attention}
        stream = hidden_states + self.after_attention(attention["attention_output"])
        if self.parallel == "none":
            stream = found["resid_mid"] = at("resid_mid", stream)
            ffn_input = at("ffn_input", self.ffn_norm(stream) if self.pre else self.attention_norm(stream))
        else:
            own = attention_input if self.parallel == "one_norm" else hidden_states
            ffn_input = at("ffn_input", self.ffn_norm(own))
        ffn = self.feed_forward(ffn_input, at)
        # Post-norm's residual stream is the normed one: its norm stands on the stream, not beside it.
        resid_post = at("resid_post", (stream if self.pre else ffn_input) + self.after_ffn(ffn["ffn_output"]))
        layer_output = at("layer_output", resid_post if self.pre else self.ffn_norm(resid_post))
        return {**found, "ffn_input": ffn_input, **ffn, "resid_post": resid_post, "layer_output": layer_output}


def _norm(config: BlockConfig, *, present: bool = True) -> nn.Module:
    return make_norm(config.norm if present else "none", config.hidden_size, config.norm_eps, bias=config.norm_bias)


def _addition(config: BlockConfig) -> nn.Module:
    """From what a part gives to what is added to the stream."""
    return (
        LayerScale(config.hidden_size) if config.layer_scale else _norm(config, present=config.placement == "sandwich")
    )


class Stack(nn.Module):
    """Blocks one after another, then the final norm if there is one."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(TransformerBlock(layer) for layer in config.layers)
        self.final_norm = make_norm(
            config.final_norm, config.hidden_size, config.final_norm_eps, bias=config.final_norm_bias
        )

    def forward(
        self,
        hidden_states: Float[Tensor, "batch sequence hidden"],
        attention_mask: Int[Tensor, "batch sequence"],
        position_ids: Int[Tensor, "batch sequence"] | None = None,
    ) -> Float[Tensor, "batch sequence hidden"]:
        """block_output: the last layer's output, after the final norm; arguments as the block's."""
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask, position_ids)["layer_output"]
        block_output: Tensor = self.final_norm(hidden_states)
        return block_output


class FinalLayer(nn.Module):
    """A stack's last block together with the final norm: all its probes, and block_output after them."""

    def __init__(self, block: nn.Module, final_norm: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.final_norm = final_norm

    def forward(
        self,
        hidden_states: Float[Tensor, "batch sequence hidden"],
        attention_mask: Int[Tensor, "batch sequence"],
        position_ids: Int[Tensor, "batch sequence"] | None = None,
        at: At = computed,
    ) -> dict[str, Float[Tensor, "batch _ ..."]]:
        """The block's probes in their order, then block_output [batch, sequence, hidden]; arguments as the block's."""
        probes = self.block(hidden_states, attention_mask, position_ids, at)
        return {**probes, "block_output": self.final_norm(probes["layer_output"])}
