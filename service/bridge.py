"""From a thread to the event loop and back."""

import asyncio
import math
import threading
from collections.abc import Callable
from typing import TypeVarTuple, Unpack

Arguments = TypeVarTuple("Arguments")
_TURNS, _BREATH_S = 8, 0.02  # of the event loop in a breath, and how long they may take
_refused = threading.Event()  # for all models: the door is one


class Bridge:
    """Lets a thread call into an event loop, and wait until that has caught up."""

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

    def breathe(self, most_s: float = math.inf) -> None:
        """Waits for a few turns of the event loop: what it was told is done, and what came meanwhile is read.

        There is no window in it: turns of a loop that has nothing to do take no time. Why it pays is in
        docs/decisions/0022.

        Args:
            most_s: after which it does not wait for them any longer.
        """
        behind = threading.Lock()
        behind.acquire()
        self.tell(self._turn, _TURNS, behind)
        behind.acquire(timeout=min(most_s, _BREATH_S))

    def _turn(self, turns: int, behind: threading.Lock) -> None:
        if turns and self._loop is not None:
            self._loop.call_soon(self._turn, turns - 1, behind)
        else:
            behind.release()


def note_refusal() -> None:
    """A request is refused for the load."""
    if not _refused.is_set():
        _refused.set()


def has_refused() -> bool:
    """Whether a request was since this was asked last."""
    refused = _refused.is_set()
    _refused.clear()
    return refused
