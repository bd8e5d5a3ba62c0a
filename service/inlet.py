"""How requests come: in pieces of a packet, within their deadlines, and no faster than they are answered."""

import asyncio
import math
from abc import abstractmethod
from collections.abc import Callable, MutableMapping
from typing import Any, ClassVar, Literal

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.deadline import Deadline
from service.errors import GlassblockError
from service.flow import Flow
from service.framing import combine, examine, explain, hold_url, too_many_lines, too_much
from service.heads import NO_HEAD, Head, Heads, read_head
from service.reader import Body, Reader
from service.settings import Settings

Scope = MutableMapping[str, Any]


class Inlet(HttpToolsProtocol):
    """The reading side of a connection: uvicorn's, with limits on a head, and our own words for broken framing.

    Callbacks of the parser note where the client is: `idle` between requests, in a `head`, in a `body`; the request is
    `whole`, without a deadline; it is `broken` and being refused; or the connection `lingers` until its answer is read.

    What cannot become a request still becomes one, whose scope holds the error under `fault`: the door refuses it like
    any other, so that it is answered in turn, logged in one line and counted once.

    Attributes:
        settings: the limits; given by `with_limits`.
        heads: those that were read before, on any connection; given by `with_limits`.
        stir: told whenever something comes, as `Coalescing.stir` is; given by `with_limits`.
    """

    settings: ClassVar[Settings]
    heads: ClassVar[Heads]
    stir: Callable[[], None]
    scope: Any

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to read; not as uvicorn does, which asks the system for two addresses that nobody reads here."""
        self.stir()
        self.connections.add(self)
        self.transport = transport
        self.flow = Flow(transport, self.pipeline)
        self._phase: Literal["idle", "head", "body", "whole", "broken", "lingers"] = "idle"
        self._deadline = Deadline(self.loop, self._on_late)
        self._held_bytes = self._discarded_bytes = 0
        self._leaving = False
        self._unserved: RequestResponseCycle | None = None
        self._body = Body()  # of `_unserved`
        self._body_bytes = self._missing_bytes = 0  # that have come, and that are to come behind a head that was known
        transport.set_protocol(Reader(self))

    @abstractmethod
    def _begin(self) -> None:
        """Has the request in `_unserved` served, if there is one."""

    @abstractmethod
    def _refuse_at_once(self, scope: Scope) -> bool:
        """Refuses a request that no other is before, if that can be by its head, and its connection stays open."""

    @abstractmethod
    def _hang_up(self) -> None:
        """Closes."""

    @abstractmethod
    def _await_client(self) -> None:
        """Sets the deadline of what the client owes, if there is none."""

    @abstractmethod
    def _on_late(self) -> None:
        """It has not come in time."""

    def data_received(self, data: memoryview) -> None:  # type: ignore[override]
        """Feeds the parser, unless the client has been refused already; the bytes are there for this call only."""
        self.stir()
        if (before := self._phase) in {"broken", "lingers"}:
            self._discard(len(data))
            return
        if self._missing_bytes:
            self._go_on(data)
            return
        if before == "idle" and (known := self.heads.find(data)) is not None:
            self._take(*known)
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
        else:
            self._await_client()
        if before == "idle" and self._phase in {"body", "whole"}:
            self.heads.learn(data, self._head, self._body_bytes)
        self._begin()

    def _take(self, head: Head, body: memoryview) -> None:
        """A request whose head was read before: what the parser's callbacks do for it, unless it is refused."""
        self._discarded_bytes = 0
        scope = head.scope()
        if not self._refuse_at_once(scope):
            self._open(head, scope)
        elif len(body) == (head.length or 0):  # nothing of it is to come
            self._enter("idle")
            self._await_client()
            return
        self._enter("body")
        self._missing_bytes = head.length or 0
        if self.cycle is self._unserved:
            self._body.expect(self._missing_bytes, head.lead)
        self._go_on(body)

    def _go_on(self, data: memoryview) -> None:
        """More of its body, and perhaps what comes after."""
        piece, rest = data[: self._missing_bytes], data[self._missing_bytes :]
        self._missing_bytes -= len(piece)
        if piece:
            self.on_body(piece)
        self._look_on()
        if rest:
            self.data_received(rest)

    def room(self) -> memoryview | None:
        """Where to read the rest of a body to, of which `fill` tells; None: `data_received` is to be given it."""
        return self._body.room() if self._missing_bytes and self._phase == "body" else None

    def fill(self, size: int) -> None:
        """So many bytes have been read there."""
        self.stir()
        self._held_bytes = 0
        self._body_bytes += size
        self._body.fill(size)
        self._missing_bytes -= size
        self._look_on()

    def _look_on(self) -> None:
        """More of a body has come, behind a head that was known."""
        if not self._missing_bytes:
            self.on_message_complete()
        self._await_client()
        self._begin()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self.url, self.headers = b"", []
        self._discarded_bytes = 0
        self._enter("head")

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        super().on_url(url)
        hold_url(len(self.url), self.settings)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; those after the body are dropped, since the door has read the others by then."""
        if self._phase == "head":
            self.headers.append((name.lower(), value))
            if len(self.headers) > self.settings.max_header_lines:
                raise too_many_lines(self.settings)

    def on_headers_complete(self) -> None:
        """Checks the head as a whole and hands the request on."""
        fields = combine(self.headers)
        examine(self.parser, self.url, self.headers, fields, self.settings)
        self._head = read_head(self.parser, self.url, self.headers, fields)
        self._open(self._head, self._head.scope())
        self._enter("body")

    def _open(self, head: Head, scope: Scope) -> None:
        """Begins a request; behind one that is not answered yet, it waits."""
        self._body_bytes = 0
        self.scope = scope
        before = self.cycle
        self.cycle = RequestResponseCycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=head.version != "1.0" and head.fields.get(b"expect", b"").lower() == b"100-continue",
            keep_alive=head.keeps_alive and not self._leaving,
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._unserved = self.cycle
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes | memoryview) -> None:
        """A piece of the body, kept for who answers or, after an early answer, thrown away."""
        self._held_bytes = 0
        self._body_bytes += len(body)
        if self.cycle.response_complete:
            self._discard(len(body))
        elif self.cycle is self._unserved:
            self._body.add(body)
        else:
            super().on_body(body)  # type: ignore[arg-type]  # which a bytearray takes either way

    def _pass_body(self) -> None:
        """Puts what has come of a body that is not whole where uvicorn has it."""
        if (body := self._body.pop()) is not None:
            super().on_body(body)  # type: ignore[arg-type]

    def on_message_complete(self) -> None:
        """The last byte of a request."""
        if (body := self._body.pop()) is not None:
            self.scope["body"] = body
        super().on_message_complete()
        self._enter("idle" if self.cycle.response_complete else "whole")
        self.flow.resume_reading()  # which a large last piece has stopped: the client's leaving would go unseen

    def _enter(self, phase: Literal["idle", "head", "body", "whole", "broken"]) -> None:
        self._phase = phase
        self._deadline.at_s = math.inf
        self._held_bytes = 0

    def _break(self, error: GlassblockError) -> None:
        """Has an error answered, after the requests before it; nothing more is read."""
        if self._phase == "body" and self.cycle.response_complete:
            self._hang_up()
            return
        if self._phase != "body":
            self.on_message_begin()
            self._open(NO_HEAD, NO_HEAD.scope())
        self.scope["fault"] = error
        self.cycle.keep_alive = False
        self.cycle.message_event.set()
        self._enter("broken")
        self._begin()

    def _discard(self, size: int) -> None:
        """Counts what comes after a refusal; a client that sends another whole body does not read its answer."""
        self._discarded_bytes += size
        if self._discarded_bytes > self.settings.max_body_bytes:
            self.transport.abort()
