"""What is remembered of late, and no more than so much."""

import threading
from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """Values by key; beyond the limit, the one that was put first is forgotten. For any thread.

    Args:
        most: how many.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: dict[Hashable, Value] = {}
        self._putting = threading.Lock()

    def get(self, key: Hashable) -> Value | None:
        """What was put, if it is remembered."""
        return self._values.get(key)

    def put(self, key: Hashable, value: Value) -> None:
        """Remembers."""
        with self._putting:
            while len(self._values) >= self._most:
                self._values.pop(next(iter(self._values)))
            self._values[key] = value
