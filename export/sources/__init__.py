"""Where weights come from: one file a source, and the value that each of them makes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from export import ExportError
from export.config import StackConfig
from export.probes import TensorSpec, inputs

if TYPE_CHECKING:  # its import takes seconds, and what is refused before a source is made needs none of it
    from torch import nn

_LONGEST = 64  # characters of --layers; Python makes no number of thousands of digits
Has = Callable[[str], bool]  # whether a folder has a file of this name, which may be brought there first


@dataclass(frozen=True, slots=True)
class TextFront:
    """What turns text into hidden_states, for a source that has it.

    Attributes:
        tokenizer: The source's tokenizer.json, copied as it is.
        embeddings: input_ids int64 [batch, sequence] → hidden_states float32 [batch, sequence, hidden].
        vocab_size: input_ids lie in 0 … vocab_size - 1.
        max_tokens: Positions the embeddings have; None: any number.
    """

    tokenizer: Path
    embeddings: "nn.Module"
    vocab_size: int
    max_tokens: int | None


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer to export: its module, what its graph gives, and its number in the source.

    Attributes:
        module: What the source's `inputs` are → dict of tensors, named as `outputs`.
        outputs: The graph's outputs in order.
        source_layer: The layer's number where it comes from.
        prefix: What stands before its parameters' names in the whole model, so that all graphs name a tensor alike.
    """

    module: "nn.Module"
    outputs: tuple[TensorSpec, ...]
    source_layer: int
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """Everything an artifact is made from; torch in eval mode, float32, no gradients.

    Attributes:
        kind: The manifest's source.kind.
        reference: What was exported, in words a person can look up.
        model: `inputs` → block_output.
        layers: The same mathematics layer by layer.
        hidden_size: Width of hidden_states and block_output.
        config: The stack's config, or None for a module of the user's own.
        files: SHA-256 of each file that was read, by its name.
        text: The text front, or None.
        max_sequence_length: The longest sequence the model takes, or None for any.
        own_heads: Heads that a module of the user's own tells, or None; a config tells its own.
    """

    kind: str
    reference: str
    model: "nn.Module"
    layers: tuple[Layer, ...]
    hidden_size: int
    config: StackConfig | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    text: TextFront | None = None
    max_sequence_length: int | None = None
    own_heads: int | None = None

    @property
    def num_attention_heads(self) -> int | None:
        """The most heads a layer has, by which a request's cost is counted; None where the source does not tell."""
        return max(layer.num_attention_heads for layer in self.config.layers) if self.config else self.own_heads

    @property
    def weights_bytes(self) -> int:
        """How much its parameters and buffers take."""
        modules = (self.model, *((self.text.embeddings,) if self.text else ()))
        return sum(tensor.nbytes for module in modules for tensor in module.state_dict().values())

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What every graph takes."""
        rotary = self.config is not None and self.config.max_position_embeddings is not None
        return inputs(self.hidden_size, positions=rotary)

    @property
    def layer_range(self) -> tuple[int, int]:
        """Half-open range of the source's layers."""
        return self.layers[0].source_layer, self.layers[-1].source_layer + 1


def parse_layers(text: str | None, count: int) -> tuple[int, int]:
    """The half-open range that --layers names, checked against the layers there are; all of them without it.

    Raises:
        ExportError: Not of the form FIRST:END, empty, or out of range.
    """
    if text is None:
        return 0, count
    if len(text) > _LONGEST:
        raise ExportError(f"--layers must be FIRST:END, half-open, as 2:5; got {len(text)} characters")
    first, colon, end = text.partition(":")
    if not (colon and (first or "0").isdecimal() and (end or "0").isdecimal()):
        raise ExportError(f"--layers must be FIRST:END, half-open, as 2:5; got {text!r}")
    start, stop = int(first or 0), int(end or count)
    if not start < stop <= count:
        raise ExportError(
            f"--layers {text} is out of range: the source has {count} layers, so 0:{count} is all of them"
        )
    return start, stop
