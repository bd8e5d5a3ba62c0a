"""Requests refused for the load: the same one may succeed a moment later."""

import math
import random

from service.errors import GlassblockError, OverloadedError, UnavailableError
from service.queue import Load
from service.settings import Settings

SHED_CODES = frozenset({"in_flight", "bodies_full", "queue_full"})
_SMALL_BYTES = 2**20  # of an answer, which is let through beside answers that are not taken
_ERRORS = {429: OverloadedError, 503: UnavailableError}


def hold_queue(load: Load, settings: Settings) -> None:
    """Refuses while too much waits for a model's run, by positions or by the time they are predicted to take.

    Args:
        load: what waits.
        settings: the limits.

    Raises:
        OverloadedError: more than a limit, or UnavailableError where `shed_status` says so.
    """
    if load.tokens > settings.max_queued_tokens:
        message = f"more than {settings.max_queued_tokens:,} positions wait for this model; try again in a moment"
    elif load.wait_s > settings.max_wait_s:
        message = f"what waits for this model takes more than {settings.max_wait_s:g} s; try again in a moment"
    else:
        return
    raise shed(message, load.wait_s, settings, code="queue_full")


def hold_answers(held_bytes: int, more_bytes: int, settings: Settings) -> None:
    """Refuses arrays of answers that do not fit beside those that are not written yet; where there are none, any fit.

    Raises:
        OverloadedError: more than the limit, or UnavailableError where `shed_status` says so.
    """
    if held_bytes and held_bytes + more_bytes > settings.max_answers_bytes:
        raise _answers_full(settings)


def hold_unsent(unsent_bytes: int, answer_bytes: int, settings: Settings) -> None:
    """Refuses a large answer that does not fit beside what clients have not taken yet; small ones always fit.

    Raises:
        OverloadedError: more than the limit, or UnavailableError where `shed_status` says so.
    """
    if unsent_bytes and answer_bytes >= _SMALL_BYTES and unsent_bytes + answer_bytes > settings.max_answers_bytes:
        raise _answers_full(settings)


def _answers_full(settings: Settings) -> GlassblockError:
    limit = settings.max_answers_bytes
    message = f"no room for this answer: all that are not sent may take {limit:,} bytes; try again in a moment"
    return shed(message, 1.0, settings, code="answers_full")


def shed(message: str, wait_s: float, settings: Settings, *, code: str) -> GlassblockError:
    """Says when to come again: when what waits now will have been run, or up to as long after, not all at once."""
    least_s = math.ceil(max(1.0, wait_s))
    retry_s = least_s + int((least_s + 1) * random.random())  # noqa: S311 - it need not be unguessable
    return _ERRORS[settings.shed_status](message, code=code, headers={"Retry-After": str(retry_s)})
