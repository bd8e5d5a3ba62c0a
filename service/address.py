"""The grammar of names: which tensor an address means.

    address = probe | "layers." layers "." probe | "block_output" | alias
    layers  = number | "*" | [number] ":" [number]          (half-open)

A bare probe stands for every layer. Slices and reductions are part of the grammar (docs/architecture.md) and not served
yet: `[` and `|` are refused in words.
"""

import re
from collections.abc import Iterable

from service.errors import IllegalRequestError, nearest
from service.manifest import FINAL_OUTPUT, ModelSpec
from service.tensors import Output

MAX_ADDRESS_CHARACTERS = 256
_IN_LAYERS = re.compile(
    r"layers\.(?:(?P<number>\d{1,9})|(?P<all>\*)|(?P<start>\d{0,9}):(?P<stop>\d{0,9}))\.(?P<probe>\w+)",
    re.ASCII,
)


def expand(addresses: Iterable[str], spec: ModelSpec, max_outputs: int) -> dict[str, Output]:
    """Turns addresses into tensors, keyed by the address as sent with only the layer filled in, in order.

    Args:
        addresses: as the client wrote them.
        spec: the model they are asked of.
        max_outputs: tensors that one request may name.

    Raises:
        IllegalRequestError: unknown address (with the nearest right ones), layer out of range, a key twice, too many.
    """
    found: dict[str, Output] = {}
    for index, address in enumerate(addresses):
        place = f"outputs[{index}]"
        for key, output in _expand_one(address, spec, place):
            if key in found:
                raise IllegalRequestError(f"{key} is asked for twice", code="duplicate_output", at=place)
            found[key] = output
        if len(found) > max_outputs:
            raise IllegalRequestError(
                f"expected at most {max_outputs} tensors after expansion", code="too_many_outputs", at=place
            )
    return found


def _expand_one(address: str, spec: ModelSpec, place: str) -> list[tuple[str, Output]]:
    if address == FINAL_OUTPUT or spec.aliases.get(address) == FINAL_OUTPUT:
        return [(address, Output(None, FINAL_OUTPUT))]
    if match := _IN_LAYERS.fullmatch(address[: MAX_ADDRESS_CHARACTERS + 1]):
        layers, probe = _layers(match, len(spec.layers), place), match["probe"]
    else:
        layers, probe = range(len(spec.layers)), address
    having = [layer for layer in layers if probe in spec.probes[layer]]
    if not having or (len(having) < len(layers) and probe != address):
        raise _unknown(address, spec, place)
    if probe == address and len(spec.layers) == 1:
        return [(probe, Output(0, probe))]
    return [(f"layers.{layer}.{probe}", Output(layer, probe)) for layer in having]


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
    if "[" in address or "|" in address:
        message = "expected an address without slice ([…]) or reduction (|…): this version does not serve them"
        return IllegalRequestError(message, code="unknown_output", at=place)
    probes = sorted({probe for layer in spec.probes for probe in layer})
    prefix, _, name = address.rpartition(".")
    if prefix and name in probes:
        message = "expected layers.LAYERS.PROBE with LAYERS a number, a range A:B or *"
        return IllegalRequestError(message, code="unknown_output", at=place)
    hint = nearest(name, [FINAL_OUTPUT, *spec.aliases, *probes], 2)
    message = f"expected block_output, a probe, or layers.N.PROBE{hint or '; GET the model to see its probes'}"
    return IllegalRequestError(message, code="unknown_output", at=place)
