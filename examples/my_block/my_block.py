"""A block of one's own: plain PyTorch, nothing of Glassblock in it.

Export it from this folder:

    glassblock-export my_block:MyBlock --source module --name my-block --weights my_block.safetensors \
        --arguments my_block.json
"""

import torch
from torch import Tensor, nn


class MyBlock(nn.Module):
    """Self-attention with a gate, and a feed-forward; what it returns beside block_output can be asked for by name."""

    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.heads = heads
        self.norm = nn.LayerNorm(hidden_size)
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.gate = nn.Linear(hidden_size, heads)
        self.out = nn.Linear(hidden_size, hidden_size)
        self.mlp = nn.Sequential(
            nn.Linear(hidden_size, 2 * hidden_size), nn.SiLU(), nn.Linear(2 * hidden_size, hidden_size)
        )

    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """hidden_states float32 [batch, sequence, hidden]; attention_mask int64 [batch, sequence], 1 = attend."""
        batch, length, hidden = hidden_states.shape
        normed = self.norm(hidden_states)
        query, key, value = self.qkv(normed).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-1, -2) / (hidden // self.heads) ** 0.5
        hidden_key = attention_mask[:, None, None, :] == 0
        # The second fill is for a sequence that is masked as a whole: attending to nothing, not evenly to padding.
        weights = scores.masked_fill(hidden_key, -1e9).softmax(-1).masked_fill(hidden_key, 0.0)
        gate = torch.sigmoid(self.gate(normed))
        context = (weights @ value).transpose(1, 2) * gate[..., None]
        middle = hidden_states + self.out(context.reshape(batch, length, hidden))
        return {"block_output": middle + self.mlp(middle), "attention_weights": weights, "gate": gate}
