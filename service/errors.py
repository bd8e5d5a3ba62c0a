"""What the client is told when it fails: one small tree and one status table.

The tree follows the data: *bytes* → door → *body* → codec → *Tensors* → check → *BlockRequest* → ticket → queue → run.
A sentence says what was expected, what came and where, and never holds a value that the caller sent.
"""

import difflib
from collections.abc import Iterable
from typing import ClassVar

import orjson

MAX_SENTENCE_CHARACTERS = 1_600


class GlassblockError(Exception):
    """Base of all that can keep a request from being answered.

    Attributes:
        status: HTTP status of the class.
        code: stable word for programs.
        at: place in the request, such as ``hidden_states[0][2]``; empty where the request as a whole is meant.
        headers: extra response headers.
    """

    status: ClassVar[int] = 500

    def __init__(self, message: str, *, code: str, at: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.at = at
        self.headers = headers or {}

    @property
    def sentence(self) -> str:
        """Message and place as one sentence."""
        sentence = f"{self.message} - at {self.at}" if self.at else self.message
        return sentence[:MAX_SENTENCE_CHARACTERS]

    def body(self, request_id: str) -> bytes:
        """The JSON body of every error answer, at most 2 kB."""
        return orjson.dumps(
            {"error": self.sentence, "code": self.code, "at": self.at[:128], "request_id": request_id},
        )


class UnreadableError(GlassblockError):
    """400: the bytes are not what their format promises."""

    status = 400


class UnauthorizedError(GlassblockError):
    """401: no key, or none of ours."""

    status = 401


class SwitchedOffError(GlassblockError):
    """403: the server has this, and a setting turned it off."""

    status = 403


class NotFoundError(GlassblockError):
    """404: no such model, version or route."""

    status = 404


class MethodNotAllowedError(GlassblockError):
    """405: the route exists, for other methods."""

    status = 405


class NotAcceptableError(GlassblockError):
    """406: the client takes no format that we write."""

    status = 406


class LateError(GlassblockError):
    """408: the request did not come within its deadline."""

    status = 408


class BodyTooLargeError(GlassblockError):
    """413: the body has more bytes than the limit."""

    status = 413


class UrlTooLongError(GlassblockError):
    """414: the target has more bytes than the limit."""

    status = 414


class UnsupportedMediaTypeError(GlassblockError):
    """415: the declared type or encoding is none that we read."""

    status = 415


class IllegalRequestError(GlassblockError):
    """422: read, but not a request that this model can answer."""

    status = 422


class OverloadedError(GlassblockError):
    """429: shed; the same request may succeed a moment later."""

    status = 429


class HeadTooLargeError(GlassblockError):
    """431: more header lines or bytes than the limit."""

    status = 431


class RunFailedError(GlassblockError):
    """500: the run raised; always a bug of ours."""

    status = 500


class UnsupportedError(GlassblockError):
    """501: a part of a protocol that this server does not have."""

    status = 501


class UnavailableError(GlassblockError):
    """503: loading, draining, out of memory, dead."""

    status = 503


class DeadlineError(GlassblockError):
    """504: the client's deadline passed."""

    status = 504


class StartError(Exception):
    """The service cannot start; its text is the one line printed before the process exits."""


class DeviceLostError(RuntimeError):
    """The device runs nothing more for this process; a new process may find it well."""


def bug() -> RunFailedError:
    """The error for what nobody has thought of."""
    return RunFailedError("the server failed; this is a bug of the server", code="internal")


def nearest(name: str, names: Iterable[str], count: int = 1, prefix: str = "") -> str:
    """Words for 'did you mean': the names closest to a wrong one, each after `prefix`, or an empty string."""
    close = difflib.get_close_matches(name[:128], list(names), count, cutoff=0.6)
    return f"; did you mean {' or '.join(prefix + found for found in close)}?" if close else ""
