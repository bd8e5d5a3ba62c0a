"""From ids to hidden states: the embeddings of a family that has them, and the tokenizer that goes with them."""

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor, nn

from export import ExportError
from export.linear import linear, matrix, vector
from export.norm import LayerNorm
from export.sources import TextFront
from export.sources.family import Text

Take = Callable[[str, tuple[int, ...]], Tensor]


class Embeddings(nn.Module):
    """word + token type 0 + position, then norm and projection: what a family has of them, in transformers' order.

    Sources: Devlin et al. 2018 (BERT), Liu et al. 2019 (RoBERTa's positions), Clark et al. 2020 (ELECTRA's projection).
    """

    def __init__(self, text: Text, hidden_size: int, eps: float) -> None:
        super().__init__()
        width = text.width or hidden_size
        self.padding, self.scale = text.padding, text.scale
        self.word = matrix(text.vocab_size, width)
        self.position = matrix(text.positions, width) if text.position and text.positions else None
        self.token_type = matrix(text.token_types, width) if text.token_type else None
        self.norm = LayerNorm(width, eps, bias=text.norm_bias) if text.norm else nn.Identity()
        self.projection = matrix(width, hidden_size) if text.projection else None
        self.projection_bias = vector(hidden_size, present=text.projection is not None)

    def forward(self, input_ids: Int[Tensor, "batch sequence"]) -> Float[Tensor, "batch sequence hidden"]:
        """hidden_states for the first layer; input_ids int64, 0 … vocab_size - 1."""
        words = nn.functional.embedding(input_ids, self.word)
        if self.scale != 1.0:
            words = words * self.scale
        if self.token_type is not None:
            words = words + self.token_type[0]
        if self.position is not None:
            words = words + nn.functional.embedding(self._positions(input_ids), self.position)
        hidden: Tensor = self.norm(words)
        return hidden if self.projection is None else linear(hidden, self.projection, self.projection_bias)

    def _positions(self, input_ids: Int[Tensor, "batch sequence"]) -> Int[Tensor, "#batch sequence"]:
        if self.padding is None:
            return torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        seen = (input_ids != self.padding).to(torch.int64)
        return torch.cumsum(seen, dim=1) * seen + self.padding


def make_text_front(text: Text, tokenizer: Path, take: Take, hidden_size: int, eps: float) -> TextFront:
    """The embeddings of a folder with their weights.

    Args:
        text: The family's tensors and sizes.
        tokenizer: tokenizer.json.
        take: From a name without prefix and the shape that is expected there to the tensor.
        hidden_size: Width of hidden_states.
        eps: The norm's epsilon.

    Raises:
        ExportError: A tensor is missing or has another shape, or a token has no embedding.
    """
    _hold_tokenizer(tokenizer, text.vocab_size)
    with torch.device("meta"):  # no memory for what the files turn out not to have
        embeddings = Embeddings(text, hidden_size, eps)
    shapes = {name: tuple(tensor.shape) for name, tensor in embeddings.state_dict().items()}
    tensors = {name: _take(text, take, name, shape) for name, shape in shapes.items()}
    embeddings.load_state_dict(tensors, assign=True)
    embeddings.requires_grad_(requires_grad=False).eval()
    return TextFront(tokenizer, embeddings, text.vocab_size, text.max_tokens)


def _take(text: Text, take: Take, name: str, shape: tuple[int, ...]) -> Tensor:
    if name == "projection":
        return take(f"{text.projection}.weight", shape[::-1]).t().contiguous()
    theirs = {
        "word": text.word,
        "position": text.position,
        "token_type": text.token_type,
        "norm.weight": f"{text.norm}.weight",
        "norm.bias": f"{text.norm}.bias",
        "projection_bias": f"{text.projection}.bias",
    }
    return take(str(theirs[name]), shape)


def _hold_tokenizer(path: Path, vocab_size: int) -> None:
    """Every token must have an embedding."""
    try:
        vocabulary = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    except BaseException as error:  # tokenizers raises nothing more special, and Rust's panics are no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ExportError(f"{path} is not a tokenizer: {error}") from error
    token, last = max(vocabulary.items(), key=lambda entry: entry[1], default=("", -1))
    if last >= vocab_size:
        raise ExportError(f"{path}: token {token!r} has id {last}, and config.json has a vocab_size of {vocab_size}")
