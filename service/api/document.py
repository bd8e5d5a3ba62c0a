"""The OpenAPI document: FastAPI's, with every status that a route may refuse with, each in the one form of errors."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

_AUTOMATIC = ("HTTPValidationError", "ValidationError")  # FastAPI's own form of a 422, which no route here answers with
_WHEN = {
    400: "The bytes are not what their format promises, or no HTTP.",
    401: "No key, where keys are set.",
    403: "Switched off by a setting.",
    404: "No such model or version.",
    406: "The client takes no format or encoding that is written here.",
    408: "The request did not come in time.",
    413: "A body beyond the limit, as it comes or inflated.",
    414: "The URL is too long.",
    415: "A type or encoding that is not read here.",
    422: "Read, but illegal: form, inputs, outputs, or more than the limits.",
    429: "Shed; Retry-After says when to come back.",
    431: "Headers too many or too long.",
    500: "A bug of the server.",
    501: "A part of the protocol that is not here.",
    503: "Nobody or nothing that could answer: loading, draining, out of memory, dead.",
    504: "The request's time passed before its answer was computed.",
}
Responses = dict[int | str, dict[str, Any]]


class Refusal(BaseModel):
    """The one form of every refusal.

    Attributes:
        error: what was expected, what came and where; never the caller's values.
        code: a stable word for programs.
        at: place in the request; empty: the request as a whole.
        request_id: as in the header X-Request-ID.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra={"description": "The one form of every refusal."})

    error: str = Field(max_length=1_600, description="What was expected, what came and where.")
    code: str = Field(description="A stable word for programs; docs/protocol.md lists them.")
    at: str = Field(max_length=128, description="Place in the request; empty: the request as a whole.")
    request_id: str = Field(description="As in the header X-Request-ID.")


def refusals(*statuses: int) -> Responses:
    """What a route says of the statuses that it may refuse with."""
    found: Responses = {status: {"model": Refusal, "description": _WHEN[status]} for status in statuses}
    if 429 in found:
        found[429]["headers"] = {"Retry-After": {"required": True, "schema": {"type": "string", "pattern": r"^\d+$"}}}
    return found


OPEN = refusals(400, 408, 414, 431, 500, 503)  # every route
KEYED = OPEN | refusals(401)
SERVED = KEYED | refusals(413, 429)  # every route that is not asked by machines


class DescribedAPI(FastAPI):
    """FastAPI whose document holds what its routes say, and nothing that it would add of its own."""

    def openapi(self) -> dict[str, Any]:
        """The document, made once."""
        if not self.openapi_schema:
            document = super().openapi()
            for operation in (operation for methods in document["paths"].values() for operation in methods.values()):
                if _AUTOMATIC[0] in str(operation["responses"].get("422", "")):
                    del operation["responses"]["422"]
                operation["responses"] = dict(sorted(operation["responses"].items()))
            for name in _AUTOMATIC:
                document["components"]["schemas"].pop(name, None)
        return self.openapi_schema or {}
