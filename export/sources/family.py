"""What a family of models is: a table of names and transforms, and how its config.json becomes a BlockConfig."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from export.config import BlockConfig, divide
from export.sources.config_json import Config

# BlockConfig's field ← a key of config.json, and the default that transformers gives to that key.
Keys = Mapping[str, tuple[str, Any]]


@dataclass(frozen=True, slots=True)
class Part:
    """One of several tensors that a file stores as one, side by side along the axis of what they give.

    Attributes:
        name: The packed tensor's name.
        index: Which part of it is ours, from 0.
        count: How many parts of the same size it has.
        width: How many of them are ours.
        groups: How often the same parts follow each other: once, or once a head.
    """

    name: str
    index: int
    count: int
    width: int = 1
    groups: int = 1


Tensors = Mapping[str, str | Part]


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """The tensors that turn ids into hidden states, and their sizes: word + token type 0 + position, norm, projection.

    Of a family whose layers have positions of their own, the word's alone.

    Attributes:
        word: The words' tensor [vocabulary, width].
        vocab_size: Its rows.
        positions: How many positions there are; None where layers count distances alone.
        position: Their tensor [positions, width], or None.
        token_type: The token types' tensor, whose first row is added; None where a family has no such types.
        token_types: Its rows.
        norm: What the names of the norm's weight and bias begin with, or None; its epsilon is the blocks'.
        norm_bias: Whether that norm has a bias.
        projection: What the names of the last product's weight and bias begin with; None where there is none.
        width: Size of an embedding before that product; None is the hidden size.
        padding: Where set, positions are counted from the id of the padding on: the first token that is no padding has
            position padding + 1, and padding itself has position padding (fairseq's make_positions).
        scale: What a word's embedding is multiplied by.
    """

    word: str
    vocab_size: int
    positions: int | None = None
    position: str | None = None
    token_type: str | None = None
    token_types: int = 0
    norm: str | None = None
    norm_bias: bool = True
    projection: str | None = None
    width: int | None = None
    padding: int | None = None
    scale: float = 1.0

    @property
    def max_tokens(self) -> int | None:
        """How many tokens have a position; None: any."""
        if self.positions is None or self.padding is None:
            return self.positions
        return self.positions - self.padding - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One weight layout of Hugging Face's.

    Attributes:
        model_types: The values of config.json's model_type that have it.
        block: From config.json to the fields of BlockConfig, which all layers share.
        vary: From config.json and the number of layers to each layer's own fields; None where all are alike.
        depth: The key of the number of layers, and transformers' default for it.
        prefixes: What may stand before every name: models with a head call the model below it by a name.
        layers: What a layer's names begin with, before its number.
        tensors: Ours ← theirs, of one layer; made from the block where it decides how they are packed.
        tables: Ours ← theirs, of tensors that are stored as ours; their names are whole, with {layer} where its number
            stands; without it all layers have the same.
        stored: "out_in" as nn.Linear stores a matrix, "in_out" as Conv1D and we do.
        final_norm: What the names of the norm after the last layer begin with, or None; its epsilon is the blocks'.
        text: From config.json to the text front's tensors, or None for a family without.
        front: What the names of all tensors before the first layer begin with.
        beside: What the names of the other tensors of the model without its head begin with.
        buffers: Endings of names that hold no weights: masks and counters that were once stored.
        old_names: Endings of names, and what older files have in their place.
        only: Keys of config.json that change the mathematics, each with the one value that is computed here.
        harmless: Keys of config.json that change nothing of a block.
        tower: "text" or "vision" where config.json of `inside` has this model as one part of two.
        inside: The model_type of such a pair, or None.
    """

    model_types: tuple[str, ...]
    block: Callable[[Config], dict[str, Any]]
    vary: Callable[[Config, int], Sequence[Mapping[str, Any]]] | None = None
    depth: tuple[str, int] = ("num_hidden_layers", 12)
    prefixes: tuple[str, ...]
    layers: str
    tensors: Tensors | Callable[[BlockConfig], Tensors]
    tables: Mapping[str, str] = field(default_factory=dict)
    stored: Literal["out_in", "in_out"] = "out_in"
    final_norm: str | None = None
    text: Callable[[Config], Text] | None = None
    front: tuple[str, ...] = ("embeddings.",)
    beside: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
    old_names: Mapping[str, str] = field(default_factory=dict)
    only: Mapping[str, Any] = field(default_factory=dict)
    harmless: frozenset[str] = frozenset()
    tower: str | None = None
    inside: str | None = None


def block_fields(config: Config, keys: Keys, **fixed: Any) -> dict[str, Any]:
    """The fields of BlockConfig that a family's config.json tells, and those that are the same in all of the family.

    Raises:
        ExportError: A value that the block cannot have.
        ValueError: The heads do not divide the hidden size.
    """
    fields = {field: _read(config, field, key, default) for field, (key, default) in keys.items()}
    told = {field: value for field, value in fields.items() if value is not None}
    if "head_dim" not in told:
        told["head_dim"] = divide(told["hidden_size"], told["num_attention_heads"])
    return {**told, **fixed}


def _read(config: Config, field: str, key: str, default: Any) -> Any:
    if field == "norm_eps":
        return config.value(key, default)
    if field == "hidden_act":
        return config.activation(key, default)
    if field.endswith("_bias"):
        return config.flag(key, default=default)
    return config.size_or_none(key) if default is None else config.size(key, default)
