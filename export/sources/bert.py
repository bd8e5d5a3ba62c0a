"""Source `bert`: a Hugging Face folder with config.json and model.safetensors, any range of layers, the text front."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor, nn

from export import ExportError
from export.block import Stack
from export.config import Activation, BlockConfig, StackConfig, divide
from export.linear import matrix
from export.norm import LayerNorm
from export.place import file_sha256
from export.sources import Source, TextFront, parse_layers
from export.sources.layers import stack_layers
from export.sources.weights import Weights

# Hugging Face's names of activations, and ours. Its "gelu" is the exact one.
_ACTIVATIONS: dict[str, Activation] = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
# Keys that change the mathematics, each with the only value that BERT's plain encoder block has.
_ONLY = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "pruned_heads": {},
    "quantization_config": None,
}
_SIZES = ("hidden_size", "num_attention_heads", "intermediate_size", "num_hidden_layers")
_TEXT_SIZES = ("vocab_size", "max_position_embeddings", "type_vocab_size")
_COUNTERS = ("position_ids", "token_type_ids")  # 0, 1, 2, … and zeros, which transformers once stored
# Ours ← Hugging Face's; nn.Linear stores [out, in], which is turned round on the way.
_LAYER = {
    "attention.W_Q": "attention.self.query.weight",
    "attention.b_Q": "attention.self.query.bias",
    "attention.W_K": "attention.self.key.weight",
    "attention.b_K": "attention.self.key.bias",
    "attention.W_V": "attention.self.value.weight",
    "attention.b_V": "attention.self.value.bias",
    "attention.W_O": "attention.output.dense.weight",
    "attention.b_O": "attention.output.dense.bias",
    "attention_norm.weight": "attention.output.LayerNorm.weight",
    "attention_norm.bias": "attention.output.LayerNorm.bias",
    "feed_forward.W_1": "intermediate.dense.weight",
    "feed_forward.b_1": "intermediate.dense.bias",
    "feed_forward.W_2": "output.dense.weight",
    "feed_forward.b_2": "output.dense.bias",
    "ffn_norm.weight": "output.LayerNorm.weight",
    "ffn_norm.bias": "output.LayerNorm.bias",
}


class Embeddings(nn.Module):
    """LayerNorm(word + token type 0 + position 0 … S-1) (Devlin et al. 2018), as transformers' BertEmbeddings adds."""

    def __init__(self, vocab_size: int, max_tokens: int, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.word = matrix(vocab_size, hidden_size)
        self.position = matrix(max_tokens, hidden_size)
        self.token_type = matrix(2, hidden_size)
        self.norm = LayerNorm(hidden_size, eps, bias=True)

    def forward(self, input_ids: Int[Tensor, "batch sequence"]) -> Float[Tensor, "batch sequence hidden"]:
        """hidden_states for the first layer; input_ids int64, 0 … vocab_size - 1."""
        position = torch.arange(input_ids.shape[1], device=input_ids.device)
        words = nn.functional.embedding(input_ids, self.word) + self.token_type[0]
        hidden: Tensor = self.norm(words + nn.functional.embedding(position, self.position))
        return hidden


def load(folder: Path, layers: str | None = None, reference: str | None = None) -> Source:
    """The layers FIRST:END of a BERT folder; with the text front where they begin at 0 and tokenizer.json is there.

    Raises:
        ExportError: A file or tensor is missing, the folder is no BERT, or its config asks for what we do not compute.
    """
    config = _read_config(folder / "config.json")
    first, end = parse_layers(layers, config["num_hidden_layers"])
    stack_config = StackConfig(layers=(_block_config(folder / "config.json", config),) * (end - first))
    stack = Stack(stack_config)
    text: TextFront | None = None
    with Weights(folder / "model.safetensors") as weights:
        prefix = "bert." if any(name.startswith("bert.") for name in weights.names) else ""
        stack.load_state_dict(_layer_tensors(weights, prefix, stack, first), assign=True)
        if first == 0 and (folder / "tokenizer.json").is_file():
            text = _text_front(weights, prefix, config, folder)
        _refuse_unread(weights, prefix, range(first, end), with_text=text is not None)
    stack.requires_grad_(requires_grad=False).eval()
    read = ["config.json", "model.safetensors", *(["tokenizer.json"] if text else [])]
    return Source(
        kind="bert",
        reference=reference or str(config.get("_name_or_path") or folder.resolve().name),
        model=stack,
        layers=stack_layers(stack, first),
        hidden_size=stack_config.hidden_size,
        config=stack_config,
        files={name: file_sha256(folder / name) for name in read},
        text=text,
    )


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ExportError(f"there is no file {path}") from error
    except ValueError as error:
        raise ExportError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ExportError(f"{path} must hold one JSON object")
    family = config.get("model_type")
    if family != "bert":
        raise ExportError(f"{path}: model_type is {family!r}, and this source reads 'bert' alone")
    if config.get("auto_map"):
        raise ExportError(f"{path}: auto_map names the model's own code, and code that comes with a model is never run")
    for key, only in _ONLY.items():
        if config.get(key, only) not in (only, None):
            raise ExportError(f"{path}: {key} is {config[key]!r}, and only {only!r} is supported")
    act = config.get("hidden_act", "gelu")
    if not isinstance(act, str) or act not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise ExportError(f"{path}: hidden_act is {act!r}, and only {known} are supported")
    _hold_sizes(path, config, _SIZES)
    return config


def _hold_sizes(path: Path, config: Mapping[str, Any], keys: Sequence[str]) -> None:
    for key in keys:
        size = config.get(key)
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ExportError(f"{path}: {key} must be an integer of at least 1, got {size!r}")


def _block_config(path: Path, config: Mapping[str, Any]) -> BlockConfig:
    fields = {key: config[key] for key in ("hidden_size", "num_attention_heads", "intermediate_size")}
    try:
        return BlockConfig.from_dict(
            {
                **fields,
                "head_dim": divide(config["hidden_size"], config["num_attention_heads"]),
                "norm_eps": config.get("layer_norm_eps", 1e-12),
                "placement": "post",
                "hidden_act": _ACTIVATIONS[config.get("hidden_act", "gelu")],
            }
        )
    except ValueError as error:
        raise ExportError(f"{path}: {error}") from error


def _layer_tensors(weights: Weights, prefix: str, stack: Stack, first: int) -> dict[str, Tensor]:
    tensors = {}
    for name, unset in stack.state_dict().items():
        _, index, own = name.split(".", 2)
        theirs = f"{prefix}encoder.layer.{first + int(index)}.{_LAYER[own]}"
        tensors[name] = weights.take(theirs, tuple(reversed(unset.shape))).t().contiguous()
    return tensors


def _refuse_unread(weights: Weights, prefix: str, layers: range, *, with_text: bool) -> None:
    """A tensor of the exported parts that was not read would be mathematics left out."""
    parts = [f"{prefix}encoder.layer.{layer}." for layer in layers]
    counters = {f"{prefix}embeddings.{name}" for name in _COUNTERS}
    if with_text:
        parts.append(f"{prefix}embeddings.")
    for name in weights.unread:
        if name.startswith(tuple(parts)) and name not in counters:
            raise ExportError(f"{weights.path}: {name} would be left out; BERT's plain encoder has no such tensor")


def _text_front(weights: Weights, prefix: str, config: Mapping[str, Any], folder: Path) -> TextFront:
    _hold_sizes(folder / "config.json", config, _TEXT_SIZES)
    _hold_tokenizer(folder / "tokenizer.json", config["vocab_size"])
    hidden = config["hidden_size"]
    sizes = {"word": "vocab_size", "position": "max_position_embeddings", "token_type": "type_vocab_size"}
    shapes = {ours: (config[key], hidden) for ours, key in sizes.items()}
    vocab_size, max_tokens = shapes["word"][0], shapes["position"][0]
    embeddings = Embeddings(vocab_size, max_tokens, hidden, config.get("layer_norm_eps", 1e-12))
    tensors = {
        ours: weights.take(f"{prefix}embeddings.{ours}_embeddings.weight", shape) for ours, shape in shapes.items()
    }
    for part in ("weight", "bias"):
        tensors[f"norm.{part}"] = weights.take(f"{prefix}embeddings.LayerNorm.{part}", (hidden,))
    # assign alone keeps shapes that differ: token types may be more or fewer than two.
    embeddings.token_type = matrix(*shapes["token_type"])
    embeddings.load_state_dict(tensors, assign=True)
    embeddings.requires_grad_(requires_grad=False).eval()
    return TextFront(folder / "tokenizer.json", embeddings, vocab_size, max_tokens)


def _hold_tokenizer(path: Path, vocab_size: int) -> None:
    """Every token must have an embedding."""
    try:
        vocabulary = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    except Exception as error:  # tokenizers raises nothing more special
        raise ExportError(f"{path} is not a tokenizer: {error}") from error
    token, last = max(vocabulary.items(), key=lambda entry: entry[1], default=("", -1))
    if last >= vocab_size:
        raise ExportError(f"{path}: token {token!r} has id {last}, and config.json has a vocab_size of {vocab_size}")
