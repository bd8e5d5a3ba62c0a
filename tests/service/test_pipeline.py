"""What the faces share: where a request's work is done."""

import asyncio
import json
import threading
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from service.codec import nested_json, safetensors
from service.codec.envelope import LongTextError
from service.codec.inference import Exchange
from service.errors import GlassblockError, OverloadedError, UnavailableError
from service.pipeline import _LONG_TEXTS, _OFF_LOOP_BYTES, _convert, submit
from service.queue import Load
from service.recent import Recent
from service.request import BlockRequest, Tensors
from service.settings import Settings
from tests.service.inference import ROWS, states


def test_long_texts_are_read_and_written_while_the_event_loop_turns() -> None:
    go_on = threading.Event()

    async def both() -> bool:
        work = asyncio.ensure_future(_convert(_OFF_LOOP_BYTES, _LONG_TEXTS, go_on.wait, 20))
        await asyncio.sleep(0.01)
        go_on.set()
        return await work

    assert asyncio.run(both())


def test_who_leaves_before_a_long_text_has_its_turn_leaves_no_body_behind() -> None:
    go_on, entered = threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        go_on.wait(20)

    async def leave() -> None:
        first = asyncio.ensure_future(_convert(_OFF_LOOP_BYTES, _LONG_TEXTS, wait))
        body = np.zeros(100)  # which can be looked at weakly
        second = asyncio.ensure_future(_convert(_OFF_LOOP_BYTES, _LONG_TEXTS, len, body))
        await asyncio.to_thread(entered.wait, 20)
        second.cancel()
        await asyncio.wait([second])
        seen = weakref.ref(body)
        del body, second
        assert seen() is None
        go_on.set()
        await first

    asyncio.run(leave())


def test_a_request_with_most_of_its_text_in_hidden_states_is_read_at_once_though_it_is_long() -> None:
    rows = np.zeros((90, 1024), np.float32)
    text = json.dumps({"hidden_states": [rows.tolist()]}).encode()
    assert len(text) > 400_000
    (found,) = nested_json.decode(text).hidden_states or ()
    assert np.array_equal(found, rows)


MANY = 20_000
LONG = {
    "token ids": {"input_ids": [[1, 2]] * MANY},
    "texts": {"text": ["a"] * MANY},
    "outputs": {"hidden_states": [[[1]]], "outputs": ["a"] * MANY},
    "a mask": {"hidden_states": [[[1]]], "attention_mask": [[1] * MANY]},
    "interventions": {"hidden_states": [[[1]]], "interventions": [None] * MANY},
    "sequences": {"hidden_states": [[[1.0, 2.0]]] * MANY},
    "numbers, the last of which is none": {"hidden_states": [[[1.5] * MANY + [None]]]},
}


def explained(read: Any, *body: bytes) -> object:
    """What is read, as far as it can be compared, or the sentence that says why it cannot be."""
    try:
        found: Tensors = read(*body)
    except GlassblockError as error:
        return str(error)
    lists = [
        None if arrays is None else [part.tolist() for part in arrays] for arrays in (found[0], found[1], found[3])
    ]
    return lists, found.text, found.outputs, found.intervention_lists


@pytest.mark.parametrize("request_", LONG.values(), ids=LONG)
def test_a_request_of_many_lists_or_strings_is_read_in_a_thread_to_the_same_end(request_: dict[str, Any]) -> None:
    body = json.dumps(request_).encode()
    with pytest.raises(LongTextError) as left:
        nested_json.decode(body)
    assert left.value.__context__ is None  # which would hold what was read in vain
    assert explained(left.value.go_on) == explained(nested_json.decode_slowly, body)


def test_a_head_of_many_outputs_is_read_in_a_thread_and_so_is_one_of_many_sequences() -> None:
    spec: Any = SimpleNamespace(name="tiny", hidden_size=8, aliases={}, outputs=[SimpleNamespace(shape=(-1, -1, 8))])
    rows = [[[1.0] * 8]] * 9_000
    for request in (
        {"inputs": [states()], "outputs": [{"name": "block_output"}] * MANY},
        {"inputs": [states(shape=[9_000, 1, 8], data=rows)]},
    ):
        exchange = Exchange(spec, probes=False, header_length=None, heads=Recent(1))
        with pytest.raises(LongTextError) as left:
            exchange.decode(json.dumps(request).encode())
        found = left.value.go_on()
        assert len(found.outputs or ()) == len(request.get("outputs", [0]))
        assert np.array_equal(found.hidden_states or (), rows if "outputs" not in request else ROWS)


def test_a_header_of_many_outputs_is_read_in_a_thread() -> None:
    said = json.dumps({"__metadata__": {"text": '"a"', "outputs": json.dumps(["b"] * MANY)}}).encode()
    with pytest.raises(LongTextError) as left:
        safetensors.decode(len(said).to_bytes(8, "little") + said)
    assert left.value.go_on() == Tensors(text=("a",), outputs=("b",) * MANY)


def test_sequences_that_were_queued_are_taken_back_if_the_others_cannot_be() -> None:
    futures: list[asyncio.Future[None]] = []

    def take(*_: object) -> asyncio.Future[None]:
        if len(futures) == 2:
            raise UnavailableError("it has ended", code="model_gone")
        futures.append(asyncio.get_running_loop().create_future())
        return futures[-1]

    async def ask() -> list[bool]:
        with pytest.raises(UnavailableError):
            await submit(request, model, Settings.model_validate({}))
        return [future.cancelled() for future in futures]

    def withdraw(taken: list[asyncio.Future[None]]) -> None:
        for future in taken:
            future.cancel()

    batcher = SimpleNamespace(load=Load(), submit=take, withdraw=withdraw)
    model: Any = SimpleNamespace(batcher=batcher, runner=SimpleNamespace(depth=lambda *_, **__: 1))
    rows, mask = (np.zeros((1, 8), np.float32),) * 3, (np.ones(1, bool),) * 3
    request = BlockRequest((1, 1, 1), rows, None, mask, (), (), (), None, None, 5)
    assert asyncio.run(ask()) == [True, True]


def test_token_ids_are_held_against_the_queue_after_they_are_embedded_too() -> None:
    model: Any = SimpleNamespace(
        batcher=SimpleNamespace(load=Load(), withdraw=lambda _: None), runner=SimpleNamespace(depth=lambda *_, **__: 1)
    )

    def embed(*_: object) -> tuple[object]:
        model.batcher.load = Load(tokens=10**9)  # others have come meanwhile
        return (np.zeros((3, 8), np.float32),)

    model.front = SimpleNamespace(embed=embed)
    ids, mask = np.zeros(3, np.int64), np.ones(3, bool)
    request = BlockRequest((3,), None, (ids,), (mask,), (), (), (), None, None, 5)
    with pytest.raises(OverloadedError, match="positions wait for this model"):
        asyncio.run(submit(request, model, Settings.model_validate({})))
