"""The ticket: what a request weighs, held against the limits after the check and before the queue."""

from collections import Counter

from service.cut import view_bytes
from service.errors import IllegalRequestError, SwitchedOffError
from service.manifest import FINAL_OUTPUT, ModelSpec
from service.request import BlockRequest, Tensors
from service.settings import Settings
from service.tensors import View

_LEAST_BYTES = 256  # that a part of a tensor is counted as: an array costs a microsecond and a hundred bytes by itself


def weigh_positions(tensors: Tensors, settings: Settings) -> None:
    """The ticket's first part, before the check looks at each sequence: at a million of them, that takes seconds.

    Raises:
        IllegalRequestError: more positions than the limit.
    """
    total = sum(map(len, tensors.hidden_states or tensors.input_ids or ()))
    _weigh("positions in all sequences", total, settings.max_request_tokens, "too_many_tokens")


def ticket(request: BlockRequest, spec: ModelSpec, settings: Settings, *, padded: bool) -> int:
    """Weighs H·S² of a layer, and the answer as float32 (`padded`: all as long as the longest); returns its bytes.

    Raises:
        IllegalRequestError: heavier than a limit; says the limit and the weight.
        SwitchedOffError: a probe was asked for, and the layers' graphs are off.
    """
    inside = any(request.edits) or any(view.output.probe != FINAL_OUTPUT for view in request.views)
    if settings.layer_graphs == "off" and inside:
        raise SwitchedOffError("only block_output is served: the layers' graphs are off", code="layer_graphs_off")
    cells = (spec.num_attention_heads or 1) * sum([length**2 for length in request.lengths])
    _weigh("cells of heads times squared length", cells, settings.max_attention_cells, "too_much_attention")
    size = _answer_bytes(request, spec, padded=padded)
    _weigh("bytes in the answer as float32", size, settings.max_answer_bytes, "answer_too_large")
    return size


def _answer_bytes(request: BlockRequest, spec: ModelSpec, *, padded: bool) -> int:
    """By powers of the length, or for each length once, so that many sequences and outputs are weighed in no time."""
    powers: dict[int, int] = {}
    parts: list[View] = []
    for view in request.views:
        if view.cut or view.reduction:
            parts.append(view)
        else:
            elements, power = spec.tensor(view.output).growth
            powers[power] = powers.get(power, 0) + elements
    lengths = (max(request.lengths),) * len(request.lengths) if padded else request.lengths
    size = _parts_bytes(parts, request.lengths, spec, padded=padded) if parts else 0
    for power, elements in powers.items():
        size += 4 * elements * sum([length**power for length in lengths])
    return size


def _parts_bytes(parts: list[View], lengths: tuple[int, ...], spec: ModelSpec, *, padded: bool) -> int:
    """Of views that are cut or reduced; an array of a single number is no lighter than one of `_LEAST_BYTES`."""
    counted, least = Counter(lengths), _LEAST_BYTES * len(lengths)
    return sum(
        keys * max(least, view_bytes(view, spec.tensor(view.output), counted, padded=padded))
        for view, keys in Counter(parts).items()
    )


def _weigh(what: str, weight: int, limit: int, code: str) -> None:
    if weight > limit:
        raise IllegalRequestError(f"expected at most {limit:,} {what}, got {weight:,}", code=code)
