"""How many requests are under way, and what their bodies take, whichever face they came by: limits for the process."""

from service import metrics
from service.settings import Settings
from service.shedding import shed


class Places:
    """Counts requests under way and the bytes of their bodies.

    Args:
        settings: the limits.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._taken = 0
        self._bytes = 0
        metrics.IN_FLIGHT.set_function(lambda: self._taken)

    def hold(self, size_bytes: int) -> None:
        """Refuses while there is no place for a body of this size.

        Raises:
            OverloadedError: as many are under way as may be, or their bodies take too much.
        """
        if self._taken >= (limit := self._settings.max_in_flight):
            message = f"{limit} requests are under way already; try again in a moment"
            raise shed(message, 1.0, self._settings, code="in_flight")
        self._hold_bytes(size_bytes)

    def _hold_bytes(self, size_bytes: int) -> None:
        if self._bytes + size_bytes > (limit := max(self._settings.max_bodies_bytes, self._settings.max_body_bytes)):
            message = f"the bodies under way take {limit:,} bytes with this one, or more; try again in a moment"
            raise shed(message, 1.0, self._settings, code="bodies_full")

    def take(self, size_bytes: int) -> None:
        """Takes a place; `leave` gives it back, with the same size.

        Raises:
            OverloadedError: none is free.
        """
        self.hold(size_bytes)
        self._taken += 1
        self._bytes += size_bytes

    def grow(self, size_bytes: int) -> None:
        """Counts what a body under way takes beyond what was known of it; given back by `leave` too.

        Raises:
            OverloadedError: it takes too much, beside the others.
        """
        self._hold_bytes(size_bytes)
        self._bytes += size_bytes

    def leave(self, size_bytes: int) -> None:
        """Gives a place back."""
        self._taken -= 1
        self._bytes -= size_bytes
