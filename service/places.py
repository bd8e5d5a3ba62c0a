"""How many requests are under way, and what their bodies take, whichever face they came by: limits for the process."""

from collections.abc import Iterator
from contextlib import contextmanager

from service.settings import Settings
from service.shedding import shed


class Places:
    """Counts requests under way, and the bytes of bodies that are here.

    Args:
        settings: the limits.

    Attributes:
        taken: requests under way.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.taken = 0
        self._bytes = 0

    def hold(self, size_bytes: int) -> None:
        """Refuses while there is no place, or no room for a body of this size.

        Raises:
            OverloadedError: as many are under way as may be, or bodies take too much.
        """
        self._hold_place()
        self._hold_bytes(size_bytes)

    def take(self) -> None:
        """Takes a place; `leave` gives it back.

        Raises:
            OverloadedError: none is free.
        """
        self._hold_place()
        self.taken += 1

    def leave(self) -> None:
        """Gives a place back."""
        self.taken -= 1

    def add(self, size_bytes: int) -> None:
        """Counts what has come of a body, or what it was inflated to; `remove` takes it off again.

        Raises:
            OverloadedError: it takes too much, beside the others.
        """
        self._hold_bytes(size_bytes)
        self._bytes += size_bytes

    def remove(self, size_bytes: int) -> None:
        """Counts a body, or a part of it, no more."""
        self._bytes -= size_bytes

    @contextmanager
    def one(self, size_bytes: int = 0) -> Iterator[None]:
        """A place, and room for a body, while the block runs.

        Raises:
            OverloadedError: as `hold`.
        """
        self.hold(size_bytes)
        self.take()
        self.add(size_bytes)
        try:
            yield
        finally:
            self.leave()
            self.remove(size_bytes)

    def _hold_place(self) -> None:
        if self.taken >= (limit := self._settings.max_in_flight):
            message = f"{limit} requests are under way already; try again in a moment"
            raise shed(message, 1.0, self._settings, code="in_flight")

    def _hold_bytes(self, size_bytes: int) -> None:
        if self._bytes + size_bytes > (limit := max(self._settings.max_bodies_bytes, self._settings.max_body_bytes)):
            message = f"no room for this body: all that are here may take {limit:,} bytes; try again in a moment"
            raise shed(message, 1.0, self._settings, code="bodies_full")
