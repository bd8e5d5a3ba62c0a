"""The command line's options, which source takes which, and what they make."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from export import ExportError
from export.config import TOLD, StackConfig
from export.json_file import read_json
from export.sources import Has, Source, minilm
from export.sources.families import read_model

_SHAPE = (
    "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "value_head_dim", "intermediate_size",
    "num_layers", "norm", "norm_eps", "placement", "parallel", "qk_norm", "ffn", "hidden_act", "mask", "final_norm",
    "final_norm_eps",
)  # fmt: skip
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_BIASES = ("norm_bias", "query_bias", "key_bias", "value_bias", "output_bias", "ffn_bias", "final_norm_bias")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for at the command line; None is not asked for."""

    source: str
    origin: str | None = None
    layers: str | None = None
    tower: str | None = None
    revision: str | None = None
    config: Path | None = None
    weights: Path | None = None
    arguments: Path | None = None
    seed: int | None = None
    bias: bool | None = None
    hidden_size: int | None = None
    num_attention_heads: int | None = None
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    value_head_dim: int | None = None
    intermediate_size: int | None = None
    num_layers: int | None = None
    norm: str | None = None
    norm_eps: float | None = None
    placement: str | None = None
    parallel: str | None = None
    qk_norm: str | None = None
    ffn: str | None = None
    hidden_act: str | None = None
    mask: str | None = None
    final_norm: str | None = None
    final_norm_eps: float | None = None
    max_sequence_length: int | None = None
    cache: Path | None = None


# Each source: what it takes beside --name and the like, and how it is made.
_TAKES: dict[str, tuple[set[str], Callable[[Options], Source]]] = {
    "auto": ({"origin", "layers", "tower", "revision"}, lambda o: _auto(_path(o), o)),
    "glassblock": ({"origin", "config", "bias", *_SHAPE}, lambda o: _load("glassblock", _path(o), _stack_config(o))),
    "minilm": (
        {"layers", "cache"},
        lambda o: _checkpoint(minilm.folder(o.cache or minilm.CACHE), o, minilm.REFERENCE),
    ),
    "module": (
        {"origin", "weights", "arguments", "hidden_size", "max_sequence_length"},
        lambda o: _load(
            "module",
            _origin(o, "the import path, as my_package:MyBlock"),
            weights=o.weights,
            arguments=read_json(o.arguments) if o.arguments else {},
            hidden_size=o.hidden_size,
            max_sequence_length=o.max_sequence_length,
        ),
    ),
    "random": ({"config", "seed", "bias", *_SHAPE}, lambda o: _load("random", _stack_config(o), o.seed or 0)),
    "torch_encoder": (
        {"origin", "layers", "config", *TOLD},
        lambda o: _load("torch_encoder", _path(o), _asked(o, TOLD), o.layers),
    ),
}


def _load(source: str, *arguments: Any, **named: Any) -> Source:
    """A source's own `load`, imported when all that it is given is known to be good: torch takes seconds."""
    made: Source = import_module(f"export.sources.{source}").load(*arguments, **named)
    return made


def _auto(origin: Path, options: Options) -> Source:
    """A folder here, or else a model of the hub: what exists here is never looked up there."""
    if origin.exists() or not is_hub_id(str(options.origin)):
        if options.revision is not None:
            raise ExportError(f"--revision is of a model on the hub, and {origin} is none")
        return _checkpoint(origin, options)
    snapshot = import_module("export.sources.hub").Snapshot(options.origin, options.revision)
    return _checkpoint(snapshot.folder, options, snapshot.reference, snapshot.has)


def is_hub_id(origin: str) -> bool:
    """Whether these words have the form of a model's id on the hub: ORGANISATION/NAME."""
    return _HUB_ID.fullmatch(origin) is not None


def _checkpoint(folder: Path, options: Options, reference: str | None = None, has: Has | None = None) -> Source:
    return _load("checkpoint", folder, read_model(folder, options.tower), options.layers, reference, has)


def make_source(options: Options) -> Source:
    """The source that the options ask for.

    Raises:
        ExportError: An option belongs to another source, or the source cannot be made.
    """
    takes, make = _TAKES[options.source]
    for field in fields(options):
        if field.name not in {*takes, "source"} and getattr(options, field.name) is not None:
            raise ExportError(f"{word_of(field.name)} does not go with --source {options.source}")
    return make(options)


def word_of(option: str) -> str:
    """An option as it stands at the command line."""
    return "FROM" if option == "origin" else f"--{option.replace('_', '-')}"


def _origin(options: Options, what: str) -> str:
    if options.origin is None:
        raise ExportError(f"--source {options.source} needs FROM: {what}")
    return options.origin


def _path(options: Options) -> Path:
    what = (
        "a folder with config.json and model.safetensors, or a model's id on the hub"
        if options.source == "auto"
        else "a safetensors file"
    )
    return Path(_origin(options, what))


def _asked(options: Options, names: tuple[str, ...]) -> dict[str, Any]:
    """The config file's fields with the flags over them; a flag wins."""
    from_file = read_json(options.config) if options.config else {}
    flags = {name: getattr(options, name) for name in names}
    return {**from_file, **{name: value for name, value in flags.items() if value is not None}}


def _stack_config(options: Options) -> StackConfig:
    asked: Mapping[str, Any] = _asked(options, _SHAPE)
    if options.bias is not None:
        asked = {**asked, **dict.fromkeys(_BIASES, options.bias)}
    try:
        return StackConfig.from_dict(asked)
    except ValueError as error:
        where = f"{options.config}: " if options.config else ""
        raise ExportError(f"{where}{error}") from error
