"""What the faces share: where a request's work is done."""

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from service.errors import OverloadedError
from service.pipeline import _OFF_LOOP_BYTES, _convert, submit
from service.queue import Load
from service.request import BlockRequest
from service.settings import Settings


def test_long_texts_are_read_and_written_while_the_event_loop_turns() -> None:
    go_on = threading.Event()

    async def both() -> bool:
        work = asyncio.ensure_future(_convert(_OFF_LOOP_BYTES, go_on.wait, 20))
        await asyncio.sleep(0.01)
        go_on.set()
        return await work

    assert asyncio.run(both())


def test_token_ids_are_held_against_the_queue_after_they_are_embedded_too() -> None:
    model: Any = SimpleNamespace(batcher=SimpleNamespace(load=Load()))

    def embed(*_: object) -> None:
        model.batcher.load = Load(tokens=10**9)  # others have come meanwhile

    model.front = SimpleNamespace(embed=embed)
    ids, mask = np.zeros(3, np.int64), np.ones(3, bool)
    request = BlockRequest((3,), None, (ids,), (mask,), (), (), (), None, None, 5)
    with pytest.raises(OverloadedError, match="positions wait for this model"):
        asyncio.run(submit(request, model, Settings.model_validate({})))
