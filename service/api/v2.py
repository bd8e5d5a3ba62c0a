"""`/v2`: for tools. The Open Inference Protocol with its binary tensor extension, as Triton's clients speak it.

Each of our models has two names: NAME answers `block_output`, NAME.probes what is inside.
"""

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from service.api.direct import describe
from service.api.document import SERVED, refusals
from service.api.v2_models import (
    Asked,
    all_statistics,
    configuration,
    find,
    model_metadata,
    server_metadata,
    statistics,
)
from service.api.v2_schema import INFER
from service.codec.compression import check_encoding, choose_encoding, deflate, inflate
from service.codec.inference import HEADER_LENGTH, Exchange
from service.codec.inference_request import PROBES
from service.errors import UnreadableError, UnsupportedError
from service.pipeline import answer
from service.reply import Reply
from service.repository import Repository

router = APIRouter(prefix="/v2", tags=["v2"], responses=SERVED)
infer_router = APIRouter(
    prefix="/v2",
    tags=["v2"],
    responses=SERVED | refusals(403, 404, 406, 415, 422, 501, 504),
)

_LENGTH = HEADER_LENGTH.lower().encode()
_NO_MODEL = refusals(404)
_MAX_LENGTH_DIGITS = 18
_ANY = ["GET", "POST"]
# Not a parameter of the functions: FastAPI would take it from the query where the path has none.
_VERSION = {"parameters": [{"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}]}


@router.get("/", include_in_schema=False)  # as the protocol's own document writes it
@router.get("", operation_id="v2_server", summary="This server")
async def describe_server() -> dict[str, Any]:
    """Name, version and the protocol's extensions that are here."""
    return server_metadata()


@router.get("/models", operation_id="v2_models", summary="The models' names")
async def list_models(request: Request) -> dict[str, list[str]]:
    """Both names of each model."""
    repository: Repository = request.app.state.repository
    return {"models": [name for base in sorted(repository.models) for name in (base, base + PROBES)]}


@router.get("/models/stats", operation_id="v2_all_statistics", summary="Counts and durations of every model")
async def count_all(request: Request) -> dict[str, Any]:
    """Of both names of every version."""
    return all_statistics(request.app.state.repository)


@router.get(
    "/models/{model}/stats",
    operation_id="v2_statistics",
    summary="Counts and durations of a model",
    responses=_NO_MODEL,
)
@router.get(
    "/models/{model}/versions/{version}/stats",
    operation_id="v2_version_statistics",
    summary="Those of a version",
    responses=_NO_MODEL,
    openapi_extra=_VERSION,
)
async def count(request: Request, model: str) -> dict[str, Any]:
    """Since the start; durations in nanoseconds. Both names of a model share its queue, and its figures."""
    return {"model_stats": [statistics(_find(request, model))]}


@router.get("/models/{model}", operation_id="v2_metadata", summary="A model's inputs and outputs", responses=_NO_MODEL)
@router.get(
    "/models/{model}/versions/{version}",
    operation_id="v2_version_metadata",
    summary="Those of a version",
    responses=_NO_MODEL,
    openapi_extra=_VERSION,
)
async def describe_model(request: Request, model: str) -> dict[str, Any]:
    """Names, datatypes and shapes, -1 for what a request decides; every output is sent where none is asked for."""
    return model_metadata(_find(request, model), request.app.state.repository)


@router.get("/models/{model}/ready", operation_id="v2_model_ready", summary="A model is served", responses=_NO_MODEL)
@router.get(
    "/models/{model}/versions/{version}/ready",
    operation_id="v2_version_ready",
    summary="A version is served",
    responses=_NO_MODEL,
    openapi_extra=_VERSION,
)
async def model_ready(request: Request, model: str) -> dict[str, Any]:
    """200 if it is; 404 if not."""
    _find(request, model)
    return {"name": model, "ready": True}


@router.get("/models/{model}/config", operation_id="v2_config", summary="A model's configuration", responses=_NO_MODEL)
@router.get(
    "/models/{model}/versions/{version}/config",
    operation_id="v2_version_config",
    summary="That of a version",
    responses=_NO_MODEL,
    openapi_extra=_VERSION,
)
async def configure(request: Request, model: str) -> dict[str, Any]:
    """In the words of Triton's ModelConfig: what perf_analyzer asks for."""
    return configuration(_find(request, model), request.app.state.repository, request.app.state.settings)


@infer_router.post(
    "/models/{model}/infer",
    operation_id="v2_infer",
    summary="Run a model",
    response_model=None,
    openapi_extra=INFER,
)
async def infer(request: Request, model: str) -> Reply:
    """Tensors in, tensors out, each as JSON or as bytes; see docs/protocol.md."""
    return await _answer(request, find(request.app.state.repository, model, None))


@infer_router.post(
    "/models/{model}/versions/{version}/infer",
    operation_id="v2_version_infer",
    summary="Run a version of a model",
    response_model=None,
    openapi_extra=INFER,
)
async def infer_version(request: Request, model: str, version: str) -> Reply:
    """As without a version."""
    return await _answer(request, find(request.app.state.repository, model, version))


async def _answer(request: Request, asked: Asked) -> Reply:
    fields: dict[bytes, bytes] = request.scope["fields"]
    length = _header_length(fields.get(_LENGTH))
    came = check_encoding(fields.get(b"content-encoding", b"").decode("latin-1"))
    wanted = choose_encoding(fields.get(b"accept-encoding", b"").decode("latin-1"))
    body: bytes | memoryview = (await request.receive())["body"]  # whole, by the door
    if came:
        body = await _inflate(request, body, came)
        asked = _find(request, asked.name)  # which may have been loaded anew meanwhile
    exchange = Exchange(asked.model.spec, asked.probes, length, asked.model.heads)
    data, timings = await answer(asked.model, body, exchange, request.app.state.settings)
    headers = describe(asked.model, timings)
    if exchange.answer_header_length is not None:
        headers[HEADER_LENGTH] = str(exchange.answer_header_length)
    if wanted:
        data = await asyncio.to_thread(deflate, data, wanted)
        headers |= {"Content-Encoding": wanted, "Vary": "Accept-Encoding"}
    kind = "json" if exchange.answer_header_length is None else "octet-stream"
    headers["Content-Type"] = f"application/{kind}"
    return Reply(200, headers, data)


async def _inflate(request: Request, body: bytes | memoryview, encoding: str) -> bytes:
    """The body as it was; what it takes beyond what the door has counted is counted too, and given back by the door."""
    state = request.app.state
    whole = await asyncio.to_thread(inflate, body, encoding, state.settings.max_body_bytes)
    more = max(0, len(whole) - request.scope["body_bytes"])
    state.places.add(more)
    request.scope["body_bytes"] += more
    return whole


@router.api_route("/logging", methods=_ANY, include_in_schema=False)
@router.api_route("/trace/setting", methods=_ANY, include_in_schema=False)
@router.api_route("/models/{model}/trace/setting", methods=_ANY, include_in_schema=False)
@router.api_route("/models/{model}/versions/{version}/trace/setting", methods=_ANY, include_in_schema=False)
@router.api_route("/systemsharedmemory/{path:path}", methods=_ANY, include_in_schema=False)
@router.api_route("/cudasharedmemory/{path:path}", methods=_ANY, include_in_schema=False)
async def refuse() -> None:
    """Parts of the protocol that this server does not have."""
    message = "this server has no trace, logging or shared memory routes; see GET /metrics"
    raise UnsupportedError(message, code="unsupported", at="path")


def _find(request: Request, model: str) -> Asked:
    """The model of the URL, in its version or the highest."""
    return find(request.app.state.repository, model, request.path_params.get("version"))


def _header_length(value: bytes | None) -> int | None:
    """Bytes of JSON before the tensors; None: all of it.

    Raises:
        UnreadableError: no number, or several.
    """
    if value is None:
        return None
    if not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS:
        message = "expected one number of bytes, got something else"
        raise UnreadableError(message, code="invalid_header_length", at=HEADER_LENGTH)
    return int(value)
