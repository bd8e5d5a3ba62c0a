"""Heads of requests that were read before: the same bytes are the same request, and need not be parsed again.

A client writes most of its heads alike, and reading one is a good part of what a refusal takes: docs/decisions/0038.
"""

import time
import urllib.parse
from collections.abc import Mapping
from typing import Any, NamedTuple

import httptools

from service.recent import Recent

_MOST_HEADS, _MOST_BYTES = 256, 2048  # that are remembered, and of one of them
_END = b"\r\n\r\n"
_LEAD, _LEAD_DIGITS = b"inference-header-content-length", 9
_ASGI = {"version": "3.0", "spec_version": "2.3"}
_SECRETS = frozenset({b"authorization", b"proxy-authorization", b"cookie"})


class Head(NamedTuple):
    """What the parser has read of a request up to its body; shared by all requests of these bytes.

    Attributes:
        method: of HTTP.
        path: decoded.
        raw_path: as it came.
        query: what follows the question mark.
        version: 1.0 or 1.1.
        keeps_alive: whether the client would keep the connection.
        headers: names in lower case, and values.
        fields: the same, combined.
        length: of the body in bytes; None if the head does not say.
        lead: bytes of the body before its first tensor, as far as a head can say.
    """

    method: str
    path: str
    raw_path: bytes
    query: bytes
    version: str
    keeps_alive: bool
    headers: list[tuple[bytes, bytes]]
    fields: Mapping[bytes, bytes]
    length: int | None = None
    lead: int = 0

    def scope(self) -> dict[str, Any]:
        """That of a request that begins now, for ASGI, and beside its keys `fields`, `length` and `start_s`."""
        return {
            "type": "http",
            "asgi": _ASGI,
            "http_version": self.version,
            "scheme": "http",
            "server": None,
            "client": None,
            "root_path": "",
            "method": self.method,
            "path": self.path,
            "raw_path": self.raw_path,
            "query_string": self.query,
            "headers": self.headers,
            "fields": self.fields,
            "length": self.length,
            "state": {},
            "start_s": time.perf_counter(),
        }


NO_HEAD = Head("none", "/", b"/", b"", "1.1", keeps_alive=False, headers=[], fields={})  # of what is no request


def read_head(
    parser: httptools.HttpRequestParser,
    url: bytes,
    headers: list[tuple[bytes, bytes]],
    fields: Mapping[bytes, bytes],
) -> Head:
    """What a parser has found, at the end of a head that `examine` has let pass."""
    parts, version = httptools.parse_url(url), parser.get_http_version()
    path, length = parts.path.decode("ascii"), fields.get(b"content-length", b"")
    return Head(
        method=parser.get_method().decode("ascii"),
        path=urllib.parse.unquote(path) if "%" in path else path,
        raw_path=parts.path,
        query=parts.query or b"",
        version=version,
        keeps_alive=version != "1.0" and parser.should_keep_alive() and not parser.should_upgrade(),
        headers=headers,
        fields=fields,
        # Without the zeros before it, as many as a client likes, where Python reads 4,300 digits.
        length=int(length.lstrip(b"0") or b"0") if length.isdigit() else None,
        lead=int(lead) if (lead := fields.get(_LEAD, b"")).isdigit() and len(lead) <= _LEAD_DIGITS else 0,
    )


class Heads:
    """The last few heads that were parsed and found good, of one server's connections."""

    def __init__(self) -> None:
        self._heads = Recent[Head](_MOST_HEADS)

    def find(self, data: memoryview) -> tuple[Head, memoryview] | None:
        """The head of a request, and what has come of its body, if the head is remembered.

        Args:
            data: what came where a request begins; of more than one whole request none is found.
        """
        end = (start := bytes(data[:_MOST_BYTES])).find(_END) + len(_END)
        found = self._heads.get(start[:end])
        if found is None or len(data) > end + (found.length or 0):
            return None
        return found, data[end:]

    def learn(self, data: memoryview, head: Head, body_bytes: int) -> None:
        """Remembers a head that the parser has found in these bytes, where they are its request alone.

        Args:
            data: what came where a request begins: requests, the last of them perhaps without all of its body.
            head: of the last of them.
            body_bytes: of its body that have come.
        """
        end = (start := bytes(data[:_MOST_BYTES])).find(_END) + len(_END)
        # Behind the first head there is nothing but the last one's body: they are the same.
        alone = b"transfer-encoding" not in head.fields and body_bytes == len(data) - end <= (head.length or 0)
        if alone and head.keeps_alive and _SECRETS.isdisjoint(head.fields):
            self._heads.put(start[:end], head)
