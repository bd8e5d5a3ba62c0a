"""What every face calls: bytes in, bytes out, one type an arrow."""

import asyncio
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import NamedTuple, Protocol, TypeVar, TypeVarTuple, Unpack

from service.check import check, check_again, check_inputs
from service.codec.envelope import LongTextError
from service.errors import GlassblockError
from service.outlet import UNSENT
from service.queue import Answer
from service.repository import Model
from service.request import BlockRequest, BlockResult, Form, Tensors
from service.settings import Settings
from service.shedding import hold_queue, hold_unsent
from service.tensors import Found, Sequence
from service.ticket import ticket, weigh_positions
from service.view import view

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")
_REMEMBERED = 64  # sequences and outputs of a request whose form is remembered: each is some hundred bytes
_OFF_LOOP_BYTES = 2 * 2**20
_ITEM_BYTES = 2048  # as long as so many bytes take to read, a change of a sequence takes to check, or a tensor to write
_NAMED_BYTES = 64  # likewise for a tensor to be named
_LONG_TEXTS = ThreadPoolExecutor(1, "long-texts")  # one at a time: a wrong one may take 20 times its size to explain
_MANY_ITEMS = ThreadPoolExecutor(1, "many-items")  # of shorter texts, which do not wait behind those


class Codec(Protocol):
    """A wire format: a module of `service.codec`, or a value of one where the answer depends on how it was asked."""

    def decode(self, body: bytes | memoryview) -> Tensors:
        """Reads a request; raises LongTextError where that is to be done in a thread."""

    def encode(self, result: BlockResult, model: str, version: str) -> bytes:
        """Writes its answer."""


class Timings(NamedTuple):
    """Seconds of each stage of a request."""

    decode_s: float
    queue_s: float
    run_s: float
    encode_s: float


async def answer(
    model: Model, body: bytes | memoryview, codec: Codec, settings: Settings, *, padded: bool = False
) -> tuple[bytes, Timings]:
    """Answers one request: decode, check, ticket, submit, view, encode.

    Args:
        model: that was asked.
        body: the request, whole.
        codec: reads the body and writes the answer.
        settings: the limits.
        padded: whether the codec writes every sequence's answer as large as the longest one's.

    Raises:
        GlassblockError: the request cannot be answered; says why.
    """
    start_s, this = time.perf_counter(), object()
    model.requests.add(this)
    try:
        data, timings = await _answer(model, body, codec, settings, padded=padded)
    except (GlassblockError, asyncio.CancelledError):
        model.metrics.observe_failure(time.perf_counter() - start_s)
        raise
    finally:
        model.requests.discard(this)
    model.metrics.observe_stages(timings.decode_s, timings.queue_s, timings.run_s, timings.encode_s)
    return data, timings


async def _answer(
    model: Model, body: bytes | memoryview, codec: Codec, settings: Settings, *, padded: bool
) -> tuple[bytes, Timings]:
    start_s = time.perf_counter()
    tensors = await _decode(body, codec)
    request, answer_bytes = await _form(tensors, model, settings, padded=padded)
    hold_unsent(UNSENT.bytes, answer_bytes, settings)
    decoded_s = time.perf_counter()
    answers = await submit(request, model, settings)
    items = len(request.lengths) * len(request.keys)
    result = await _convert(_NAMED_BYTES * items, _MANY_ITEMS, view, request, answers)
    del answers
    run_s = time.perf_counter()
    hold_unsent(UNSENT.bytes, answer_bytes, settings)  # others have come meanwhile
    thread = _LONG_TEXTS if answer_bytes >= _OFF_LOOP_BYTES else _MANY_ITEMS
    size_bytes = answer_bytes + _ITEM_BYTES * items
    data = await _convert(size_bytes, thread, codec.encode, result, model.spec.name, model.spec.version)
    return data, Timings(decoded_s - start_s, result.queue_s, result.run_s, time.perf_counter() - run_s)


async def _decode(body: bytes | memoryview, codec: Codec) -> Tensors:
    if len(body) >= _OFF_LOOP_BYTES:
        return await _convert(len(body), _LONG_TEXTS, _decode_wholly, body, codec)
    try:
        return codec.decode(body)
    except LongTextError as error:
        go_on = error.go_on  # the error itself holds what was read in vain
    return await _convert(_OFF_LOOP_BYTES, _MANY_ITEMS, go_on)


def _decode_wholly(body: bytes | memoryview, codec: Codec) -> Tensors:
    try:
        return codec.decode(body)
    except LongTextError as error:
        go_on = error.go_on
    return go_on()


async def _form(tensors: Tensors, model: Model, settings: Settings, *, padded: bool) -> tuple[BlockRequest, int]:
    """The request, and its answer's bytes; of one whose like was answered of late, the values alone are checked."""
    states, key = tensors.hidden_states, None
    if tensors.key is not None and states is not None and len(states) <= _REMEMBERED:
        key = tensors.key, padded, tuple([values.shape for values in states])
        if (form := model.forms.get(key)) is not None:
            return check_again(form.request, states), form.answer_bytes
    request = await examine(tensors, model, settings)
    answer_bytes = ticket(request, model.spec, settings, padded=padded)
    if key is not None and len(request.keys) <= _REMEMBERED:
        model.forms.put(key, Form(request._replace(hidden_states=None), answer_bytes))
    return request, answer_bytes


async def _convert(
    size_bytes: int, thread: ThreadPoolExecutor, convert: Callable[[Unpack[Arguments]], T], *arguments: *Arguments
) -> T:
    """Calls; in a thread, if it would hold the event loop, and so everybody else, for more than a few milliseconds."""
    if size_bytes < _OFF_LOOP_BYTES:
        return convert(*arguments)
    held = [arguments]
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, lambda: convert(*held[0]))
    finally:
        held.clear()  # of who has left before its turn, the executor keeps what it was given until then


async def examine(tensors: Tensors, model: Model, settings: Settings) -> BlockRequest:
    """Text becomes ids; then everything is held against the model's spec."""
    check_inputs(tensors, model.spec)
    tokens = None
    if tensors.text is not None and model.front is not None:
        ids, tokens = await asyncio.to_thread(model.front.tokenize, tensors.text, settings.max_request_tokens)
        tensors = tensors._replace(text=None, input_ids=ids)
    weigh_positions(tensors, settings)
    changes = len(tensors.interventions) * len(tensors.hidden_states or tensors.input_ids or ())
    limits = settings.max_outputs, settings.max_interventions
    return await _convert(changes * _ITEM_BYTES, _MANY_ITEMS, check, tensors, model.spec, *limits, tokens)


async def submit(request: BlockRequest, model: Model, settings: Settings) -> list[Answer[tuple[Found, ...]]]:
    """Queues every sequence and awaits all; if one fails or the client leaves, the others are withdrawn.

    Raises:
        OverloadedError: too much waits already.
        DeadlineError: the request's time passed before a run of it began.
    """
    hold_queue(model.batcher.load, settings)
    hidden_states = request.hidden_states
    if hidden_states is None and model.front is not None and request.input_ids is not None:
        hidden_states = await asyncio.to_thread(model.front.embed, request.input_ids, request.attention_mask)
        hold_queue(model.batcher.load, settings)  # others have come meanwhile
    wanted = request.wanted
    pairs = zip(hidden_states or (), request.attention_mask, strict=True)
    sequences: list[Sequence] = []
    for (values, mask), edits, own in zip(
        pairs, request.edits or repeat(()), request.position_ids or repeat(None), strict=False
    ):
        sequences.append(Sequence(values, mask, wanted, edits, sequences if request.takes else (), own))
    kind: Hashable = model.runner.depth(wanted, edited=any(request.edits))
    if any(request.edits):  # who changes nothing does not wait for others' changes; who takes has a batch of its own
        kind = (kind, id(sequences) if request.takes else None)
    futures: list[asyncio.Future[Answer[tuple[Found, ...]]]] = []
    answers = None
    try:
        for sequence in sequences:  # all in one turn of the event loop, so that the queue's limit holds
            future = model.batcher.submit(sequence, kind, len(sequence), request.priority, request.timeout_s)
            futures.append(future)
        answers = [await future for future in futures]
        return answers
    finally:
        if answers is None:
            model.batcher.withdraw(futures)
        sequences.clear()  # who takes from another holds all of them, and so itself
