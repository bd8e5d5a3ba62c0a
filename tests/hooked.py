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

torch.set_num_threads(1)  # of so small tensors, more only wait for each other

At = Callable[[str, Tensor], Tensor]  # a probe's name and its tensor [batch, ...] → what it is to be
Cut = tuple[int | slice, ...]
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


class Change(NamedTuple):
    """An intervention of one sequence.

    Attributes:
        address: without a cut.
        cut: numpy's index.
        verb: scale, add or set.
        value: a number or an array that broadcasts to the cells; an int: the sequence whose same cells are taken.
    """

    address: str
    cut: Cut
    verb: str
    value: NDArray[np.float32] | Tensor | float

    def json(self) -> dict[str, Any]:
        """As a client writes it."""
        items = [
            str(item) if isinstance(item, int) else ":".join("" if part is None else str(part) for part in parts(item))
            for item in self.cut
        ]
        value = {"from": self.value} if isinstance(self.value, int) else np.asarray(self.value).tolist()
        return {f"{self.address}[{','.join(items)}]": {self.verb: value}}


def parts(item: slice) -> tuple[Any, Any, Any]:
    """What stands between a slice's colons; the step always."""
    return item.start, item.stop, item.step or 1


def changing(changes: Sequence[Sequence[Change]], found: Tensors) -> At:
    """Applies the changes of each row of a batch, and keeps all that passes as it goes on.

    In a cell scales multiply, then adds sum, then set decides.
    """

    def at(name: str, tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        for row, mine in zip(changed, changes, strict=True):
            here = {verb: [c for c in mine if (c.address, c.verb) == (name, verb)] for verb in ("scale", "add", "set")}
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
