"""When a connection reads on."""

import asyncio
from collections.abc import Sized

from uvicorn.protocols.http.flow_control import FlowControl


class Flow(FlowControl):
    """Uvicorn's, which reads on after each answer: a packet's thousands of small requests would pile up without end.

    Args:
        transport: of the connection.
        waiting: the requests that wait for their turn; nothing is read while there are any.
    """

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        """Reads on, unless a request waits."""
        if not self._waiting:
            super().resume_reading()
