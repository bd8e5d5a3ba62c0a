"""How config.json tells a decoder's rotary positions, in the words of today's files and of older ones."""

from typing import Any

from export.rotary import Scaling
from export.sources.config_json import Config

_SCALINGS: dict[str, Scaling] = {"default": "none", "linear": "linear", "llama3": "llama3"}


def read_rotary(
    config: Config, head_dim: int, positions: int, *, theta: str = "rope_theta", share: Any = None
) -> dict[str, Any]:
    """The rotation of all of a model's layers, in the fields of `Rotary`.

    `rope_scaling`, which older files have, wins over `rope_parameters`, as it does in transformers; theta and the share
    of a head that turns are in there, or beside it.

    Args:
        config: Of the model.
        head_dim: Numbers of a head.
        positions: max_position_embeddings, the default.
        theta: The key of theta beside it.
        share: What is beside it of the share of a head that turns; None: all of it turns, and nothing else may be said.

    Raises:
        ExportError: A scaling that is not computed here, a key of it that is not known, or no share of a head.
    """
    every = config.size("max_position_embeddings", positions)
    config.part("rope_parameters")  # it is read, even where the other counts
    scaling = config.part("rope_scaling" if config.value("rope_scaling", None) else "rope_parameters")
    name = scaling.value("rope_type", scaling.value("type", "default"))
    if not isinstance(name, str) or name not in _SCALINGS:
        raise scaling.refusal(f"rope_type is {name!r}, and only {', '.join(_SCALINGS)} are supported")
    found = {
        "dims": _dims(scaling, head_dim, share),
        "max_position_embeddings": every,
        "theta": scaling.value("rope_theta", config.value(theta, 10_000.0)),
        "scaling": _SCALINGS[name],
        **_numbers(scaling, _SCALINGS[name], every),
    }
    scaling.finish("rotary positions", frozenset())
    return found


def _dims(scaling: Config, head_dim: int, share: Any) -> int:
    if share is None:
        scaling.only({"partial_rotary_factor": 1.0})
        return head_dim
    said = scaling.value("partial_rotary_factor", share)
    if isinstance(said, bool) or not isinstance(said, int | float) or not 0 < said <= 1:
        raise scaling.refusal(f"partial_rotary_factor must be above 0 and at most 1, got {said!r}")
    return int(head_dim * said)


def _numbers(scaling: Config, kind: Scaling, every: int) -> dict[str, Any]:
    names = {"none": (), "linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}[kind]
    numbers = {name: scaling.value(name, None) for name in names}
    if kind == "llama3":
        numbers["original_max_position_embeddings"] = scaling.value("original_max_position_embeddings", every)
    return numbers
