"""How many requests are under way, whichever face they came by: one limit for the process."""

from service import metrics
from service.settings import Settings
from service.shedding import shed


class Places:
    """Counts requests under way.

    Args:
        settings: the limit.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._taken = 0

    def hold(self) -> None:
        """Refuses while no place is free.

        Raises:
            OverloadedError: as many are under way as may be.
        """
        if self._taken >= (limit := self._settings.max_in_flight):
            message = f"{limit} requests are under way already; try again in a moment"
            raise shed(message, 1.0, self._settings, code="in_flight")

    def take(self) -> None:
        """Takes one; `leave` gives it back.

        Raises:
            OverloadedError: none is free.
        """
        self.hold()
        self._taken += 1
        metrics.IN_FLIGHT.set(self._taken)

    def leave(self) -> None:
        """Gives one back."""
        self._taken -= 1
        metrics.IN_FLIGHT.set(self._taken)
