"""How config.json tells which layers of a model have a sliding window."""

from collections.abc import Sequence

from export.sources.config_json import Config

_SLIDES = {"sliding_attention": True, "full_attention": False}


def read_sliding(config: Config, default: Sequence[bool]) -> list[bool]:
    """Of each layer, whether it has a window: as `layer_types` says.

    Args:
        config: Of the model.
        default: What it is where the key is missing or null; one a layer.

    Raises:
        ExportError: It is no list of one word a layer, or has a word that is not known.
    """
    kinds = config.value("layer_types", None)
    if kinds is None:
        return list(default)
    if not isinstance(kinds, list) or len(kinds) != len(default) or any(kind not in [*_SLIDES] for kind in kinds):
        raise config.refusal(f"layer_types must be {len(default)} of {', '.join(_SLIDES)}, one a layer")
    return [_SLIDES[kind] for kind in kinds]
