"""How many requests are under way, whichever face they came by: one limit for the process."""

from service import metrics
from service.errors import OverloadedError


class Places:
    """Counts requests under way.

    Args:
        limit: as many may be.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0

    def hold(self) -> None:
        """Refuses while no place is free.

        Raises:
            OverloadedError: as many are under way as may be.
        """
        if self._taken >= self._limit:
            message = f"{self._limit} requests are under way already; try again in a moment"
            raise OverloadedError(message, code="in_flight", headers={"Retry-After": "1"})

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
