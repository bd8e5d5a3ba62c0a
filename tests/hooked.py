"""PyTorch's own modules with hooks where our probes lie, to read and to change what passes there."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tests.artifacts import MINILM
from tests.changes import VERBS, Change

torch.set_num_threads(1)  # of so small tensors, more only wait for each other

At = Callable[[str, Tensor], Tensor]  # a probe's name and its tensor [batch, ...] → what it is to be
Tensors = dict[str, Tensor]


class Place(NamedTuple):
    """Where a probe lies: what goes into a module, or comes out of it; `heads`, if we split it into so many.

    A change must reach all that use the tensor, so where several modules do, the place is what comes out.
    """

    module: str
    side: str = "out"
    heads: int = 0


BERT = {
    "layer_input": Place("", "in"),
    "attention_input": Place("attention.self", "in"),
    "query": Place("attention.self.query", heads=12),
    "key": Place("attention.self.key", heads=12),
    "value": Place("attention.self.value", heads=12),
    "context": Place("attention.output.dense", "in", heads=12),
    "attention_output": Place("attention.output.dense"),
    "resid_mid": Place("attention.output.LayerNorm", "in"),
    "ffn_input": Place("attention.output"),
    "ffn_pre_activation": Place("intermediate.dense"),
    "ffn_post_activation": Place("intermediate"),
    "ffn_output": Place("output.dense"),
    "resid_post": Place("output.LayerNorm", "in"),
    "layer_output": Place(""),
}
SITES = (*BERT, "attention_scores", "attention_weights")
POST_NORM_ENCODER = {
    "layer_input": Place("", "in"),
    "attention_input": Place("self_attn", "in"),
    "attention_output": Place("self_attn"),
    "resid_mid": Place("norm1", "in"),
    "ffn_input": Place("norm1"),
    "ffn_pre_activation": Place("linear1"),
    "ffn_post_activation": Place("linear2", "in"),
    "ffn_output": Place("linear2"),
    "resid_post": Place("norm2", "in"),
    "layer_output": Place(""),
}
# Its residual stream passes by norm1 and norm2, and through no module.
PRE_NORM_ENCODER = {name: POST_NORM_ENCODER[name] for name in POST_NORM_ENCODER if not name.startswith("resid")} | {
    "attention_input": Place("norm1"),
    "ffn_input": Place("norm2"),
}


def changing(changes: Sequence[Sequence[Change]], found: Tensors) -> At:
    """Applies the changes of each row of a batch, and keeps all that passes as it goes on.

    In a cell scales multiply, then adds sum, then set decides.
    """

    def at(name: str, tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        for row, mine in zip(changed, changes, strict=True):
            here = {verb: [c for c in mine if (c.address, c.verb) == (name, verb)] for verb in VERBS}
            for verb, ones in here.items():
                for one in ones:
                    value = torch.as_tensor(one.value).to(row.dtype)
                    old = row[one.cut].clone()
                    row[one.cut] = {"scale": old * value, "add": old + value, "set": value}[verb]
        found[name] = changed
        return changed

    return at


@contextmanager
def hooked(layer: nn.Module, places: Mapping[str, Place], at: At) -> Iterator[None]:
    """Within it, a layer's tensors pass through `at`."""

    def through(name: str, place: Place, tensor: Tensor) -> Tensor:
        ours = tensor.reshape(*tensor.shape[:-1], place.heads, -1) if place.heads else tensor
        return at(name, ours).reshape(tensor.shape)

    def hook(name: str, place: Place) -> Any:
        def before(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            changed = through(name, place, args[0])
            return tuple(changed if argument is args[0] else argument for argument in args)

        def after(_module: nn.Module, _args: Any, found: Any) -> Any:
            if isinstance(found, tuple):
                return through(name, place, found[0]), *found[1:]
            return through(name, place, found)

        module = layer.get_submodule(place.module)
        if place.side == "in":
            return module.register_forward_pre_hook(before)
        return module.register_forward_hook(after)

    handles = [hook(name, place) for name, place in places.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Softmaxes(TorchFunctionMode):
    """Within it, what goes into the N-th softmax passes through `at` as the scores of layer N, and its weights too."""

    def __init__(self, at: At) -> None:
        super().__init__()
        self._at = at
        self._layer = 0

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not nn.functional.softmax:
            return func(*args, **(kwargs or {}))
        name, self._layer = f"layers.{self._layer}.attention_", self._layer + 1
        return self._at(f"{name}weights", func(self._at(f"{name}scores", args[0]), *args[1:], **kwargs))


@contextmanager
def eager() -> Iterator[None]:
    """Within it, PyTorch's layers run as they are written, without the fused path of their own, and keep nothing."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def run_encoder(
    layer: nn.Module, places: Mapping[str, Place], hidden_states: Tensor, changes: Sequence[Sequence[Change]]
) -> Tensors:
    """What is at each place of an nn.TransformerEncoderLayer, changed row by row, and block_output.

    Args:
        layer: of the dtype of `hidden_states`.
        places: of its probes.
        hidden_states: [batch, sequence, hidden].
        changes: of each row; an address begins with layers.0.
    """
    found: Tensors = {}
    at = changing(changes, found)
    with eager(), hooked(layer, places, lambda name, x: at(f"layers.0.{name}", x)):
        return {"block_output": layer(hidden_states)} | found


@cache
def minilm() -> tuple[Any, nn.Module, nn.Module]:
    """MiniLM of `transformers`, eager: its tokenizer, and the model in float32 and in float64."""
    from transformers import AutoModel, AutoTokenizer

    from export.sources import minilm as source

    folder = source.folder(MINILM)
    single, double = (
        AutoModel.from_pretrained(folder, attn_implementation="eager", local_files_only=True).eval() for _ in range(2)
    )
    return AutoTokenizer.from_pretrained(folder, local_files_only=True), single, double.double()


def run_bert(model: nn.Module, inputs: Mapping[str, Tensor], changes: Sequence[Sequence[Change]]) -> Tensors:
    """Every probe of a batch of sentences of one length, changed row by row, and block_output.

    Args:
        model: of `minilm`.
        inputs: what its tokenizer gave.
        changes: of each row; an address has its layer, as in layers.3.query.
    """
    found: Tensors = {}
    at = changing(changes, found)
    encoder: Any = model.encoder
    with ExitStack() as stack, torch.no_grad():
        for number, layer in enumerate(encoder.layer):
            stack.enter_context(hooked(layer, BERT, lambda name, x, n=number: at(f"layers.{n}.{name}", x)))  # type: ignore[misc]
        stack.enter_context(Softmaxes(at))
        return {"block_output": model(**inputs).last_hidden_state} | found


def run_alone(
    sentences: Sequence[str], changes: Sequence[Sequence[Change]], order: Iterable[int] = ()
) -> list[tuple[Tensors, Tensors]]:
    """All tensors of each sentence by itself, in float32 and float64; in an order in which the taken are there."""
    tokenizer, *models = minilm()
    found: dict[int, list[Tensors]] = {}
    for index in order or range(len(sentences)):
        inputs = tokenizer(sentences[index], return_tensors="pt")
        found[index] = []
        for place, model in enumerate(models):
            mine = [
                one._replace(value=found[one.value][place][one.address][one.cut]) if isinstance(one.value, int) else one
                for one in changes[index]
            ]
            found[index].append(row_of(run_bert(model, inputs, [mine]), 0))
    return [(found[index][0], found[index][1]) for index in range(len(sentences))]


def row_of(tensors: Tensors, row: int) -> Tensors:
    """Each tensor of one row of a batch."""
    return {name: tensor[row] for name, tensor in tensors.items()}


def assert_equal_by_the_rule(
    got: NDArray[Any], single: Tensor, double: Tensor, keep: NDArray[np.bool_] | None = None, what: str = ""
) -> None:
    """|ours − f64| ≤ 2·max|f32 − f64| + 1e-5·max(1, |f64|), in the positions to keep (docs/decisions/0003)."""
    here = ... if keep is None else keep
    want = double.numpy()[here]
    own_error = np.abs(single.numpy().astype(np.float64)[here] - want).max(initial=0.0)
    bound = 2 * own_error + 1e-5 * np.maximum(1.0, np.abs(want))
    assert got.shape == double.shape, what
    assert (np.abs(np.asarray(got, np.float64)[here] - want) <= bound).all(), what
