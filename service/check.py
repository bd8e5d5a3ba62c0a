"""Tensors → BlockRequest: shapes, values, mask and names held against the model's spec.

What passes here can meet no neighbour with harm: finite, of the right size, zero where masked.
"""

import math
from itertools import repeat

import numpy as np

from service.address import expand
from service.errors import IllegalRequestError
from service.intervention import read_interventions
from service.manifest import FINAL_OUTPUT, POSITIONS, ModelSpec
from service.request import DEFAULT_PRIORITY, BlockRequest, Tensors
from service.tensors import BoolArray, Edit, Float32Array, Int64Array


def check(
    tensors: Tensors,
    spec: ModelSpec,
    max_outputs: int,
    max_interventions: int,
    tokens: tuple[tuple[str, ...], ...] | None = None,
) -> BlockRequest:
    """Holds a decoded request against a model.

    Args:
        tensors: decoded; text has become `input_ids` already.
        spec: the model.
        max_outputs: tensors that one request may name.
        max_interventions: tensors that one request may change.
        tokens: the tokens of each sequence, for text.

    Raises:
        IllegalRequestError: says what was expected, what came and where.
    """
    name = "text" if tokens is not None else "input_ids" if tensors.hidden_states is None else "hidden_states"
    lengths = _check_lengths(tensors, spec, name)
    mask = _check_mask(tensors, lengths)
    _check_positions(tensors, spec, lengths)
    hidden_states = input_ids = None
    if tensors.hidden_states is not None:
        pairs = zip(tensors.hidden_states, tensors.attention_mask or repeat(None), strict=False)
        hidden_states = tuple(_check_values(*pair, spec.hidden_size, index) for index, pair in enumerate(pairs))
    elif tensors.input_ids is not None:
        _check_ids(tensors.input_ids, spec)
        input_ids = tensors.input_ids
    views = expand(tensors.outputs or (FINAL_OUTPUT,), spec, max_outputs, lengths)
    places = {view: place for place, view in enumerate(dict.fromkeys(views.values()))}
    return BlockRequest(
        lengths,
        hidden_states,
        input_ids,
        mask,
        keys=tuple(views),
        wanted=tuple(places),
        places=tuple(places[view] for view in views.values()),
        tokens=tokens,
        timeout_s=tensors.timeout_s,
        priority=tensors.priority or DEFAULT_PRIORITY,
        edits=_read_edits(tensors, spec, lengths, max_interventions),
        position_ids=tensors.position_ids,
    )


def check_again(form: BlockRequest, hidden_states: tuple[Float32Array, ...]) -> BlockRequest:
    """A request of the same form as one that was checked: without a mask, its values are all that can be wrong.

    Args:
        form: that request, without its hidden states.
        hidden_states: one array a sequence, float32 [sequence, hidden], of its lengths.

    Raises:
        IllegalRequestError: a value is not finite; says where.
    """
    for index, values in enumerate(hidden_states):
        _hold_finite(values, index)
    return form._replace(hidden_states=hidden_states)


def check_inputs(tensors: Tensors, spec: ModelSpec) -> None:
    """Exactly one kind of input, and one that the model takes.

    Raises:
        IllegalRequestError: none or several came, an empty batch, or a model without text got text or ids.
    """
    inputs = {"hidden_states": tensors.hidden_states, "input_ids": tensors.input_ids, "text": tensors.text}
    given = [name for name, value in inputs.items() if value is not None]
    if len(given) != 1:
        came = " and ".join(given) or "none"
        message = f"expected one of hidden_states, input_ids, text, got {came}"
        raise IllegalRequestError(message, code="wrong_inputs")
    name = given[0]
    if not inputs[name]:
        raise IllegalRequestError("expected at least one sequence, got an empty list", code="empty_batch", at=name)
    if name != "hidden_states" and spec.text is None:
        message = f"expected hidden_states: model {spec.name} has no text front, so it takes no {name}"
        raise IllegalRequestError(message, code="no_text_front", at=name)
    if name == "text" and tensors.attention_mask is not None:
        message = "attention_mask does not go with text: the tokenizer decides on positions"
        raise IllegalRequestError(message, code="mask_with_text", at="attention_mask")
    if name == "text" and tensors.position_ids is not None:
        message = "position_ids do not go with text: the tokenizer decides on positions"
        raise IllegalRequestError(message, code="positions_with_text", at=POSITIONS)


def _check_lengths(tensors: Tensors, spec: ModelSpec, name: str) -> tuple[int, ...]:
    limit = spec.max_sequence_length
    if name != "hidden_states" and spec.text is not None:
        limit = min((most for most in (limit, spec.text.max_tokens) if most), default=None)
    sequences = tensors.hidden_states if tensors.hidden_states is not None else tensors.input_ids
    lengths = tuple(map(len, sequences or ()))
    for index, length in enumerate(lengths):
        if length == 0:
            message = "expected at least 1 position, got 0"
            raise IllegalRequestError(message, code="empty_sequence", at=f"{name}[{index}]")
        if limit is not None and length > limit:
            message = f"expected at most {limit} positions, got {length}"
            raise IllegalRequestError(message, code="sequence_too_long", at=f"{name}[{index}]")
    return lengths


def _read_edits(tensors: Tensors, spec: ModelSpec, lengths: tuple[int, ...], most: int) -> tuple[tuple[Edit, ...], ...]:
    if tensors.intervention_lists not in {None, len(lengths)}:
        message = f"expected an object or null for each of {len(lengths)} sequences, got {tensors.intervention_lists}"
        raise IllegalRequestError(message, code="wrong_shape", at="interventions")
    return read_interventions(tensors.interventions, spec, lengths, most) if tensors.interventions else ()


def _check_mask(tensors: Tensors, lengths: tuple[int, ...]) -> tuple[BoolArray, ...]:
    if tensors.attention_mask is None:
        return tuple(np.frombuffer(b"\1" * length, np.bool_) for length in lengths)
    _check_as_long(tensors.attention_mask, lengths, "attention_mask")
    return tensors.attention_mask


def _check_positions(tensors: Tensors, spec: ModelSpec, lengths: tuple[int, ...]) -> None:
    if tensors.position_ids is None:
        return
    if not spec.takes_positions or (limit := spec.max_sequence_length) is None:
        message = f"expected no position_ids: the layers of model {spec.name} turn nothing by positions"
        raise IllegalRequestError(message, code="no_positions", at=POSITIONS)
    _check_as_long(tensors.position_ids, lengths, POSITIONS)
    for index, positions in enumerate(tensors.position_ids):
        outside = (positions < 0) | (positions >= limit)
        if outside.any():
            message = f"expected positions from 0 to {limit - 1}, got one outside"
            place = f"{POSITIONS}[{index}][{int(outside.argmax())}]"
            raise IllegalRequestError(message, code="position_out_of_range", at=place)


def _check_as_long(arrays: tuple[BoolArray, ...] | tuple[Int64Array, ...], lengths: tuple[int, ...], name: str) -> None:
    """As many sequences as the input has, each as long."""
    if len(arrays) != len(lengths):
        message = f"expected as many sequences as the input has ({len(lengths)}), got {len(arrays)}"
        raise IllegalRequestError(message, code="wrong_shape", at=name)
    for index, (array, length) in enumerate(zip(arrays, lengths, strict=True)):
        if len(array) != length:
            message = f"expected as many positions as the input has ({length}), got {len(array)}"
            raise IllegalRequestError(message, code="wrong_shape", at=f"{name}[{index}]")


def _check_values(values: Float32Array, mask: BoolArray | None, hidden_size: int, index: int) -> Float32Array:
    """Returns float32 [sequence, hidden], zero where masked; only then must it be finite."""
    if values.shape[1] != hidden_size:
        message = f"expected hidden_size {hidden_size}, got {values.shape[1]}"
        raise IllegalRequestError(message, code="wrong_shape", at=f"hidden_states[{index}][0]")
    if mask is not None and not mask.all():
        values = np.where(mask[:, None], values, np.float32(0))
    _hold_finite(values, index)
    return values


def _hold_finite(values: Float32Array, index: int) -> None:
    if math.isfinite(np.vdot(values, values)):  # in half the time; a sum of squares that is not may only be too large
        return
    finite = np.isfinite(values)
    if not finite.all():
        position, dimension = np.argwhere(~finite)[0]
        message = "expected finite float32 numbers, got NaN, an infinity or one beyond their range"
        raise IllegalRequestError(message, code="value_overflow", at=f"hidden_states[{index}][{position}][{dimension}]")


def _check_ids(input_ids: tuple[Int64Array, ...], spec: ModelSpec) -> None:
    vocab_size = spec.text.vocab_size if spec.text else 0
    for index, ids in enumerate(input_ids):
        outside = (ids < 0) | (ids >= vocab_size)
        if outside.any():
            message = f"expected ids from 0 to {vocab_size - 1}, got one outside"
            place = f"input_ids[{index}][{int(outside.argmax())}]"
            raise IllegalRequestError(message, code="id_out_of_range", at=place)
