"""Refusals of one moment are written at once, as network drivers coalesce interrupts.

A thread that wakes for each request finds in the processor's caches what a run left there, its weights, and a refusal
then takes several times what it takes behind another one: docs/decisions/0037.
"""

import asyncio
import time

from service.bridge import note_refusal

LONGEST_REST_S = 0.02
_SHARE = 0.02  # of what waits: the runs never wait for the rest


class Coalescing:
    """After refusals, lets the event loop rest before it reads on, once there is nothing else to refuse."""

    def __init__(self) -> None:
        self._rest_s = 0.0
        self._turning = self._stirred = False

    def stir(self) -> None:
        """Something came, and more may be there: a turn takes one new connection, and one piece of a body."""
        self._stirred = True

    def rest(self, wait_s: float) -> None:
        """Has the event loop sleep after the first turn in which nothing comes, and nothing is refused.

        Args:
            wait_s: that the refused request would have waited; nothing is late by more than a fiftieth of it.
        """
        note_refusal()
        self._stirred = True  # behind this one in its packet may be others, which are refused a turn each
        self._rest_s = min(_SHARE * wait_s, LONGEST_REST_S)
        if self._rest_s > 0 and not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        if self._stirred:
            self._stirred = False
            asyncio.get_running_loop().call_soon(self._turn)
            return
        self._turning = False
        if self._rest_s > 0:
            time.sleep(self._rest_s)
