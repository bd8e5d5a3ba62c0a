"""The wire: uvicorn's protocol with deadlines for the client, limits on a head, and our own words for broken framing.

What cannot become a request still becomes one, whose scope holds the error under `fault`: the door refuses it like any
other, so that it is answered in turn, logged in one line and counted once.
"""

import asyncio
import math
from collections.abc import Callable, MutableMapping
from typing import Any, ClassVar, Literal

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import GlassblockError, UnavailableError
from service.framing import examine, explain, hold_lines, hold_url, late, too_much
from service.inlet import Deadline, Inlet
from service.outlet import Outlet
from service.refusal import answer_at_once
from service.settings import Settings

LINGER_S = 2.0  # for the client to read an answer that came before its request was whole
FAREWELL_S = 0.3  # for a request that crosses with the end of the server, on a connection that was idle


class Connection(HttpToolsProtocol):
    """One client's connection, closed when the client does not keep its deadlines.

    Callbacks of the parser note where the client is: `idle` between requests, in a `head`, in a `body`; the request is
    `whole`, without a deadline; it is `broken` and being refused; or the connection `lingers` until its answer is read.

    Attributes:
        settings: the limits; given by `with_limits`.
        admit: raises what a request's head alone is refused with, as `Door.admit` does; given by `with_limits`.
    """

    settings: ClassVar[Settings]
    admit: Callable[[MutableMapping[str, Any]], None]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the clock; beyond max_connections the client is told so, and beyond twice as many it is not."""
        super().connection_made(transport)
        self.flow = Inlet(transport, self.pipeline)
        self._outlet = Outlet(transport, self._hang_up, self.loop, self.settings.answer_timeout_s)
        self._phase: Literal["idle", "head", "body", "whole", "broken", "lingers"] = "idle"
        self._deadline = Deadline(self.loop, self._on_late)
        self._held_bytes = self._discarded_bytes = 0
        self._unserved: tuple[Any, Any] | None = None
        self._serving: Any = None
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
        super().connection_lost(exc)
        if self._serving is not None and not self._serving.response_complete:
            self._serving.scope.get("on_client_gone", lambda: None)()
        if self.cycle is not None:
            self.cycle.transport = self.transport  # or they would hold each other until the garbage collector comes
            self.cycle.on_response = lambda: None
        self._outlet.unwatch()
        self._deadline.stop()

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, unless the client has been refused already."""
        if self._phase in {"broken", "lingers"}:
            self._discard(len(data))
            return
        self._held_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # answered as if no upgrade had been offered; the connection closes after it
        except httptools.HttpParserError as error:
            self._break(explain(error))
            return
        if self._held_bytes > self.settings.max_header_bytes:
            self._break(too_much(self._phase, self.settings))
        elif self._deadline.at_s == math.inf:
            self._await_client()
        self._begin()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._discarded_bytes = 0
        self._enter("head")

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        super().on_url(url)
        hold_url(len(self.url), self.settings)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; those after the body are dropped, since the door has read the others by then."""
        if self._phase != "head":
            return
        super().on_header(name, value)
        hold_lines(len(self.headers), self.settings)

    def on_headers_complete(self) -> None:
        """Checks the head as a whole and hands the request on."""
        examine(self.parser, self.url, self.headers, self.settings)
        super().on_headers_complete()
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False
        self._enter("body")

    def on_body(self, body: bytes) -> None:
        """A piece of the body, kept for the application or, after an early answer, thrown away."""
        self._held_bytes = 0
        if self.cycle.response_complete:
            self._discard(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The last byte of a request."""
        super().on_message_complete()
        self._enter("idle" if self.cycle.response_complete else "whole")

    def on_response_complete(self) -> None:
        """Starts the next request that has come meanwhile, or waits for one."""
        self.server_state.total_requests += 1
        self._outlet.flush()
        if self.transport.is_closing() or self._phase == "lingers":
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._serve(*self.pipeline.pop())
        elif self._phase == "whole":
            self._phase = "idle"
        if self._deadline.at_s == math.inf:
            self._await_client()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Uvicorn's, called at the end of a head, before the rest of the packet has been read."""
        self._unserved = cycle, app

    def _begin(self) -> None:
        """Has the request served that has just come, or refuses it by its head; those behind it in its packet wait."""
        if self._unserved is None:
            return
        (cycle, app), self._unserved = self._unserved, None
        if not self.flow.write_paused:
            try:
                self.admit(cycle.scope)
            except GlassblockError as error:
                self._refuse(cycle, error)
                return
        self._serve(cycle, app)

    def _refuse(self, cycle: Any, error: GlassblockError) -> None:
        self.transport.write(answer_at_once(cycle, error))
        if not cycle.keep_alive:
            self._hang_up()
        self.on_response_complete()

    def _serve(self, cycle: Any, app: Any) -> None:
        self._serving = cycle
        cycle.transport = self._outlet
        self._outlet.begin()
        super()._start_asgi_task(cycle, app)

    def shutdown(self) -> None:
        """Closes an idle connection soon: what comes until then is told so; a busy one closes after its answer."""
        if self._phase == "idle":
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

    def _enter(self, phase: Literal["idle", "head", "body", "whole", "broken"]) -> None:
        self._phase = phase
        self._deadline.at_s = math.inf
        self._held_bytes = 0

    def _await_client(self) -> None:
        """Sets the deadline of what the client owes; none while requests before it keep it waiting."""
        if self._phase == "idle":
            self._deadline.set(self.settings.idle_timeout_s)
        elif self._phase == "head":
            self._deadline.set(self.settings.header_timeout_s)
        elif self._phase == "body" and not self.pipeline:
            self._deadline.set(self.settings.body_timeout_s)

    def _on_late(self) -> None:
        if self._phase == "idle":
            self._hang_up()
        elif self._phase == "lingers":
            self.transport.abort()
        else:
            self._break(late(self._phase, self.settings))

    def _break(self, error: GlassblockError) -> None:
        """Has an error answered, after the requests before it; nothing more is read."""
        if self._phase == "body" and self.cycle.response_complete:
            self._hang_up()
            return
        if self._phase != "body":
            self.on_message_begin()
            self.url = b"/"
            super().on_headers_complete()
            self.scope["method"] = "none"
        self.scope["fault"] = error  # type: ignore[typeddict-unknown-key]
        self.cycle.keep_alive = False
        self.cycle.message_event.set()
        self._enter("broken")
        self._begin()

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

    def _discard(self, size: int) -> None:
        """Counts what comes after a refusal; a client that sends another whole body does not read its answer."""
        self._discarded_bytes += size
        if self._discarded_bytes > self.settings.max_body_bytes:
            self.transport.abort()


def with_limits(settings: Settings, admit: Callable[[MutableMapping[str, Any]], None]) -> type[Connection]:
    """The protocol class that uvicorn makes one of for each connection."""
    return type("Connection", (Connection,), {"settings": settings, "admit": staticmethod(admit)})
