"""What the faces share: where a request's work is done."""

import asyncio
import threading

from service.pipeline import _OFF_LOOP_BYTES, _convert


def test_long_texts_are_read_and_written_while_the_event_loop_turns() -> None:
    go_on = threading.Event()

    async def both() -> bool:
        work = asyncio.ensure_future(_convert(_OFF_LOOP_BYTES, go_on.wait, 20))
        await asyncio.sleep(0.01)
        go_on.set()
        return await work

    assert asyncio.run(both())
