"""Source `module`: your own nn.Module by import path, its weights from safetensors."""

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export import ExportError
from export.fields import MAX_SIZE
from export.golden import hold_length
from export.place import file_sha256
from export.probes import TensorSpec, stream
from export.sources import Layer, Source
from export.sources.weights import Weights

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
# What a module's own code may raise where it does not fit; anything else is shown as it is, with its traceback.
_FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
# Two runs, (batch, length), all four different: what follows the length is a sequence axis, what stays is fixed.
_TRIALS = ((5, 2), (4, 3))


class _Outputs(nn.Module):
    """A module whose answer is always a dict, block_output last."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        answer = self.block(hidden_states, attention_mask)
        if isinstance(answer, Tensor):
            return {"block_output": answer}
        own = {name: tensor for name, tensor in answer.items() if name != "block_output"}
        return {**own, "block_output": answer["block_output"]}


class _Lean(nn.Module):
    """A module's block_output alone."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        answer = self.block(hidden_states, attention_mask)
        output: Tensor = answer if isinstance(answer, Tensor) else answer["block_output"]
        return output


def load(
    import_path: str,
    *,
    weights: Path | None,
    arguments: Mapping[str, Any],
    hidden_size: int | None = None,
    max_sequence_length: int | None = None,
) -> Source:
    """A module of the user's own; `forward(hidden_states, attention_mask)` gives a tensor or a dict with block_output.

    Args:
        import_path: my_package:MyBlock, importable from the current directory.
        weights: safetensors of its whole state dict; None where it has none.
        arguments: Its constructor's keyword arguments.
        hidden_size: Width of hidden_states; None takes the module's attribute of that name.
        max_sequence_length: The longest sequence it takes; None for any.

    Raises:
        ExportError: It cannot be imported, made, loaded or run, or its answer breaks the contract.
    """
    hold_length(max_sequence_length, "--max-sequence-length")
    module = _make(import_path, arguments)
    files = _load_weights(module, weights)
    module.requires_grad_(requires_grad=False).eval()
    hidden_size = _hidden_size(module, hidden_size)
    outputs = _outputs(module, hidden_size)
    return Source(
        kind="module",
        reference=import_path,
        model=_Lean(module),
        layers=(Layer(_Outputs(module), outputs, source_layer=0),),
        hidden_size=hidden_size,
        files=files,
        max_sequence_length=max_sequence_length,
        own_heads=_heads(module),
    )


def _make(import_path: str, arguments: Mapping[str, Any]) -> nn.Module:
    package, colon, name = import_path.partition(":")
    if not (package and colon and name):
        raise ExportError(f"an import path is my_package:MyBlock, got {import_path!r}")
    try:
        made = getattr(importlib.import_module(package), name)(**arguments)
    except ImportError as error:
        raise ExportError(f"{import_path} cannot be imported: {error}") from error
    except _FAILURES as error:
        raise ExportError(f"{import_path} cannot be made: {type(error).__name__}: {error}") from error
    if not isinstance(made, nn.Module):
        raise ExportError(f"{import_path} makes {_kind(made)}, not an nn.Module")
    for parameter, tensor in made.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise ExportError(f"{import_path}: {parameter} is {_kind(tensor)}, and weights are tensors")
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ExportError(f"{import_path}: {parameter} is {tensor.dtype}, and an artifact is float32")
    return made


def _load_weights(module: nn.Module, path: Path | None) -> dict[str, str]:
    wanted = module.state_dict()
    if path is None:
        if wanted:
            raise ExportError("--source module needs --weights, a safetensors file of the module's state dict")
        return {}
    with Weights(path) as weights:
        left_over = sorted(weights.names - wanted.keys())
        if left_over:
            raise ExportError(f"{path} has tensors that the module does not: {', '.join(left_over)}")
        tensors = {name: weights.take(name, tuple(own.shape), own.dtype) for name, own in wanted.items()}
    module.load_state_dict(tensors)
    return {path.name: file_sha256(path)}


def _hidden_size(module: nn.Module, told: int | None) -> int:
    own = getattr(module, "hidden_size", None)
    if told is None and not isinstance(own, int):
        raise ExportError("the module has no attribute hidden_size; give --hidden-size")
    if told is not None and isinstance(own, int) and told != own:
        raise ExportError(f"--hidden-size is {told}, and the module's own hidden_size is {own}")
    size = told if told is not None else int(own or 0)
    if not 1 <= size <= MAX_SIZE:
        raise ExportError(f"a module's hidden_size must be 1 to {MAX_SIZE}, got {size}")
    return size


def _heads(module: nn.Module) -> int | None:
    """The module's attribute num_attention_heads, None where it has no such integer."""
    heads = getattr(module, "num_attention_heads", None)
    if isinstance(heads, bool) or not isinstance(heads, int):
        return None
    if heads < 1:
        raise ExportError(f"the module's num_attention_heads must be at least 1, got {heads}")
    return heads


def _kind(value: object) -> str:
    """A value's type with its article."""
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _outputs(module: nn.Module, hidden_size: int) -> tuple[TensorSpec, ...]:
    first, second = (_try(module, batch, length, hidden_size) for batch, length in _TRIALS)
    specs = tuple(_spec(name, first[name].shape, second[name].shape, hidden_size) for name in first)
    if specs[-1] != stream("block_output", hidden_size):
        raise ExportError(
            f"block_output must be [batch, sequence, {hidden_size}]; for input {[*_TRIALS[0], hidden_size]} the module "
            f"gave {list(first['block_output'].shape)}"
        )
    return specs


def _try(module: nn.Module, batch: int, length: int, hidden_size: int) -> dict[str, Tensor]:
    hidden_states = torch.randn(batch, length, hidden_size, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(batch, length, dtype=torch.int64)
    try:
        with torch.inference_mode():
            answer = module(hidden_states, mask)
    except _FAILURES as error:
        shape = [batch, length, hidden_size]
        raise ExportError(f"the module fails on hidden_states {shape}: {type(error).__name__}: {error}") from error
    return _as_dict(answer)


def _as_dict(answer: object) -> dict[str, Tensor]:
    if isinstance(answer, Tensor):
        answer = {"block_output": answer}
    if not isinstance(answer, dict) or "block_output" not in answer:
        raise ExportError(f"forward must return a tensor or a dict with block_output, got {_kind(answer)}")
    for name, tensor in answer.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in {"hidden_states", "attention_mask"}:
            raise ExportError(f"{name!r} cannot name an output: letters, digits and _, and not an input's name")
        if not isinstance(tensor, Tensor) or tensor.dtype != torch.float32:
            got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ExportError(f"output {name} must be a float32 tensor, got {got}")
    return {
        **{name: tensor for name, tensor in answer.items() if name != "block_output"},
        "block_output": answer["block_output"],
    }


def _spec(name: str, first: torch.Size, second: torch.Size, hidden_size: int) -> TensorSpec:
    (batch, length), (other_batch, other_length) = _TRIALS
    if len(first) != len(second) or not first or (first[0], second[0]) != (batch, other_batch):
        raise ExportError(f"output {name} must have the batch as its first axis; its shape was {list(first)}")
    axes, shape = ["batch"], [-1]
    for axis, sizes in enumerate(zip(first[1:], second[1:], strict=True), start=1):
        if sizes == (length, other_length):
            axes.append("sequence")
            shape.append(-1)
        elif sizes[0] == sizes[1]:
            last = axis == len(first) - 1
            axes.append("hidden" if last and sizes[0] == hidden_size else f"axis_{axis}")
            shape.append(sizes[0])
        else:
            raise ExportError(
                f"axis {axis} of output {name} is {sizes[0]} at length {length} and {sizes[1]} at length "
                f"{other_length}: it must be the length itself, or fixed"
            )
    return TensorSpec(name, "float32", tuple(axes), tuple(shape))
