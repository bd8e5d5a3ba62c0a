"""The grammar of names: which tensor an address means, and what of it (docs/addresses.md has it formally).

    address   = name ["[" item {"," item} "]"] ["|" reduction]
    name      = "block_output" | "attention_rollout" | alias | probe
              | "layers." layers "." probe | "blocks." layers "." hook
    layers    = number | "*" | [number] ":" [number]                      (half-open)
    item      = integer | [integer] ":" [integer] [":" [integer]] | "..."
    reduction = "entropy" | "norm" | "mean(" axis ")" | "max(" axis ")" | "top(" number ")"

A bare probe stands for every layer. `hook` is a name of TransformerLens whose meaning and axes are a probe's.
"""

import re
from collections.abc import Iterable, Sequence

from service.cut import check_lengths, read_cut, read_reduction
from service.errors import IllegalRequestError, nearest
from service.manifest import FINAL_OUTPUT, ROLLOUT, ModelSpec
from service.tensors import Output, View

MAX_ADDRESS_CHARACTERS = 256
_PARTS = re.compile(r"(?P<name>[^\[|]*)(?:\[(?P<cut>[^\[\]|]*)\])?(?:\|(?P<reduction>.*))?", re.DOTALL)
_IN_LAYERS = re.compile(
    r"(?P<face>layers|blocks)\.(?:(?P<number>\d{1,9})|(?P<all>\*)|(?P<start>\d{0,9}):(?P<stop>\d{0,9}))\.(?P<probe>[\w.]+)",
    re.ASCII,
)
# TransformerLens's names, where meaning and axes agree. Not its hook_attn_scores: what is masked is -inf there.
HOOKS = {
    "hook_resid_pre": "layer_input",
    "attn.hook_q": "query",
    "attn.hook_k": "key",
    "attn.hook_v": "value",
    "attn.hook_pattern": "attention_weights",
    "attn.hook_z": "context",
    "hook_attn_out": "attention_output",
    "hook_resid_mid": "resid_mid",
    "mlp.hook_pre": "ffn_pre_activation",
    "mlp.hook_post": "ffn_post_activation",
    "hook_mlp_out": "ffn_output",
    "hook_resid_post": "resid_post",
}
PROBES = (
    *("layer_input", "attention_input", "query", "key", "value", "query_unrotated", "key_unrotated"),
    *("attention_scores", "attention_weights", "context", "attention_output", "resid_mid"),
    *("ffn_input", "ffn_pre_activation", "ffn_post_activation", "ffn_output", "resid_post", "layer_output"),
)  # that some model has


def expand(addresses: Iterable[str], spec: ModelSpec, max_outputs: int, lengths: Sequence[int] = ()) -> dict[str, View]:
    """Turns addresses into what they stand for, keyed by the address as sent with only the layer filled in, in order.

    Args:
        addresses: as the client wrote them.
        spec: the model they are asked of.
        max_outputs: tensors that one request may name.
        lengths: positions of each sequence, which cuts are held against; none: they are not.

    Raises:
        IllegalRequestError: unknown address (with the nearest right ones), layer or index out of range, a cut or a
            reduction that the tensor does not take, a key twice, too many.
    """
    found: dict[str, View] = {}
    for index, address in enumerate(addresses):
        place = f"outputs[{index}]"
        for key, view in _expand_one(address, spec, place):
            if key in found:
                raise IllegalRequestError(f"{key} is asked for twice", code="duplicate_output", at=place)
            if view.cut and lengths:
                check_lengths(view, spec.tensor(view.output), lengths, place)
            found[key] = view
        if len(found) > max_outputs:
            raise IllegalRequestError(
                f"expected at most {max_outputs} tensors after expansion", code="too_many_outputs", at=place
            )
    return found


def find_cells(address: str, spec: ModelSpec, place: str) -> list[View]:
    """The cells that an address without a reduction stands for, of each of its tensors.

    Raises:
        IllegalRequestError: as `expand`, or there is a reduction.
    """
    views = [view for _, view in _expand_one(address, spec, place)]
    if any(view.reduction for view in views):
        raise IllegalRequestError("expected cells to change: no reduction", code="wrong_reduction", at=place)
    return views


def name_of(address: str) -> str:
    """An address without cut and reduction."""
    return address.partition("|")[0].partition("[")[0]


def _expand_one(address: str, spec: ModelSpec, place: str) -> list[tuple[str, View]]:
    if len(address) <= MAX_ADDRESS_CHARACTERS and name_of(address) == address:
        return [(name, View(output)) for name, output in _find(address, spec, place)]
    match = _PARTS.fullmatch(address) if len(address) <= MAX_ADDRESS_CHARACTERS else None
    if match is None and "[" in address[:MAX_ADDRESS_CHARACTERS]:
        message = "expected NAME[ITEMS], and behind it perhaps |REDUCTION"
        raise IllegalRequestError(message, code="wrong_slice", at=place)
    if match is None:
        raise _unknown(address[:MAX_ADDRESS_CHARACTERS], spec, place)
    views = []
    for name, output in _find(match["name"], spec, place):
        tensor = spec.tensor(output)
        cut = read_cut(match["cut"], tensor, place)
        reduction = read_reduction(match["reduction"], tensor, cut, place)
        views.append((name + address[match.end("name") :], View(output, cut, reduction)))
    return views


def _find(name: str, spec: ModelSpec, place: str) -> list[tuple[str, Output]]:
    """The tensors of a name, each with its name in full."""
    if name == FINAL_OUTPUT or spec.aliases.get(name) == FINAL_OUTPUT:
        return [(name, Output(None, FINAL_OUTPUT))]
    if name == ROLLOUT and spec.has_rollout:
        return [(name, Output(None, ROLLOUT))]
    if match := _IN_LAYERS.fullmatch(name):
        layers, face, called = _layers(match, len(spec.layers), place), match["face"], match["probe"]
        probe = called if face == "layers" else _probe_of(called, spec)
    else:
        layers, face, called, probe = range(len(spec.layers)), "layers", name, name
    having = [layer for layer in layers if probe in spec.probes[layer]]
    if not having or (len(having) < len(layers) and called != name):
        raise _unknown(name, spec, place)
    if called == name and len(spec.layers) == 1:
        return [(name, Output(0, probe))]
    return [(f"{face}.{layer}.{called}", Output(layer, probe)) for layer in having]


def _probe_of(hook: str, spec: ModelSpec) -> str:
    """The probe that TransformerLens calls so, or an empty string; its query and key are those before rotation."""
    probe = HOOKS.get(hook, "")
    unrotated = f"{probe}_unrotated"
    return unrotated if any(unrotated in probes for probes in spec.probes) else probe


def _layers(match: re.Match[str], count: int, place: str) -> range:
    if match["all"]:
        return range(count)
    if match["number"] is not None:
        start, stop, expected = int(match["number"]), int(match["number"]) + 1, f"a layer from 0 to {count - 1}"
    else:
        start, stop = int(match["start"] or 0), int(match["stop"] or count)
        expected = f"a range of at least one layer within 0:{count}"
    if not start < stop <= count:
        raise IllegalRequestError(f"expected {expected}", code="layer_out_of_range", at=place)
    return range(start, stop)


def _unknown(address: str, spec: ModelSpec, place: str) -> IllegalRequestError:
    probes = sorted({probe for layer in spec.probes for probe in layer})
    prefix, _, name = address.rpartition(".")
    if prefix and name in probes:
        message = "expected layers.LAYERS.PROBE with LAYERS a number, a range A:B or *"
        return IllegalRequestError(message, code="unknown_output", at=place)
    if name in PROBES or name == ROLLOUT:
        message = f"expected what this model has, and it has no {name}; GET the model to see its probes"
        return IllegalRequestError(message, code="unknown_output", at=place)
    if prefix.startswith("blocks."):
        hint = nearest(address.split(".", 2)[-1], HOOKS)
        message = f"expected blocks.N.HOOK with a hook of TransformerLens that is a probe here{hint}"
        return IllegalRequestError(message, code="unknown_output", at=place)
    hint = nearest(name, [FINAL_OUTPUT, *spec.aliases, *probes], 2)
    message = f"expected block_output, a probe, or layers.N.PROBE{hint or '; GET the model to see its probes'}"
    return IllegalRequestError(message, code="unknown_output", at=place)
