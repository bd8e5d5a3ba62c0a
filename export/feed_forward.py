"""The feed-forward network: two products with an activation between, perhaps gated, for each position on its own."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from export.config import Activation, BlockConfig
from export.linear import linear, matrix, vector
from export.probes import At, computed


def quick_gelu(x: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
    """x·σ(1.702·x), the cheap approximation of the same paper, which OpenAI's CLIP was trained with."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu": nn.functional.relu,
    "gelu": nn.functional.gelu,  # x·Φ(x) by erf (Hendrycks & Gimpel 2016, arXiv:1606.08415)
    "gelu_tanh": partial(nn.functional.gelu, approximate="tanh"),
    "quick_gelu": quick_gelu,
    "silu": nn.functional.silu,  # x·σ(x) (Elfwing et al. 2017, arXiv:1702.03118)
}


class FeedForward(nn.Module):
    """act(x·W_1 + b_1)·W_2 + b_2 (Vaswani et al. 2017, section 3.3), or gated: act(…) ⊙ (x·W_3 + b_3) before W_2.

    The gated one: Shazeer 2020 (arXiv:2002.05202); its W_1 is the gate and its W_3 what models call up.
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        hidden, intermediate = config.hidden_size, config.intermediate_size
        self.activation = ACTIVATIONS[config.hidden_act]
        self.W_1 = matrix(hidden, intermediate)
        self.b_1 = vector(intermediate, present=config.ffn_bias)
        gated = config.ffn == "glu"
        self.W_3 = matrix(hidden, intermediate) if gated else None
        self.b_3 = vector(intermediate, present=gated and config.ffn_bias)
        self.W_2 = matrix(intermediate, hidden)
        self.b_2 = vector(hidden, present=config.ffn_bias)

    def forward(
        self, x: Float[Tensor, "batch sequence hidden"], at: At = computed
    ) -> dict[str, Float[Tensor, "batch sequence _"]]:
        """The probes ffn_pre_activation and ffn_post_activation [batch, sequence, intermediate] and ffn_output.

        Gated, the first is the gate and the second what goes into W_2: act(gate) ⊙ up.
        """
        pre = at("ffn_pre_activation", linear(x, self.W_1, self.b_1))
        activated = self.activation(pre)
        post = at("ffn_post_activation", activated if self.W_3 is None else activated * linear(x, self.W_3, self.b_3))
        return {
            "ffn_pre_activation": pre,
            "ffn_post_activation": post,
            "ffn_output": at("ffn_output", linear(post, self.W_2, self.b_2)),
        }
