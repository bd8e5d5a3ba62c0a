"""One JSON line an event on stdout: sizes and shapes, never values."""

import logging
import os
import random
import re
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog

from service import metrics

_Message = MutableMapping[str, Any]
_ASGIApp = Callable[
    [_Message, Callable[[], Awaitable[_Message]], Callable[[_Message], Awaitable[None]]], Awaitable[None]
]

CLIENT_GONE = 499
_MAX_WAITING_LINES = 10_000
_GATHER_S = 0.05  # lines of one moment are written at once: waking a thread and writing cost more than a refusal
_STDOUT = 1
_IDS = random.Random()  # noqa: S311 - an id need not be unguessable, and a system call for each costs more than the rest
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


def configure(level: str) -> None:
    """Sends structlog's events and the standard library's records, uvicorn's among them, to the one JSON writer."""
    writer = _LineWriter(_STDOUT)
    number = logging.getLevelNamesMapping()[level.upper()]
    _access.put, _access.least = writer.put, number
    structlog.configure(
        processors=[_finish],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Forward()]
    root.setLevel(number)
    for name in ("uvicorn", "uvicorn.error", "asyncio"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).setLevel(max(logging.WARNING, number))


def _finish(logger: Any, level: str, event: _Message) -> tuple[tuple[_Message], dict[str, Any]]:
    """Adds what is known now alone; what the writer is called with."""
    event["level"] = level
    event["time"] = datetime.now(UTC)
    if "exc_info" in event:
        event = structlog.processors.format_exc_info(logger, level, event)
    return (event,), {}


def _render(event: _Message) -> bytes:
    try:
        return orjson.dumps(event, default=ascii, option=orjson.OPT_UTC_Z)
    except TypeError:  # text that is no Unicode, such as a file's name
        return orjson.dumps({name: _as_unicode(value) for name, value in event.items()}, option=orjson.OPT_UTC_Z)


def _as_unicode(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value if value is None or isinstance(value, int | float | datetime) else ascii(value)


def flush() -> None:
    """Waits until all is written, a second at most."""
    writer = structlog.get_config()["logger_factory"]()
    if isinstance(writer, _LineWriter):
        writer.flush()


class _LineWriter:
    """Writes lines from a thread of its own, so that a full pipe blocks no request; what finds no room is counted.

    The lines of one moment are made there, too, and cost less together than each between two requests.

    Args:
        descriptor: written to directly, since a lock of `sys.stdout` held by a blocked thread would block the exit.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._events: deque[_Message] = deque()
        self._arrived = threading.Event()
        self._writing = False
        self._torn = False  # whether the last line that was written has no end
        threading.Thread(target=self._work, name="log", daemon=True).start()

    def put(self, event: _Message) -> None:
        """Takes an event, which nobody changes any more."""
        if len(self._events) >= _MAX_WAITING_LINES:
            metrics.LOST_LOG_LINES.inc()
            return
        self._events.append(event)
        if not self._arrived.is_set():
            self._arrived.set()

    debug = info = warning = error = critical = put  # what structlog calls by level

    def flush(self) -> None:
        deadline_s = time.monotonic() + 1
        while (self._events or self._writing) and time.monotonic() < deadline_s:
            time.sleep(0.002)

    def _work(self) -> None:
        while True:
            self._arrived.wait()
            time.sleep(_GATHER_S)
            self._arrived.clear()
            self._writing = True
            self._write([_render(self._events.popleft()) for _ in range(len(self._events))])
            self._writing = False

    def _write(self, lines: list[bytes]) -> None:
        text = b"\n" * self._torn + b"".join(line + b"\n" for line in lines)
        data = memoryview(text)
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:  # nobody reads any more, or the disk is full
            metrics.LOST_LOG_LINES.inc(min(len(lines), bytes(data).count(b"\n")))
        if written := len(text) - len(data):
            self._torn = text[written - 1] != ord("\n")


class _Forward(logging.Handler):
    """The standard library's records as events."""

    def emit(self, record: logging.LogRecord) -> None:
        get(record.name).log(record.levelno, record.getMessage(), exc_info=record.exc_info)


def get(name: str) -> Any:
    """A logger whose keyword arguments become fields."""
    return structlog.get_logger(name)


class _Access:
    """Where lines of requests go, past structlog, whose way there costs more than the line."""

    put: Callable[[_Message], None] = staticmethod(lambda _: None)
    least: int = logging.WARNING


_access = _Access()


class RequestLog:
    """Pure ASGI, outermost: gives every request its id, and leaves one line and one count of it.

    The id is the client's `X-Request-ID` where that is 1 to 128 of `[A-Za-z0-9._-]`, else a new one.
    """

    def __init__(self, app: _ASGIApp) -> None:
        self._app = app

    async def __call__(
        self,
        scope: _Message,
        receive: Callable[[], Awaitable[_Message]],
        send: Callable[[_Message], Awaitable[None]],
    ) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["request_id"] = request_id = choose_request_id(scope["fields"])
        seen = {"status": CLIENT_GONE, "bytes": 0}
        answered = False

        async def send_and_note(message: _Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                seen["status"] = scope["status"] = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            else:
                seen["bytes"] += len(message.get("body", b""))
                if not message.get("more_body", False):  # before it goes: who has the answer finds it counted
                    answered = True
                    self._note(scope, seen)
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            if not answered:
                self._note(scope, seen)

    def _note(self, scope: _Message, seen: dict[str, int]) -> None:
        note_request(
            scope,
            scope["method"],
            getattr(scope.get("route"), "path", "none"),
            seen["status"],
            time.perf_counter() - scope["start_s"],
            seen["bytes"],
        )


def note_request(
    scope: Mapping[str, Any], method: str, route: str, status: int, duration_s: float, answer_bytes: int
) -> None:
    """One line and one count of an answered request; of one that is a probe, a line at debug level alone.

    Args:
        scope: `request_id`; where there are such, `error_code` and `api_key`; `probe`, if it is one.
        method: of HTTP, or `gRPC`.
        route: its template, never its path.
        status: of HTTP's, also where it went in other words.
        duration_s: from its head to its answer's last byte.
        answer_bytes: without the head.
    """
    quiet = "probe" in scope
    if not quiet:
        metrics.count_request(route, status, duration_s, scope.get("error_code"))
    level = logging.DEBUG if quiet else logging.INFO
    if level < _access.least:
        return
    event: _Message = {
        "request_id": scope["request_id"],
        "method": method,
        "route": route,
        "status": status,
        "duration_ms": round(duration_s * 1e6) / 1e3,
        "answer_bytes": answer_bytes,
        "event": "request",
        "level": "debug" if quiet else "info",
        "time": datetime.now(UTC),
    }
    if "error_code" in scope:
        event["code"] = scope["error_code"]
    if "api_key" in scope:
        event["api_key"] = scope["api_key"]
    _access.put(event)


def choose_request_id(fields: Mapping[bytes, bytes]) -> str:
    """The client's `x-request-id` where that is 1 to 128 of `[A-Za-z0-9._-]`, else a new one."""
    given = fields.get(b"x-request-id")
    if given and _REQUEST_ID.fullmatch(given):
        return given.decode()
    return f"{_IDS.getrandbits(128):032x}"
