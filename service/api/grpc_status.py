"""Errors and headers as gRPC says them, and answers that a client has not taken yet."""

import asyncio
import math
from typing import Any

import grpc

from service.errors import GlassblockError
from service.framing import combine
from service.outlet import LEAST_TAKEN_BYTES, LEAST_TAKEN_PART, UNSENT

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


def describe_error(error: GlassblockError) -> dict[str, str]:
    """What an error's trailing metadata says beside its code and sentence."""
    return {"Error-Code": error.code, **error.headers}


def as_metadata(headers: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Headers as gRPC has them."""
    return tuple((name.lower(), value) for name, value in headers.items())


def read_headers(context: Any) -> dict[bytes, bytes]:
    """A call's metadata as HTTP has it."""
    pairs = context.invocation_metadata()
    return combine([(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in pairs])


def hold_until_taken(context: Any, size_bytes: int, timeout_s: float) -> None:
    """Counts an answer until its client has taken it, and cuts that off if it takes longer than HTTP's slowest may.

    Args:
        context: of the call, which this is called in the task of.
        size_bytes: of the answer; grpc tells nothing of how much of it has been taken.
        timeout_s: in which LEAST_TAKEN_BYTES are to be taken, or a LEAST_TAKEN_PARTth.
    """
    UNSENT.set(context, size_bytes)
    task = asyncio.current_task()
    shares = min(max(math.ceil(size_bytes / LEAST_TAKEN_BYTES), 1), LEAST_TAKEN_PART)
    timer = asyncio.get_running_loop().call_later(shares * timeout_s, lambda: task and task.cancel())

    def let_go(_: Any) -> None:
        timer.cancel()
        UNSENT.set(context, 0)

    context.add_done_callback(let_go)
