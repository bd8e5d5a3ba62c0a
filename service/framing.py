"""What of HTTP's framing we take beyond what the parser holds it to, and the errors for the rest."""

import re
from collections.abc import Mapping, Sequence

import httptools

from service.errors import GlassblockError, HeadTooLargeError, LateError, UnreadableError, UrlTooLongError
from service.settings import Settings

_HOST = re.compile(rb"(?:[\w.-]+|\[[\w:.%]+\])(?::\d{1,5})?")
_BLANKS = b" \t"  # what else Python would strip is part of a value
_SEPARATORS = 4  # the colon, the space and the line's end


def combine(headers: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Values by name, without the blanks around them (RFC 9110, 5.5); several of one name become one (5.2)."""
    stripped = [(name, value.strip(_BLANKS)) for name, value in headers]
    fields = dict(stripped)
    if len(fields) < len(headers):
        fields = {}
        for name, value in stripped:
            fields[name] = fields[name] + b", " + value if name in fields else value
    return fields


def examine(
    parser: httptools.HttpRequestParser,
    url: bytes,
    headers: Sequence[tuple[bytes, bytes]],
    fields: Mapping[bytes, bytes],
    settings: Settings,
) -> None:
    """Refuses what the parser lets pass, at the end of a head.

    Args:
        parser: that has read the head.
        url: its target.
        headers: names in lower case, and values.
        fields: the same, combined.
        settings: the limits.

    Raises:
        UnreadableError: not a request we read, or one that another server might read differently.
        HeadTooLargeError: more bytes than the limit.
    """
    if sum([len(name) + len(value) + _SEPARATORS for name, value in headers]) > settings.max_header_bytes:
        raise _head_too_large(settings)
    if fields.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
        raise unreadable("expected no Transfer-Encoding but chunked", "Transfer-Encoding")
    if parser.should_upgrade() and (b"content-length" in fields or b"transfer-encoding" in fields):
        raise unreadable("expected no Upgrade beside a body: this server speaks HTTP/1.1", "Upgrade")
    if (version := parser.get_http_version()) not in {"1.1", "1.0"}:
        raise unreadable("expected HTTP/1.1 or HTTP/1.0", "version")
    if not url.startswith(b"/"):
        raise unreadable("expected a target that begins with /", "URL")
    if not _HOST.fullmatch(fields.get(b"host", b"" if version == "1.1" else b"none")):
        raise unreadable("expected one Host: a name or an address, with or without a port", "Host")


def explain(error: httptools.HttpParserError) -> GlassblockError:
    """Our own error if a callback of the parser raised one, else the parser's, which says why in fixed words."""
    if isinstance(error.__context__, GlassblockError):
        return error.__context__
    why = "" if isinstance(error, httptools.HttpParserCallbackError) else f": {error}"
    return unreadable(f"expected an HTTP/1.1 request{why}", "")


def hold_url(size_bytes: int, settings: Settings) -> None:
    """Refuses a target that is too long, whether it has ended or not.

    Raises:
        UrlTooLongError: longer than the limit.
    """
    if size_bytes > settings.max_url_bytes:
        message = f"expected a URL of at most {settings.max_url_bytes:,} bytes"
        raise UrlTooLongError(message, code="url_too_long", at="URL")


def too_many_lines(settings: Settings) -> HeadTooLargeError:
    """The error for more header lines than the limit, whether the head has ended or not."""
    message = f"expected at most {settings.max_header_lines:,} header lines"
    return HeadTooLargeError(message, code="too_many_headers", at="headers")


def too_much(phase: str, settings: Settings) -> GlassblockError:
    """The error for input that neither ends a head nor adds to a body: endless headers, extensions or trailers."""
    if phase == "body":
        return unreadable("expected less between the chunks of the body", "body")
    return _head_too_large(settings)


def late(phase: str, settings: Settings) -> LateError:
    """The error for a head or a body that has not come in time."""
    if phase == "body":
        return LateError(f"expected the whole body within {settings.body_timeout_s:g} s", code="body_timeout")
    return LateError(f"expected the whole head within {settings.header_timeout_s:g} s", code="head_timeout")


def unreadable(sentence: str, at: str) -> UnreadableError:
    """The error for bytes that are no request we read."""
    return UnreadableError(sentence, code="invalid_http", at=at)


def _head_too_large(settings: Settings) -> HeadTooLargeError:
    message = f"expected headers of at most {settings.max_header_bytes:,} bytes"
    return HeadTooLargeError(message, code="headers_too_large", at="headers")
