"""A request of the Open Inference Protocol held against the model that it asks, whatever its bytes were.

Names, datatypes and shapes are held against each other here, where their place in the request is known; values and
addresses are left to check.py.
"""

from collections.abc import Callable, Mapping
from typing import Any

from service.address import name_of
from service.codec.inference_head import Head, InputHead, OutputHead
from service.codec.inference_input import read_floats, read_mask, read_whole_numbers
from service.codec.interventions import check_shape, from_tensors, split_name
from service.errors import IllegalRequestError
from service.manifest import FINAL_OUTPUT, POSITIONS, ModelSpec
from service.request import Tensors

PROBES = ".probes"  # behind a model's name: the same model, whose outputs are what is inside
_FLOATS = ("FP32", "FP16", "BF16")
_DATATYPES = {"hidden_states": _FLOATS, "attention_mask": ("INT64", "BOOL"), POSITIONS: ("INT64",)}


def list_outputs(spec: ModelSpec, *, probes: bool) -> dict[str, tuple[int, ...]]:
    """What a model's metadata lists: each output's full address and its sizes, -1 for those that a request decides."""
    if not probes:
        return {FINAL_OUTPUT: tuple(spec.outputs[0].shape)}
    return {
        f"layers.{layer}.{name}": tuple(tensor.shape)
        for layer, tensors in enumerate(spec.probes)
        for name, tensor in tensors.items()
    }


def read_tensors(
    head: Head, spec: ModelSpec, find: Callable[[tuple[InputHead, ...]], Mapping[str, Any]], *, probes: bool
) -> Tensors:
    """Holds a head against the model, and reads the tensors that it speaks of.

    Args:
        head: of the request.
        spec: of the model that was asked.
        find: gives each input's data by name, as `read_floats` and `read_mask` take it, or says what is wrong.
        probes: whether the model was asked as NAME.probes.

    Raises:
        IllegalRequestError: the outputs or inputs are not the model's, or the data is not as the head says; says where.
    """
    outputs = tuple(output.name for output in asked_outputs(head, spec, probes=probes))
    inputs = check_inputs(head.inputs, spec, probes=probes)
    data = find(head.inputs)
    mask, positions = inputs.get("attention_mask"), inputs.get(POSITIONS)
    changes = [one for name, one in inputs.items() if name not in _DATATYPES]
    return Tensors(
        hidden_states=read_floats(inputs["hidden_states"], data["hidden_states"]),
        attention_mask=None if mask is None else read_mask(mask, data["attention_mask"]),
        position_ids=None if positions is None else read_whole_numbers(positions, data[POSITIONS]),
        outputs=outputs,
        timeout_s=head.timeout_s,
        priority=head.priority,
        interventions=from_tensors((one.name, read_floats(one, data[one.name]), one.place) for one in changes),
    )


def asked_outputs(head: Head, spec: ModelSpec, *, probes: bool) -> tuple[OutputHead, ...]:
    """What was asked for, in order; by default all that the metadata lists.

    Raises:
        IllegalRequestError: something inside a model that was not asked as NAME.probes.
    """
    if head.outputs is None:
        return tuple(OutputHead(name, None, "") for name in list_outputs(spec, probes=probes))
    for output in head.outputs:
        if not probes and (name := name_of(output.name)) != FINAL_OUTPUT and spec.aliases.get(name) != FINAL_OUTPUT:
            message = f"expected {FINAL_OUTPUT}: what is inside is an output of model {spec.name}{PROBES}"
            raise IllegalRequestError(message, code="unknown_output", at=f"{output.place}.name")
    return head.outputs


def check_inputs(heads: tuple[InputHead, ...], spec: ModelSpec, *, probes: bool) -> dict[str, InputHead]:
    """The inputs by name, each once, known, of a datatype that is taken, their shapes those of one batch.

    Raises:
        IllegalRequestError: one is not; says where.
    """
    found: dict[str, InputHead] = {}
    for head in heads:
        datatypes = _datatypes(head, spec, probes=probes)
        if head.name in found:
            message = f"{f'input {head.name}' if head.name in _DATATYPES else 'an input'} came twice"
            raise IllegalRequestError(message, code="duplicate_input", at=f"{head.place}.name")
        if head.datatype not in datatypes:
            message = f"expected datatype {' or '.join(datatypes)}, got another one"
            raise IllegalRequestError(message, code="dtype_mismatch", at=f"{head.place}.datatype")
        found[head.name] = head
    if "hidden_states" not in found:
        message = "expected an input called hidden_states, got none"
        raise IllegalRequestError(message, code="missing_input", at="inputs")
    _check_shapes(found, spec)
    return found


def _check_shapes(found: Mapping[str, InputHead], spec: ModelSpec) -> None:
    states = found["hidden_states"]
    _check_rank(states, ("batch", "sequence", "hidden"))
    if states.shape[2] != spec.hidden_size:
        message = f"expected hidden_size {spec.hidden_size}, got {states.shape[2]}"
        raise IllegalRequestError(message, code="wrong_shape", at=f"{states.place}.shape[2]")
    for name, head in found.items():
        if name not in _DATATYPES:
            check_shape(head.shape, states.shape[0], head.place)
        elif head is not states:
            _check_tokens(head, states.shape)


def _check_tokens(head: InputHead, shape: tuple[int, ...]) -> None:
    """A number for each token of hidden_states of this shape."""
    _check_rank(head, ("batch", "sequence"))
    for axis, size in enumerate(head.shape):
        if size != shape[axis]:
            message = f"expected {shape[axis]}, as hidden_states has, got {size}"
            raise IllegalRequestError(message, code="wrong_shape", at=f"{head.place}.shape[{axis}]")


def _datatypes(head: InputHead, spec: ModelSpec, *, probes: bool) -> tuple[str, ...]:
    """Those that an input of this name may have."""
    if head.name in _DATATYPES:
        return _DATATYPES[head.name]
    *names, last = [name for name in _DATATYPES if name != POSITIONS or spec.takes_positions]
    known = f"{', '.join(names)} or {last}"
    if head.name in {"text", "input_ids"}:
        message = f"expected {known}: text and input_ids go to /v1/models/{spec.name}/forward"
        raise IllegalRequestError(message, code="unknown_input", at=f"{head.place}.name")
    if split_name(head.name) is None:
        message = f"expected an input called {known}, or ADDRESS.VERB with scale, add or set for VERB, got another one"
        raise IllegalRequestError(message, code="unknown_input", at=f"{head.place}.name")
    if not probes:
        message = f"expected {known}: what is inside is changed by inputs of model {spec.name}{PROBES}"
        raise IllegalRequestError(message, code="unknown_input", at=f"{head.place}.name")
    return _FLOATS


def _check_rank(head: InputHead, axes: tuple[str, ...]) -> None:
    if len(head.shape) != len(axes):
        message = f"expected a shape of {len(axes)} sizes ({', '.join(axes)}), got {len(head.shape)}"
        raise IllegalRequestError(message, code="wrong_shape", at=f"{head.place}.shape")
