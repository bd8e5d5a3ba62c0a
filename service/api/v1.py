"""`/v1`: for people. Nested lists or safetensors in and out, any tensor by its address."""

from typing import Any

from fastapi import APIRouter, Request

from service.api.direct import describe
from service.api.document import SERVED, refusals
from service.api.negotiation import VARY, negotiate
from service.api.v1_schema import FORWARD
from service.pipeline import answer
from service.reply import Reply
from service.repository import Model, Repository

router = APIRouter(prefix="/v1", tags=["v1"], responses=SERVED)
forward_router = APIRouter(
    prefix="/v1",
    tags=["v1"],
    responses=SERVED | refusals(403, 404, 406, 415, 422, 504),
)


@router.get("/models", operation_id="list_models", summary="The models served here")
async def list_models(request: Request) -> dict[str, Any]:
    """Name, version, provider and hash of each model."""
    repository: Repository = request.app.state.repository
    return {"models": [_summary(model) for model in repository.all()]}


@router.get(
    "/models/{model}",
    operation_id="describe_model",
    summary="One model: its tensors, config, proof and hashes",
    responses=refusals(404),
)
async def describe_model(request: Request, model: str) -> dict[str, Any]:
    """What the manifest says, and every address with its axes."""
    return _describe(request.app.state.repository, model, None)


@router.get(
    "/models/{model}/versions/{version}",
    operation_id="describe_version",
    summary="One version of a model",
    responses=refusals(404),
)
async def describe_version(request: Request, model: str, version: str) -> dict[str, Any]:
    """As without a version."""
    return _describe(request.app.state.repository, model, version)


@forward_router.post(
    "/models/{model}/forward",
    operation_id="forward",
    summary="Run the block",
    response_model=None,
    openapi_extra=FORWARD,
)
async def forward(request: Request, model: str) -> Reply:
    """The block's output and any tensor inside, by address; see the request's schema."""
    return await _answer(request, request.app.state.repository.get(model, None))


@forward_router.post(
    "/models/{model}/versions/{version}/forward",
    operation_id="forward_version",
    summary="Run a version of the block",
    response_model=None,
    openapi_extra=FORWARD,
)
async def forward_version(request: Request, model: str, version: str) -> Reply:
    """As without a version."""
    return await _answer(request, request.app.state.repository.get(model, version))


async def _answer(request: Request, found: Model) -> Reply:
    formats = negotiate(request.scope["fields"])
    body: bytes | memoryview = (await request.receive())["body"]  # whole, by the door; request.body() would copy it
    data, timings = await answer(found, body, formats, request.app.state.settings, padded=formats.padded)
    return Reply(200, {"Content-Type": formats.writes, "Vary": VARY, **describe(found, timings)}, data)


def _describe(repository: Repository, model: str, version: str | None) -> dict[str, Any]:
    found = repository.get(model, version)
    spec = found.spec
    versions = sorted(repository.models[spec.name], key=int)
    manifest = spec.model_dump(exclude={"layers", "golden", "inputs", "outputs", "files"})
    return {
        **_summary(found),
        "versions": versions,
        **{name: value for name, value in manifest.items() if name not in {"name", "version"}},
        "inputs": [tensor.model_dump() for tensor in spec.inputs],
        "outputs": _addresses(found),
        "files": {name: file.model_dump() for name, file in spec.files.items()},
    }


def _summary(model: Model) -> dict[str, Any]:
    spec = model.spec
    return {
        "name": spec.name,
        "version": spec.version,
        "sha256": model.sha256,
        "provider": model.provider,
        "hidden_size": spec.hidden_size,
        "num_layers": len(spec.layers),
        "accepts": ["hidden_states", *(["input_ids", "text"] if spec.text else [])],
    }


def _addresses(model: Model) -> list[dict[str, Any]]:
    """Every tensor by its full address, axes and sizes without batch, as one sequence's answer has them."""
    spec = model.spec
    named = [(spec.outputs[0].name, spec.outputs[0])]
    named += [(f"layers.{i}.{name}", tensor) for i, probes in enumerate(spec.probes) for name, tensor in probes.items()]
    return [{"address": name, "axes": tensor.axes[1:], "shape": tensor.shape[1:]} for name, tensor in named]
