"""gzip and deflate (zlib) of whole bodies; what comes is inflated only as far as a limit."""

import zlib
from functools import lru_cache

from service.errors import BodyTooLargeError, NotAcceptableError, UnreadableError, UnsupportedMediaTypeError

_WINDOW_BITS = {"gzip": 31, "deflate": 15}
_LEVEL = 1  # more makes float32 hardly smaller, and takes longer


def check_encoding(declared: str) -> str:
    """The name of a body's encoding; empty for one that comes as it is.

    Raises:
        UnsupportedMediaTypeError: another encoding, or several.
    """
    name = declared.strip().lower()
    if name in {"", "identity"}:
        return ""
    if name not in _WINDOW_BITS:
        message = "expected Content-Encoding gzip, deflate or none, got another one"
        headers = {"Accept-Encoding": ", ".join(_WINDOW_BITS)}
        raise UnsupportedMediaTypeError(message, code="unsupported_encoding", at="Content-Encoding", headers=headers)
    return name


@lru_cache(64)  # clients write what their library writes
def choose_encoding(accepted: str) -> str:
    """How to encode an answer; empty for as it is.

    HTTP libraries list all they know in every request, and compressing float32 takes longer than sending it; so an
    answer is compressed only for who names one encoding alone, or refuses to take it as it is.

    Args:
        accepted: the Accept-Encoding header; empty: none.

    Raises:
        NotAcceptableError: neither as it is nor any encoding that we write.
    """
    weights: dict[str, bool] = {}
    for part in accepted.lower().split(","):
        name, _, parameters = part.partition(";")
        weights[name.strip()] = parameters.replace(" ", "").rstrip("0").rstrip(".") not in {"q=0", "q="}
    wanted = [name for name, taken in weights.items() if taken and name]
    if wanted in (["gzip"], ["deflate"]):
        return wanted[0]
    if weights.get("identity", weights.get("*", True)):
        return ""
    for name in _WINDOW_BITS:
        if weights.get(name, weights.get("*", False)):
            return name
    message = "this server answers in gzip, deflate or as it is, all of which Accept-Encoding leaves out"
    raise NotAcceptableError(message, code="not_acceptable", at="Accept-Encoding")


def inflate(body: bytes | memoryview, encoding: str, max_bytes: int) -> bytes:
    """What was compressed; stops as soon as it is more than the limit.

    Raises:
        UnreadableError: not of this encoding, cut off, or followed by other bytes.
        BodyTooLargeError: more than `max_bytes`.
    """
    inflater = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        data = inflater.decompress(body, max_bytes + 1)
    except zlib.error:
        message = f"expected a body of {encoding}, as Content-Encoding says, got other bytes"
        raise UnreadableError(message, code="invalid_encoding", at="body") from None
    if len(data) > max_bytes:
        message = f"expected a body of at most {max_bytes:,} bytes when inflated"
        raise BodyTooLargeError(message, code="body_too_large")
    if not inflater.eof or inflater.unused_data:
        problem = "it is cut off" if not inflater.eof else "other bytes follow"
        raise UnreadableError(f"expected one whole stream of {encoding}: {problem}", code="invalid_encoding", at="body")
    return data


def deflate(data: bytes, encoding: str) -> bytes:
    """Compresses."""
    deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW_BITS[encoding])
    return deflater.compress(data) + deflater.flush()
