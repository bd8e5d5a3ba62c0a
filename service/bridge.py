"""From a thread to the event loop and back."""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVarTuple, Unpack

Arguments = TypeVarTuple("Arguments")
_TURNS = 8  # of the event loop in a breath
_refused = threading.Event()  # for all models: the door is one


class Bridge:
    """Lets a thread call into an event loop, at once or when that has caught up."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def connect(self) -> None:
        """Leads to the running event loop from now on."""
        self._loop = asyncio.get_running_loop()

    @property
    def is_connected(self) -> bool:
        """Whether `connect` was called."""
        return self._loop is not None

    def tell(self, function: Callable[[Unpack[Arguments]], None], *arguments: *Arguments) -> None:
        """Calls in the event loop, unless that has ended."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def tell_behind(self, function: Callable[[], None]) -> None:
        """Calls in the event loop after a few turns: what it was told is done then, and what came meanwhile is read.

        There is no window in it: turns of a loop that has nothing to do take no time. Why it pays is in
        docs/decisions/0022.
        """
        self.tell(self._turn, _TURNS, function)

    def _turn(self, turns: int, function: Callable[[], None]) -> None:
        if turns and self._loop is not None:
            self._loop.call_soon(self._turn, turns - 1, function)
        else:
            function()


def note_refusal() -> None:
    """A request is refused for the load."""
    if not _refused.is_set():
        _refused.set()


def has_refused() -> bool:
    """Whether a request was since this was asked last."""
    refused = _refused.is_set()
    _refused.clear()
    return refused
