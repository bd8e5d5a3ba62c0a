"""A request on its way: decoded, checked, answered.

What every request makes one of is a named tuple: a frozen dataclass takes several times as long to make, and to hash.
"""

from collections import abc
from typing import Any, NamedTuple

from numpy.typing import NDArray

from service.tensors import BoolArray, Edit, Float32Array, Found, Int64Array, Top, View

DEFAULT_PRIORITY = 5  # so that a client may ask for more, and for less


class Intervention(NamedTuple):
    """What a client wants changed, not yet held against any model.

    Attributes:
        sequence: of the request; None: every one.
        address: as sent.
        verb: scale, add or set.
        value: float32 that broadcasts to one sequence's addressed cells; or the sequence whose same cells are taken.
        place: in the request, for errors.
    """

    sequence: int | None
    address: str
    verb: str
    value: Float32Array | int
    place: str


class Tensors(NamedTuple):
    """A decoded request, not yet held against any model.

    Attributes:
        hidden_states: one array a sequence, float32 [sequence, hidden]; may hold inf where a number overflowed float32.
        input_ids: one array a sequence, int64 [sequence].
        text: one string a sequence.
        attention_mask: one array a sequence, bool [sequence], True = attend; None = attend to all.
        position_ids: one array a sequence, int64 [sequence]; None = 0, 1, 2 and so on.
        outputs: addresses as sent; None = `block_output` alone.
        timeout_s: seconds within which its answer must be computed; None = any time.
        priority: 1 is served first, then 2 and so on; 0 = `DEFAULT_PRIORITY`.
        interventions: in the order sent.
        intervention_lists: sequences that they were listed for, one by one; None: they are not by sequence.
        key: the same for requests that differ in their hidden states alone; None: not known, or there is more to check.
    """

    hidden_states: tuple[Float32Array, ...] | None = None
    input_ids: tuple[Int64Array, ...] | None = None
    text: tuple[str, ...] | None = None
    attention_mask: tuple[BoolArray, ...] | None = None
    position_ids: tuple[Int64Array, ...] | None = None
    outputs: tuple[str, ...] | None = None
    timeout_s: float | None = None
    priority: int = 0
    interventions: tuple[Intervention, ...] = ()
    intervention_lists: int | None = None
    key: abc.Hashable = None


class BlockRequest(NamedTuple):
    """A request that the model can answer.

    Attributes:
        lengths: positions of each sequence.
        hidden_states: one array a sequence, float32 [sequence, hidden]; None while they are still `input_ids`.
        input_ids: one array a sequence, int64 [sequence], all within the vocabulary.
        attention_mask: one array a sequence, bool [sequence].
        keys: the names of the answer's tensors, in order, without repetition.
        wanted: what the keys stand for, each once, since two keys may stand for the same.
        places: of each key in `wanted`.
        tokens: the tokens of each sequence, for text alone.
        timeout_s: seconds within which its answer must be computed; None = any time.
        priority: the least is served first.
        edits: of each sequence; empty if nothing is changed.
        position_ids: one array a sequence, int64 [sequence]; None = 0, 1, 2 and so on.
    """

    lengths: tuple[int, ...]
    hidden_states: tuple[Float32Array, ...] | None
    input_ids: tuple[Int64Array, ...] | None
    attention_mask: tuple[BoolArray, ...]
    keys: tuple[str, ...]
    wanted: tuple[View, ...]
    places: tuple[int, ...]
    tokens: tuple[tuple[str, ...], ...] | None
    timeout_s: float | None
    priority: int
    edits: tuple[tuple[Edit, ...], ...] = ()
    position_ids: tuple[Int64Array, ...] | None = None

    @property
    def views(self) -> abc.Iterator[View]:
        """What each key stands for."""
        return (self.wanted[place] for place in self.places)

    @property
    def takes(self) -> bool:
        """Whether a sequence takes from another, and so must run with it."""
        return any(isinstance(edit.value, int) for edits in self.edits for edit in edits)


class Form(NamedTuple):
    """What requests have in common that differ in the values of their hidden states alone.

    Attributes:
        request: one of them, checked, without its hidden states.
        answer_bytes: of its answer, as the ticket weighs it.
    """

    request: BlockRequest
    answer_bytes: int


class BlockResult(NamedTuple):
    """What a request gets back, unpadded.

    Attributes:
        outputs: by key, one float32 array a sequence, axes as the manifest says without batch, cut and reduced.
        lengths: positions of each sequence.
        tokens: the tokens of each sequence, for text alone.
        queue_s: seconds the slowest sequence waited for a run.
        run_s: seconds of the slowest sequence's run.
    """

    outputs: abc.Mapping[str, abc.Sequence[Found]]
    lengths: tuple[int, ...]
    tokens: tuple[tuple[str, ...], ...] | None
    queue_s: float
    run_s: float

    def tensors(self) -> abc.Iterator[tuple[str, str, list[NDArray[Any]]]]:
        """Outputs as tensors: key, name and one array a sequence; what `top` gave is KEY.values and KEY.indices."""
        for key, found in self.outputs.items():
            if isinstance(found[0], Top):
                yield key, f"{key}.values", [top.values for top in found if isinstance(top, Top)]
                yield key, f"{key}.indices", [top.indices for top in found if isinstance(top, Top)]
            else:
                yield key, key, [array for array in found if not isinstance(array, Top)]
