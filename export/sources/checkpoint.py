"""Source `auto`: a folder of Hugging Face's with config.json and safetensors, any range of layers, the text front."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from export import ExportError
from export.block import Stack
from export.config import StackConfig
from export.place import file_sha256
from export.sources import Has, Source, parse_layers
from export.sources.families import Model
from export.sources.layers import stack_layers
from export.sources.shards import Shards
from export.sources.stored import take_as_ours
from export.sources.text_front import make_text_front


def load(
    folder: Path,
    model: Model,
    layers: str | None = None,
    reference: str | None = None,
    has: Has | None = None,
) -> Source:
    """The layers FIRST:END of a folder; with the text front where they begin at 0 and tokenizer.json is there.

    The norm after the last layer comes along where the range ends with that layer. Only the tensors of the range are
    read, and only their shards.

    Args:
        folder: Holds config.json and model.safetensors, or its shards and their index.
        model: What its config.json says.
        layers: Half-open range; None is all.
        reference: What was exported, in words; None is what the folder calls itself.
        has: None asks the folder itself which files it has.

    Raises:
        ExportError: A tensor is missing, left over or of another shape.
    """
    first, end = parse_layers(layers, model.depth)
    with Shards(folder, has) as weights:
        found = _Found(weights, model)
        stack = found.stack(first, end)
        tokenizer = folder / "tokenizer.json"
        text = None
        if model.text and first == 0 and (has(tokenizer.name) if has else tokenizer.is_file()):
            eps = model.block.norm_eps
            text = make_text_front(model.text, tokenizer, found.take, model.block.hidden_size, eps)
        found.refuse_unread(range(first, end), with_text=text is not None)
        read = ["config.json", *weights.files, *([tokenizer.name] if text else [])]
    return Source(
        kind=model.kind,
        reference=reference or model.reference or folder.resolve().name,
        model=stack,
        layers=stack_layers(stack, first),
        hidden_size=stack.config.hidden_size,
        config=stack.config,
        max_sequence_length=stack.config.max_position_embeddings,
        files={name: file_sha256(folder / name) for name in read},
        text=text,
    )


class _Found:
    """A folder's tensors under their family's names: without the prefix, and of today where they are older."""

    def __init__(self, weights: Shards, model: Model) -> None:
        self._weights, self._model, self._family = weights, model, model.family
        tensors = self._family.tensors
        self._tensors = tensors(model.block) if callable(tensors) else tensors
        self._prefix = self._find_prefix()

    def stack(self, first: int, end: int) -> Stack:
        """The layers with their weights, and the final norm if they are the last."""
        block, family = self._model.block, self._family
        config = StackConfig(layers=self._model.blocks[first:end])
        if family.final_norm and end == self._model.depth:
            norm, eps, bias = block.norm, block.norm_eps, block.norm_bias
            config = replace(config, final_norm=norm, final_norm_eps=eps, final_norm_bias=bias)
        stack = Stack(config)
        shapes = {name: tuple(tensor.shape) for name, tensor in stack.state_dict().items()}
        stack.load_state_dict({name: self._ours(name, shape, first) for name, shape in shapes.items()}, assign=True)
        return stack.requires_grad_(requires_grad=False).eval()

    def take(self, name: str, shape: tuple[int, ...], before: str = "") -> Tensor:
        """One tensor by its family's name; `before` is the layer it belongs to."""
        full = f"{self._prefix}{before}{name}"
        for new, old in self._family.old_names.items():
            older = f"{full.removesuffix(new)}{old}"
            if full.endswith(new) and full not in self._weights.names and older in self._weights.names:
                full = older
        return self._weights.take(full, shape)

    def refuse_unread(self, layers: range, *, with_text: bool) -> None:
        """A tensor of the exported parts, or of none that is known, would be mathematics left out."""
        for name in self._weights.unread:
            if name.startswith(self._prefix) and not name.endswith(self._family.buffers):
                self._refuse(name, name.removeprefix(self._prefix), layers, with_text=with_text)

    def _ours(self, name: str, shape: tuple[int, ...], first: int) -> Tensor:
        family = self._family
        if name.startswith("final_norm."):
            return self.take(f"{family.final_norm}{name.removeprefix('final_norm')}", shape)
        _, index, own = name.split(".", 2)
        layer = first + int(index)
        if own in family.tables:
            return self.take(family.tables[own].format(layer=layer), shape)
        take = partial(self.take, before=f"{family.layers}{layer}.")
        return take_as_ours(take, self._tensors[own], shape, family.stored)

    def _find_prefix(self) -> str:
        family, names = self._family, self._weights.names
        for prefix in family.prefixes:
            if any(name.startswith(prefix + family.layers) for name in names):
                return prefix
        expected = " or ".join(prefix + family.layers for prefix in family.prefixes)
        raise ExportError(
            f"{self._weights.path} holds no layer of {self._model.kind}: expected names that begin with {expected}, "
            f"and the first of its {len(names)} is {min(names, default='none')}"
        )

    def _refuse(self, name: str, own: str, layers: range, *, with_text: bool) -> None:
        family, place = self._family, self._weights.path
        if own.startswith(family.layers):
            number = own.removeprefix(family.layers).partition(".")[0]
            if number.isdecimal() and int(number) >= self._model.depth:
                key = family.depth[0]
                raise ExportError(
                    f"{place}: {name} is of layer {number}, and config.json's {key} is {self._model.depth}"
                )
            if number.isdecimal() and int(number) not in layers:
                return
        elif own.startswith(family.front):
            if not with_text:
                return
        elif own.startswith((*family.beside, *((f"{family.final_norm}.",) if family.final_norm else ()))):
            return
        elif not self._prefix and not own.startswith(family.layers.partition(".")[0] + "."):
            return  # a head's, as far as one can tell
        raise ExportError(f"{place}: {name} would be left out; {self._model.kind} has no such tensor")
