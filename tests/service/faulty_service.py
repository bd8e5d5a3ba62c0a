"""The service with faults that a test can call up by a sequence's length: `python -m tests.service.faulty_service`.

40 positions take SLOW_S to run, 41 break the batcher's loop, 42 take STUCK_S, 43 take HELD_S, 44 never end; SIGUSR1
blocks the event loop for BLOCKED_S; with FAULT=loading in the environment every model is loaded a hundred times over,
with FAULT=resting the door takes what waits for an hour's work.
"""

import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from service import __main__, app, runner
from service.coalescing import Coalescing
from service.cost import Cost
from service.padding import choose
from service.repository import find_versions
from service.session import Session, Stop

SLOW, BREAKS_THE_LOOP, STUCK, HELD, ENDLESS = 40, 41, 42, 43, 44
SLOW_S, STUCK_S, HELD_S, BLOCKED_S = 0.5, 6.0, 2.0, 1.0
WAITS_S = {SLOW: SLOW_S, STUCK: STUCK_S, HELD: HELD_S, ENDLESS: threading.TIMEOUT_MAX}


def install() -> None:
    """Replaces, in this process alone, the run, the choice of batches, and the list of models."""
    run, rest = Session.run, Coalescing.rest

    def run_slowly(
        self: Session, outputs: Sequence[str], feeds: Mapping[str, Any], stop: Stop | None = None
    ) -> list[Any]:
        # time.sleep fails under libfaketime (test_clock.py).
        threading.Event().wait(WAITS_S.get(feeds["hidden_states"].shape[1], 0.0))
        return run(self, outputs, feeds, stop)

    def choose_or_break(lengths: list[int], cost: Cost) -> list[int]:
        if BREAKS_THE_LOOP in lengths:
            raise IndexError("the choice of batches is broken")
        return choose(lengths, cost)

    def find_many(models: Path) -> list[Path]:
        return find_versions(models) * 100

    def rest_long(self: Coalescing, wait_s: float) -> None:
        rest(self, max(wait_s, 3600))

    signal.signal(signal.SIGUSR1, lambda *_: time.sleep(BLOCKED_S))  # in the main thread, the event loop's
    Session.run = run_slowly  # type: ignore[method-assign]
    vars(runner)["choose"] = choose_or_break
    if os.environ.get("FAULT") == "loading":
        vars(app)["find_versions"] = find_many
    if os.environ.get("FAULT") == "resting":
        Coalescing.rest = rest_long  # type: ignore[method-assign]


def main() -> None:
    """`python -m service` with its faults."""
    install()
    __main__.main()


if __name__ == "__main__":
    main()
