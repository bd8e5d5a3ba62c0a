"""`/v2/repository`: which models are here, and, where a setting allows it, loading and unloading them."""

import asyncio
import re
from collections.abc import Collection
from typing import Any

from fastapi import APIRouter, Request

from service.api.document import SERVED, refusals
from service.api.v2_schema import INDEX, LOAD, UNLOAD
from service.codec.envelope import kind_of, parse, read_fields, wrong_type
from service.codec.inference_request import PROBES
from service.errors import IllegalRequestError, StartError, SwitchedOffError, UnsupportedError
from service.loader import Loader
from service.manifest import NAME, VERSION
from service.repository import Repository, find_versions
from service.settings import Settings

router = APIRouter(prefix="/v2/repository", tags=["v2"], responses=SERVED | refusals(422))


@router.post(
    "/index", operation_id="v2_index", summary="The models of the models folder, served or not", openapi_extra=INDEX
)
async def index(request: Request) -> list[dict[str, str]]:
    """State of every version under both names; `{"ready": true}` leaves out those that are not served."""
    fields = await _read(request, ("ready",))
    ready = fields.get("ready", False)
    if type(ready) is not bool:
        raise wrong_type("true or false", ready, "ready")
    return await list_versions(request.app.state.repository, request.app.state.settings, ready=ready)


async def list_versions(repository: Repository, settings: Settings, *, ready: bool) -> list[dict[str, str]]:
    """Name, version, state and reason of every version under both names; `ready` leaves out those not served."""
    served = {(model.spec.name, model.spec.version) for model in repository.all()}
    found = served if ready else served | await asyncio.to_thread(_on_disk, settings)
    return [
        {"name": name + suffix, "version": version, "state": state, "reason": reason}
        for name, version in sorted(found, key=lambda pair: (pair[0], len(pair[1]), pair[1]))
        for state, reason in [("READY", "") if (name, version) in served else ("UNAVAILABLE", "not loaded")]
        for suffix in ("", PROBES)
    ]


@router.post(
    "/models/{model}/load",
    operation_id="v2_load",
    summary="Load a model, or load it anew",
    responses=refusals(403, 404, 501),
    openapi_extra=LOAD,
)
async def load(request: Request, model: str) -> dict[str, Any]:
    """Every version in the models folder, verified as at the start; an older one answers until the new one can."""
    hold_control(request.app.state.settings, model)
    fields = await _read(request, ("parameters",))
    if kind_of(parameters := fields.get("parameters", {})) != "an object":
        raise wrong_type("an object", parameters, "parameters")
    await load_anew(request.app.state.loader, model, parameters)
    return {}


async def load_anew(loader: Loader, name: str, parameters: Collection[str]) -> None:
    """Loads what the models folder holds under a name, in place of what is served.

    Raises:
        UnsupportedError: there are parameters, whatever they are.
        UnavailableError: an artifact is not as it should be.
        NotFoundError: the folder has no such model.
    """
    if len(parameters):
        message = "this server loads what is in its models folder, without configurations or files of a request"
        raise UnsupportedError(message, code="unsupported", at="parameters")
    await loader.load_anew(name)


@router.post(
    "/models/{model}/unload",
    operation_id="v2_unload",
    summary="Unload a model",
    responses=refusals(403, 404),
    openapi_extra=UNLOAD,
)
async def unload(request: Request, model: str) -> dict[str, Any]:
    """Requests that wait for it are still answered; then its memory is given back."""
    hold_control(request.app.state.settings, model)
    fields = await _read(request, ("parameters",))
    if "parameters" in fields:
        read_fields(fields["parameters"], ("unload_dependents",), "parameters")
    await request.app.state.loader.take_away(model)
    return {}


def hold_control(settings: Settings, name: str) -> None:
    """Refuses where loading and unloading are switched off, and the name that stands for the inside of a model.

    Raises:
        SwitchedOffError: the setting is off.
        IllegalRequestError: NAME.probes.
    """
    if not settings.model_control:
        message = "loading and unloading are switched off: see the setting model_control"
        raise SwitchedOffError(message, code="model_control_off")
    if name.endswith(PROBES):
        message = f"expected a name without {PROBES}: a model is loaded and unloaded with what is inside"
        raise IllegalRequestError(message, code="probes_name", at="path")


async def _read(request: Request, known: Collection[str]) -> dict[str, Any]:
    """The fields of a body that may be empty."""
    body = await request.body()
    return read_fields(parse(body), known, "body") if body else {}


def _on_disk(settings: Settings) -> set[tuple[str, str]]:
    try:
        pairs = [(folder.parent.name, folder.name) for folder in find_versions(settings.models)]
    except (StartError, OSError):  # the folder is gone, or may not be read
        return set()
    # Others are in no manifest, and need not be text.
    return {pair for pair in pairs if all(map(re.fullmatch, (NAME, VERSION), pair))}
