"""One timer for all that a client owes."""

import asyncio
import math
from collections.abc import Callable

_SLACK_S = 0.002  # the event loop counts in milliseconds


class Deadline:
    """One timer a connection, set anew only when a deadline comes earlier than it.

    Args:
        loop: that runs the connection.
        on_passed: called when a deadline passes.

    Attributes:
        at_s: by the loop's clock; infinite: none.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_passed: Callable[[], None]) -> None:
        self._loop = loop
        self._on_passed = on_passed
        self.at_s = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = math.inf

    def set(self, timeout_s: float) -> None:
        """Lets it pass in so many seconds."""
        self._set_at(self._loop.time() + timeout_s)

    def stop(self) -> None:
        """Forgets the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _set_at(self, at_s: float) -> None:
        self.at_s = at_s
        if at_s < self._timer_s:
            self.stop()
            self._timer, self._timer_s = self._loop.call_at(at_s, self._look), at_s

    def _look(self) -> None:
        self._timer, self._timer_s = None, math.inf
        if self._loop.time() + _SLACK_S < self.at_s:
            self._set_at(self.at_s)
        else:
            self._on_passed()
