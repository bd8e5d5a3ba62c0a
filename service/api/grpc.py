"""The Open Inference Protocol over gRPC, in the event loop and through the pipeline that serve HTTP.

A call is let in before its message is read, which it streams here: one refused before costs no memory.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from service import logs
from service.api.direct import describe
from service.api.grpc_calls import CALLS, HEALTH, SERVICE, Served, find_named, health_of
from service.api.grpc_status import CODES, as_metadata, describe_error, hold_until_taken, read_headers
from service.codec.inference_proto import ProtoExchange, read_name
from service.errors import BodyTooLargeError, DeadlineError, GlassblockError, StartError, UnsupportedError, bug
from service.framing import late
from service.keys import ApiKeys
from service.lifecycle import Lifecycle, unavailable
from service.loader import Loader
from service.pipeline import answer
from service.places import Places
from service.repository import Repository
from service.settings import Settings
from service.shedding import hold_queue

_INFER, _WATCH, _CHECK = f"/{SERVICE}/ModelInfer", f"/{HEALTH}/Watch", f"/{HEALTH}/Check"
# Asked by machines, and answered whatever the server is about.
_PROBE_PATHS = {*(f"/{SERVICE}/{name}" for name in ("ServerLive", "ServerReady", "ModelReady")), _CHECK, _WATCH}
_WATCH_S = 0.2
_DEADLINE_SLACK_S = 0.02  # a call is cancelled a little before its deadline
_UNSUPPORTED = f"this server has no such call; of {SERVICE} it has none for streams, shared memory, traces and logs"
_OK = 200
_log = logs.get("grpc")


class GrpcServer(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Listens for gRPC, refuses what cannot be served, and answers the rest.

    Args:
        settings: the limits.
        lifecycle: read at every call.
        repository: the models.
        loader: changes which models are served.
        places: shared with the other faces.
        keys: those that open the door; None opens it for all.
    """

    def __init__(
        self,
        settings: Settings,
        lifecycle: Lifecycle,
        repository: Repository,
        loader: Loader,
        places: Places,
        keys: ApiKeys | None,
    ) -> None:
        self._served = Served(settings, lifecycle, repository, loader)
        self._places = places
        self._unread = Places(settings)  # calls whose message is not here yet
        self._keys = keys
        self._server: Any = None
        self._calls: set[asyncio.Task[Any]] = set()
        self._cut_off = False
        self._stopping: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listens from now on; returns the port.

        Raises:
            StartError: the port cannot be had.
        """
        settings = self._served.settings
        options = {
            "grpc.so_reuseport": 0,  # or a second server would take half of the calls
            "grpc.max_receive_message_length": settings.max_body_bytes,
            "grpc.max_send_message_length": -1,  # the ticket weighs answers
            "grpc.max_metadata_size": settings.max_header_bytes,
            "grpc.absolute_max_metadata_size": settings.max_header_bytes,
        }
        self._server = grpc.aio.server(
            handlers=(self,), options=tuple(options.items()), maximum_concurrent_rpcs=settings.max_connections
        )
        host = f"[{settings.http_host}]" if ":" in settings.http_host else settings.http_host
        try:
            port: int = self._server.add_insecure_port(f"{host}:{settings.grpc_port}")
        except RuntimeError:
            message = f"cannot listen on {settings.http_host} port {settings.grpc_port} for gRPC"
            raise StartError(f"{message}; set --http-host or --grpc-port") from None
        await self._server.start()
        return port

    def stop(self) -> asyncio.Task[None]:
        """Takes no calls from now on; the task ends once those under way are answered, or cut off."""
        self._stopping = self._stopping or asyncio.ensure_future(self._stop())
        return self._stopping

    async def _stop(self) -> None:
        timeout_s = self._served.settings.drain_timeout_s
        stopping = asyncio.ensure_future(self._server.stop(timeout_s + 1))
        await asyncio.wait((stopping,), timeout=timeout_s)
        self._cut_off = True
        for call in self._calls:
            call.cancel()
        await stopping

    def service(self, details: Any) -> Any:
        """What answers a call, as grpc asks for it."""
        path: str = details.method

        async def call(_: Any, context: Any) -> bytes:
            return await self._answer(path, context)

        if path == _WATCH:
            return grpc.unary_stream_rpc_method_handler(self._watch)
        return grpc.stream_unary_rpc_method_handler(call)

    async def _answer(self, path: str, context: Any) -> bytes:
        """Serves one call, or ends it with the code and sentence of its error; leaves a line and a count of it."""
        start_s = time.perf_counter()
        headers = read_headers(context)
        scope: dict[str, Any] = {"request_id": logs.choose_request_id(headers)}
        if path in _PROBE_PATHS:
            scope["probe"] = True
        data, error = b"", None
        trailing: dict[str, str] = {}
        try:
            data, trailing = await self._serve(path, headers, scope, context)
            status = _OK
        except asyncio.CancelledError:
            error, status = self._cancelled(context)
        except GlassblockError as known:
            # Its traceback's frames, this one among them, would hold it, and it would hold the body.
            error, status = known.with_traceback(None), known.status
        except Exception as unknown:  # noqa: BLE001 - the last handler, as the app's is for HTTP
            _log.error("call failed", exc_info=unknown)
            error, status = bug(), 500
        if error:
            scope["error_code"] = error.code
        route = path if path in CALLS or path == _INFER else "none"
        logs.note_request(scope, "gRPC", route, status, time.perf_counter() - start_s, len(data))
        trailing |= {"X-Request-ID": scope["request_id"]}
        if error:
            await context.abort(CODES[error.status], error.sentence, as_metadata(trailing | describe_error(error)))
        if status == logs.CLIENT_GONE:
            raise asyncio.CancelledError
        context.set_trailing_metadata(as_metadata(trailing))
        if path == _INFER:
            hold_until_taken(context, len(data), self._served.settings.answer_timeout_s)
        return data

    def _cancelled(self, context: Any) -> tuple[GlassblockError | None, int]:
        """Why a call was cancelled: the drain's timeout, the client's deadline (which it knows of), or its leaving."""
        if self._cut_off:
            error = unavailable("closed")
            return error, error.status
        left_s = context.time_remaining()
        if left_s is not None and left_s < _DEADLINE_SLACK_S:
            return DeadlineError("the call's deadline has passed", code="deadline_exceeded"), DeadlineError.status
        return None, logs.CLIENT_GONE

    async def _serve(
        self, path: str, headers: dict[bytes, bytes], scope: dict[str, Any], context: Any
    ) -> tuple[bytes, dict[str, str]]:
        if self._keys is not None and (name := self._keys.check(path, headers)):
            scope["api_key"] = name
        if path not in CALLS and path != _INFER:  # asked before the message is read: a stream may never send one
            raise UnsupportedError(_UNSUPPORTED, code="unsupported", at="path")
        if path in _PROBE_PATHS:
            return await self._work(path, await self._read(context))
        self._served.lifecycle.hold_open()
        self._places.hold(0)
        task = asyncio.current_task()
        try:
            if task:
                self._calls.add(task)
            with self._unread.one():  # of a message grpc tells nothing until it is whole
                body = await self._read(context)
            with self._places.one(len(body)):
                return await self._work(path, body)
        finally:
            self._calls.discard(task)

    async def _read(self, context: Any) -> bytes:
        settings = self._served.settings
        try:
            async with asyncio.timeout(settings.body_timeout_s):
                body = await context.read()
        except TimeoutError:
            raise late("body", settings) from None
        if not isinstance(body, bytes):  # if it was too long, grpc has told the client so already
            message = f"expected a message of at most {settings.max_body_bytes:,} bytes, got none or a longer one"
            raise BodyTooLargeError(message, code="body_too_large")
        return body

    async def _work(self, path: str, body: bytes) -> tuple[bytes, dict[str, str]]:
        if path == _INFER:
            return await self._infer(body)
        call = CALLS[path]
        return call.write(await call.answer(self._served, call.read(body))), {}

    async def _infer(self, body: bytes) -> tuple[bytes, dict[str, str]]:
        asked = find_named(self._served, *read_name(body), "model_name")
        hold_queue(asked.model.batcher.load, self._served.settings)
        exchange = ProtoExchange(asked.model.spec, asked.probes)
        data, timings = await answer(asked.model, body, exchange, self._served.settings)
        return data, describe(asked.model, timings)

    async def _watch(self, body: bytes, context: Any) -> AsyncIterator[bytes]:
        """The health of a service now and whenever it changes, until the server closes."""
        call, last = CALLS[_CHECK], ""
        try:
            service = call.read(body).service
        except GlassblockError as error:
            await context.abort(CODES[error.status], error.sentence, as_metadata(describe_error(error)))
        while True:
            status = health_of(self._served, service) or "SERVICE_UNKNOWN"
            if status != last:
                yield call.write({"status": status})
            if self._served.lifecycle.state in {"closed", "dead"}:
                return
            last = status
            await asyncio.sleep(_WATCH_S)
