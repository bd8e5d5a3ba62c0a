"""What TransformerLens's hooks hold in a small pre-norm model, and its weights in our names, written into a folder.

block.json and weights.safetensors are for source `glassblock`: [in, out], heads side by side. hooks.npz has each hook
of each block, without the batch's axis; and for each intervention of changes.json, changed by a hook, what leaves each
block and its patterns, as NUMBER/NAME.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformer_lens import HookedTransformer, HookedTransformerConfig

LAYERS, HIDDEN, HEADS, HEAD_DIM, WIDE = 2, 32, 4, 8, 64
PLACES = {
    "attention_norm.weight": "ln1.w", "attention_norm.bias": "ln1.b",
    "ffn_norm.weight": "ln2.w", "ffn_norm.bias": "ln2.b",
    "feed_forward.W_1": "mlp.W_in", "feed_forward.b_1": "mlp.b_in",
    "feed_forward.W_2": "mlp.W_out", "feed_forward.b_2": "mlp.b_out",
    "attention.b_O": "attn.b_O",
}  # fmt: skip


def make_model() -> HookedTransformer:
    """Weights by seed, every bias and norm among them, and no processing of them."""
    config = HookedTransformerConfig(
        n_layers=LAYERS, d_model=HIDDEN, n_ctx=16, d_head=HEAD_DIM, n_heads=HEADS, d_mlp=WIDE, d_vocab=11,
        act_fn="gelu", normalization_type="LN", attention_dir="bidirectional", seed=3,
    )  # fmt: skip
    model = HookedTransformer(config)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 1 + 0.1 * noise if name.endswith(".w") else noise / (6 if parameter.ndim > 1 else 10)
    return model.eval()


def our_weights(model: HookedTransformer) -> dict[str, torch.Tensor]:
    """The blocks' weights under the names of export/block.py."""
    theirs, ours = model.state_dict(), {}
    for layer in range(LAYERS):
        block = f"blocks.{layer}."
        for name, place in PLACES.items():
            ours[f"layers.{layer}.{name}"] = theirs[block + place]
        for part in "QKV":
            weight = theirs[f"{block}attn.W_{part}"]  # [head, hidden, head_dim]
            ours[f"layers.{layer}.attention.W_{part}"] = weight.permute(1, 0, 2).reshape(HIDDEN, -1)
            ours[f"layers.{layer}.attention.b_{part}"] = theirs[f"{block}attn.b_{part}"].reshape(-1)
        ours[f"layers.{layer}.attention.W_O"] = theirs[f"{block}attn.W_O"].reshape(-1, HIDDEN)
    return {name: tensor.detach().contiguous().clone() for name, tensor in ours.items()}


def index_of(text: str) -> tuple[int | slice, ...]:
    """Integers and slices as numpy's index."""
    parts = [[int(part) if part else None for part in item.split(":")] for item in text.split(",")]
    return tuple(slice(*part) if len(part) > 1 else part[0] for part in parts)  # type: ignore[misc]


def change(address: str, verb: str, value: Any) -> tuple[str, Callable[..., torch.Tensor]]:
    """A hook's name, and the function that run_with_hooks calls there."""
    name, _, cut = address.rstrip("]").partition("[")
    place, operand = (0, *index_of(cut)), torch.tensor(value)

    def hook(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
        tensor[place] = {"scale": tensor[place] * operand, "add": tensor[place] + operand, "set": operand}[verb]
        return tensor

    return name, hook


def changed(model: HookedTransformer, tokens: torch.Tensor, interventions: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What leaves each block, and its patterns, with these changes on the way."""
    changes = [
        change(address, verb, value) for address, verbs in interventions.items() for verb, value in verbs.items()
    ]
    names = [f"blocks.{layer}.{hook}" for layer in range(LAYERS) for hook in ("hook_resid_post", "attn.hook_pattern")]
    found: dict[str, torch.Tensor] = {}

    def keep(tensor: torch.Tensor, hook: Any) -> None:
        found[hook.name] = tensor[0].clone()

    model.run_with_hooks(tokens, fwd_hooks=[*changes, *((name, keep) for name in names)])
    return found


def main(folder: Path) -> None:
    """Runs the model once on nine tokens."""
    torch.set_num_threads(1)  # of so small tensors, more only wait for each other
    model = make_model()
    config = {
        "hidden_size": HIDDEN, "num_attention_heads": HEADS, "intermediate_size": WIDE, "num_layers": LAYERS,
        "norm": "layer", "norm_eps": model.cfg.eps, "placement": "pre", "hidden_act": "gelu",
    }  # fmt: skip
    (folder / "block.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(our_weights(model), folder / "weights.safetensors")
    tokens = torch.tensor([[1, 7, 3, 3, 10, 0, 5, 2, 9]])
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, remove_batch_dim=True)
        found = {name: cache[name] for name in cache if name.startswith("blocks.")}
        for number, interventions in enumerate(json.loads((folder / "changes.json").read_text(encoding="utf-8"))):
            after = changed(model, tokens, interventions)
            found |= {f"{number}/{name}": tensor for name, tensor in after.items()}
    np.savez(folder / "hooks.npz", **{name: tensor.numpy() for name, tensor in found.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
