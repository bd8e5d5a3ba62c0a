"""Which formats a request is read and answered in: Content-Type, Content-Encoding and Accept."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from service.codec import nested_json, safetensors
from service.errors import NotAcceptableError, UnsupportedMediaTypeError
from service.pipeline import Codec
from service.request import BlockResult, Tensors

VARY = "Accept, Content-Type"  # the request's headers that the answer's form depends on
_CODECS: dict[str, Codec] = {nested_json.MEDIA_TYPE: nested_json, safetensors.MEDIA_TYPE: safetensors}
_QUALITY = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")


@dataclass(frozen=True, slots=True)
class Formats:
    """A codec that reads one format and writes another.

    Attributes:
        reads: media type of the request.
        writes: media type of the answer.
    """

    reads: str
    writes: str

    @property
    def padded(self) -> bool:
        """Whether an answer's sequences share a rectangle."""
        return self.writes == safetensors.MEDIA_TYPE

    def decode(self, body: bytes | memoryview) -> Tensors:
        """Reads a request."""
        return _CODECS[self.reads].decode(body)

    def encode(self, result: BlockResult, model: str, version: str) -> bytes:
        """Writes its answer."""
        return _CODECS[self.writes].encode(result, model, version)


def negotiate(fields: Mapping[bytes, bytes]) -> Formats:
    """Chooses both formats; an answer is of the request's type where Accept has no other wish.

    Args:
        fields: values of the request's headers by name, in lower case.

    Raises:
        UnsupportedMediaTypeError: a body that we do not read. None declared is read as JSON.
        NotAcceptableError: the client takes nothing that we write.
    """
    reads = _read_type(fields.get(b"content-type", nested_json.MEDIA_TYPE.encode()).decode("latin-1"))
    if fields.get(b"content-encoding", b"identity").lower() != b"identity":
        message = "expected a body without Content-Encoding"
        raise UnsupportedMediaTypeError(message, code="unsupported_encoding", at="Content-Encoding")
    accepted = fields.get(b"accept", b"").decode("latin-1")
    if not accepted.strip():
        return Formats(reads, reads)
    ranges = dict(_read_range(part) for part in accepted.split(","))
    qualities = {media_type: _quality(media_type, ranges) for media_type in (reads, *_CODECS)}
    writes = max(qualities, key=qualities.__getitem__)  # the first of equals
    if not qualities[writes]:
        message = f"this route answers with {' or '.join(_CODECS)}, which Accept leaves out"
        raise NotAcceptableError(message, code="not_acceptable", at="Accept")
    return Formats(reads, writes)


def _read_type(declared: str) -> str:
    media_type, _, parameters = (part.strip() for part in declared.lower().partition(";"))
    charset = parameters.partition("charset=")[2].strip('" ') or "utf-8"
    in_utf8 = charset in {"utf-8", "utf8", "us-ascii"} or media_type != nested_json.MEDIA_TYPE
    if media_type not in _CODECS or not in_utf8:
        message = f"expected Content-Type {' (in UTF-8) or '.join(_CODECS)}, got another one"
        raise UnsupportedMediaTypeError(message, code="unsupported_media_type", at="Content-Type")
    return media_type


def _read_range(part: str) -> tuple[str, float]:
    """A range of media types and its quality, 0 if that is not written as RFC 9110 (12.4.2) says."""
    media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
    weight = next((value for value in parameters if value.startswith("q=")), "q=1").removeprefix("q=")
    return media_range, float(weight) if _QUALITY.fullmatch(weight) else 0.0


def _quality(media_type: str, ranges: dict[str, float]) -> float:
    """That of the narrowest range that holds the type (RFC 9110, 12.5.1)."""
    wider = f"{media_type.partition('/')[0]}/*"
    return next((ranges[name] for name in (media_type, wider, "*/*") if name in ranges), 0.0)
