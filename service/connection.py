"""One client's connection: what has been read is answered in turn, and the client has its time to read that."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.errors import GlassblockError, UnavailableError
from service.framing import late
from service.heads import Heads
from service.inlet import Inlet, Scope
from service.logs import CLIENT_GONE, choose_request_id, note_request
from service.outlet import Outlet
from service.refusal import turn_away
from service.reply import Reply, write_head
from service.settings import Settings

Answer = Callable[[Scope, Callable[[], Awaitable[Any]]], Awaitable[Reply | None]]  # None: the client has gone

LINGER_S = 2.0  # for the client to read an answer that came before its request was whole
FAREWELL_S = 0.3  # for a request that crosses with the end of the server, on a connection that was idle
PATIENCE_S = 0.02  # for a body to come whole, before it is read piece by piece: docs/decisions/0040
_SHORT_BYTES = 4096  # of a body, whose copy costs less than a second piece


class Connection(Inlet):
    """One client's connection, closed when the client does not keep its deadlines.

    Attributes:
        admit: raises what a request's head alone is refused with, as `Door.admit` does; given by `with_limits`.
        find: gives what answers a request in one piece, as `Direct.find` does; given by `with_limits`.
    """

    admit: Callable[[Scope], None]
    find: Callable[[Scope], Answer | None]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the clock; beyond max_connections the client is told so, and beyond twice as many it is not."""
        super().connection_made(transport)
        self._outlet = Outlet(transport, self._hang_up, self.loop, self.settings.answer_timeout_s)
        self._serving: RequestResponseCycle | None = None
        self._patience: asyncio.TimerHandle | None = None
        limit = self.settings.max_connections
        if len(self.connections) > 2 * limit:
            transport.abort()
        elif len(self.connections) > limit:
            message = f"{limit:,} connections are open already; try again in a moment"
            self._break(UnavailableError(message, code="too_many_connections", headers={"Retry-After": "1"}))
        else:
            self._await_client()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the clocks, and the work for a client that has gone."""
        self._serve_unserved()  # which finds that its client has gone, and says so in the log
        super().connection_lost(exc)
        if self._serving is not None and not self._serving.response_complete:
            self._serving.disconnected = True  # of those in line uvicorn tells the last one alone
            self._serving.message_event.set()
            self._serving.scope.get("on_client_gone", _nothing)()  # type: ignore[operator]
        if self.cycle is not None:
            self.cycle.transport = self.transport  # or they would hold each other until the garbage collector comes
            self.cycle.on_response = _nothing
        self._outlet.unwatch()
        self._deadline.stop()

    def on_response_complete(self) -> None:
        """Starts the next request that has come meanwhile, or waits for one."""
        self.server_state.total_requests += 1
        self._outlet.flush()
        if self.transport.is_closing() or self._phase == "lingers":
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._serve(self.pipeline.pop()[0])
        elif self._phase == "whole":
            self._phase = "idle"
        self._await_client()

    def _begin(self) -> None:
        """Has the request served that has just come, or refuses it by its head; those behind it in its packet wait."""
        if (cycle := self._unserved) is None:
            return
        scope: Any = cycle.scope
        if "admitted" not in scope and not self.flow.write_paused:
            try:
                self.admit(scope)
            except GlassblockError as error:
                self._unserved = None
                self._body.pop()
                scope.pop("body", None)
                self._refuse(cycle, error)
                return
        waits = "admitted" in scope and "probe" not in scope and scope["length"] is not None
        if not waits or cycle is not self.cycle or self._phase != "body" or cycle.waiting_for_100_continue:
            self._serve_unserved()
        elif self._patience is None:
            self._patience = self.loop.call_later(PATIENCE_S, self._serve_unserved)

    def _serve_unserved(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if (cycle := self._unserved) is not None:
            self._pass_body()
            self._unserved = None
            self._serve(cycle)

    def _refuse_at_once(self, scope: Scope) -> bool:
        """Under load most requests end here, before anything is made that would serve them."""
        if self.cycle is None or self._leaving or self.flow.write_paused:
            return False  # `_begin` asks
        try:
            self.admit(scope)
        except GlassblockError as error:
            scope["request_id"] = choose_request_id(scope["fields"])
            reply = turn_away(scope, error)
            if reply.closes:
                scope["fault"] = error
                return False
            self._write(scope, reply, closes=False)
            self.server_state.total_requests += 1
            _note(scope, reply)
            return True
        return False

    def _refuse(self, cycle: Any, error: GlassblockError) -> None:
        scope = cycle.scope
        scope["request_id"] = choose_request_id(scope["fields"])
        reply = turn_away(scope, error)
        self._send(cycle, reply)
        _note(scope, reply)

    def _serve(self, cycle: Any) -> None:
        """Has a request answered: in one piece where that can be, past uvicorn's way with pieces, else by the app."""
        self._serving = cycle
        cycle.transport = self._outlet
        if (answer := self.find(cycle.scope)) is None:
            self._outlet.begin()
            cycle.body += cycle.scope.pop("body", b"")
            self._start_asgi_task(cycle, self.app)
            return
        task = self.loop.create_task(self._answer(cycle, answer))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    async def _answer(self, cycle: Any, answer: Answer) -> None:
        sent = None
        try:
            reply = await answer(cycle.scope, cycle.receive)
            if reply is not None and self.flow.write_paused:
                await self._outlet.wait(len(reply.body), self.flow.drain)
            if reply is not None and not cycle.disconnected:
                self._send(cycle, sent := reply)
        finally:
            _note(cycle.scope, sent)

    def _send(self, cycle: Any, reply: Reply) -> None:
        cycle.response_complete = True
        cycle.keep_alive = cycle.keep_alive and not reply.closes
        self._write(cycle.scope, reply, closes=not cycle.keep_alive)
        if not cycle.keep_alive:
            self._hang_up()
        self.on_response_complete()

    def _write(self, scope: Scope, reply: Reply, *, closes: bool) -> None:
        """Head and body at once: a system call costs a tenth of a small request."""
        head = write_head(reply, scope["request_id"], self.server_state.default_headers, closes=closes)
        body = b"" if scope["method"] == "HEAD" else reply.body
        if len(body) < _SHORT_BYTES:
            self.transport.write(head + body)
        else:
            self.transport.writelines((head, body))

    def _await_client(self) -> None:
        """Sets the deadline of what the client owes; none while requests before it keep it waiting."""
        if self._deadline.at_s < math.inf:
            return
        if self._phase == "idle":
            self._deadline.set(FAREWELL_S if self._leaving else self.settings.idle_timeout_s)
        elif self.pipeline:
            return  # nothing is read
        elif self._phase == "head":
            self._deadline.set(self.settings.header_timeout_s)
        elif self._phase == "body":
            self._deadline.set(self.settings.body_timeout_s)

    def _on_late(self) -> None:
        if self._phase == "idle":
            self._hang_up()
        elif self._phase == "lingers":
            self.transport.abort()
        else:
            self._break(late(self._phase, self.settings))

    def shutdown(self) -> None:
        """Closes an idle connection soon: what comes until then is told so; a busy one closes after its answer."""
        self._leaving = True
        if self._phase == "idle" or (self._phase == "body" and self.cycle.response_complete):
            self._deadline.set(FAREWELL_S)
        elif self._phase != "head":
            self.cycle.keep_alive = False

    def pause_writing(self) -> None:
        """The client takes its answer more slowly than it comes."""
        super().pause_writing()
        self._outlet.watch()

    def resume_writing(self) -> None:
        """The client has taken all but a little."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._outlet.unwatch()

    def _hang_up(self) -> None:
        """Closes, so that the client can read its answer: unread input would make the system reset the connection."""
        self._outlet.flush()
        if self._phase in {"idle", "whole"} or self.transport.is_closing():
            self.transport.close()
            self._outlet.watch()
        elif self._phase != "lingers":
            self._phase = "lingers"
            self.pipeline.clear()  # what waits behind the last answer gets none
            self.flow.resume_reading()
            self.transport.write_eof()
            self._deadline.set(LINGER_S)


def _note(scope: Scope, reply: Reply | None) -> None:
    """Logs and counts, right behind the answer: whoever asks for the metrics next finds it counted."""
    status, answer_bytes = (reply.status, len(reply.body)) if reply else (CLIENT_GONE, 0)
    duration_s = time.perf_counter() - scope["start_s"]
    note_request(scope, scope["method"], scope.get("template", "none"), status, duration_s, answer_bytes)


def _nothing() -> None:
    pass


def with_limits(
    settings: Settings,
    admit: Callable[[Scope], None],
    find: Callable[[Scope], Answer | None],
    stir: Callable[[], None],
) -> type[Connection]:
    """The protocol class that uvicorn makes one of for each connection."""
    given = {"admit": staticmethod(admit), "find": staticmethod(find), "stir": staticmethod(stir)}
    return type("Connection", (Connection,), {"settings": settings, "heads": Heads(), **given})
