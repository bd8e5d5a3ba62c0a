"""Which families are known, and which never are: from config.json to what is to be loaded."""

from dataclasses import dataclass
from pathlib import Path

from export import ExportError
from export.config import MAX_LAYERS, BlockConfig
from export.json_file import read_json
from export.sources import bert, clip, gemma, gpt2, llama, modernbert, neox, t5, vit
from export.sources.config_json import Config
from export.sources.family import Family, Text

FAMILIES: tuple[Family, ...] = (
    *bert.FAMILIES,
    *modernbert.FAMILIES,
    *gpt2.FAMILIES,
    *neox.FAMILIES,
    *llama.FAMILIES,
    *gemma.FAMILIES,
    *t5.FAMILIES,
    *vit.FAMILIES,
    *clip.FAMILIES,
)
KNOWN = {model_type: family for family in FAMILIES for model_type in family.model_types}
_TOWERS = {(str(family.inside), str(family.tower)): family for family in FAMILIES if family.inside}

_EXPERTS = "each token chooses among experts, which this block does not have"
# Keys of config.json by which a model shows that it has no block to serve, whatever its model_type.
_NEVER = {
    "num_local_experts": _EXPERTS,
    "num_experts": _EXPERTS,
    "n_routed_experts": _EXPERTS,
    "kv_lora_rank": "its keys and values come from a latent vector, which this block does not have",
}
_WINDOWED = ("swin", "swinv2", "donut-swin")


@dataclass(frozen=True, slots=True)
class Model:
    """What config.json says of a model of a known family.

    Attributes:
        kind: Its model_type.
        family: Its weight layout.
        blocks: The config of each of its layers.
        text: The text front's tensors, or None for a family without.
        reference: What it calls itself, or None.
    """

    kind: str
    family: Family
    blocks: tuple[BlockConfig, ...]
    text: Text | None
    reference: str | None

    @property
    def depth(self) -> int:
        """How many layers it has."""
        return len(self.blocks)

    @property
    def block(self) -> BlockConfig:
        """The first layer's config, for what all layers share."""
        return self.blocks[0]


def read_model(folder: Path, tower: str | None = None) -> Model:
    """Reads a folder's config.json; torch is not needed for it.

    Args:
        folder: Holds config.json.
        tower: "text" or "vision", where the folder holds both.

    Raises:
        ExportError: There is none, its family is not known, or it asks for what the block does not compute.
    """
    path = folder / "config.json"
    fields = read_json(path)
    config = Config(path, fields)
    kind = fields.get("model_type")
    if not isinstance(kind, str):
        raise config.refusal(_why_not(kind, frozenset(fields)))
    if kind in {inside for inside, _ in _TOWERS}:
        kind, config = _tower(config, kind, tower)
    elif tower is not None:
        raise config.refusal(f"--tower does not go with model_type {kind!r}, which has no two towers")
    if kind not in KNOWN:
        raise config.refusal(_why_not(kind, frozenset(fields)))
    # Half a surrogate, which JSON can spell and UTF-8 cannot, becomes a ?.
    reference = str(fields.get("_name_or_path") or "").encode("utf-8", "replace").decode()
    return _read(config, kind, KNOWN[kind], reference or None)


def _tower(config: Config, pair: str, tower: str | None) -> tuple[str, Config]:
    if tower is None:
        raise config.refusal(f"model_type is {pair!r}, which has two towers; give --tower text or --tower vision")
    if (pair, tower) not in _TOWERS:
        raise ExportError(f"--tower must be text or vision, got {tower!r}")
    config.hold_common()
    # CLIP's older files have a tower's config twice, and where they do transformers takes the second.
    old, new = f"{tower}_config_dict", f"{tower}_config"
    return _TOWERS[pair, tower].model_types[0], config.part(old if config.has(old) else new)


def _read(config: Config, kind: str, family: Family, reference: str | None) -> Model:
    config.only(family.only)
    depth = config.size(*family.depth, most=MAX_LAYERS)
    try:
        shared = family.block(config)
        own = family.vary(config, depth) if family.vary else ({},) * depth
        blocks = tuple(BlockConfig.from_dict({**shared, **fields}) for fields in own)
    except ValueError as error:
        raise config.refusal(str(error)) from error
    text = family.text(config) if family.text else None
    config.finish(kind, family.harmless)
    return Model(kind, family, blocks, text, reference)


def _why_not(kind: object, keys: frozenset[str]) -> str:
    if kind in _WINDOWED:
        why = "its attention runs in windows of an image, and its tensors have a height and a width"
        return f"model_type is {kind!r}, which is not served as a block: {why}"
    for key, why in _NEVER.items():
        if key in keys:
            return f"model_type is {kind!r} with {key}, which is not served as a block: {why}"
    known = ", ".join(sorted({*KNOWN, *(inside for inside, _ in _TOWERS)}))
    return f"model_type is {kind!r}, and known are {known}; --source module exports a block of your own"
