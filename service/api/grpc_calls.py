"""What each call of gRPC but ModelInfer gives: the same models in the same words as `/v2`."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2

from service.api.v2_models import (
    Asked,
    all_statistics,
    configuration,
    find,
    model_metadata,
    server_metadata,
    statistics,
)
from service.api.v2_repository import hold_control, list_versions, load_anew
from service.codec.inference_head import lack
from service.codec.inference_proto import read_parameters
from service.codec.inference_request import PROBES
from service.codec.open_inference_pb2 import DESCRIPTOR
from service.codec.proto_wire import scan, unreadable
from service.errors import NotFoundError
from service.lifecycle import Lifecycle
from service.loader import Loader
from service.repository import Repository
from service.settings import Settings

SERVICE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"


@dataclass(frozen=True, slots=True)
class Served:
    """What the calls ask.

    Attributes:
        settings: the limits.
        lifecycle: read at every call.
        repository: the models.
        loader: changes which models are served.
    """

    settings: Settings
    lifecycle: Lifecycle
    repository: Repository
    loader: Loader


@dataclass(frozen=True, slots=True)
class Call:
    """One call: its messages, and what answers it with the fields of the second.

    Attributes:
        request: class of its message.
        response: class of its answer.
        answer: gives the answer as JSON would have it.
    """

    request: Any
    response: Any
    answer: Callable[[Served, Any], Awaitable[dict[str, Any]]]

    def read(self, body: bytes) -> Any:
        """The request.

        Raises:
            UnreadableError: not its message.
            IllegalRequestError: more fields than any request has.
        """
        scan(body, (), {})
        try:
            return self.request.FromString(body)
        except DecodeError:
            raise unreadable() from None

    def write(self, answer: dict[str, Any]) -> bytes:
        """The answer's bytes."""
        written: bytes = ParseDict(answer, self.response()).SerializeToString()
        return written


def find_named(served: Served, name: str, version: str, place: str) -> Asked:
    """A model by one of its two names, in this version or, if that is empty, the highest.

    Raises:
        NotFoundError: no such model or version; `place` says where.
    """
    with _at(place):
        return find(served.repository, name, version or None)


@contextmanager
def _at(place: str) -> Iterator[None]:
    """A model that is not found was named here, and not in a path, and its version beside it."""
    try:
        yield
    except NotFoundError as error:
        error.at = place.replace("name", "version") if error.code == "unknown_version" else place
        raise


def health_of(served: Served, service: str) -> str | None:
    """SERVING or NOT_SERVING, of the server (an empty name), our service, or a model; None: there is no such thing."""
    known = service in {"", SERVICE, HEALTH} or service.removesuffix(PROBES) in served.repository.models
    if not known and served.lifecycle.state != "loading":  # until then any name may become a model
        return None
    return "SERVING" if served.lifecycle.state == "ready" else "NOT_SERVING"


async def _check_health(served: Served, request: Any) -> dict[str, Any]:
    status = health_of(served, request.service)
    if status is None:
        message = f"expected the name of a model, {SERVICE}, or none"
        raise NotFoundError(message, code="unknown_model", at="service")
    return {"status": status}


async def _live(_served: Served, _request: Any) -> dict[str, Any]:
    return {"live": True}


async def _ready(served: Served, _request: Any) -> dict[str, Any]:
    return {"ready": served.lifecycle.state == "ready"}


async def _model_ready(served: Served, request: Any) -> dict[str, Any]:
    versions = served.repository.models.get(request.name.removesuffix(PROBES), {})
    here = request.version in versions if request.version else bool(versions)
    return {"ready": here and served.lifecycle.state in {"ready", "draining"}}


async def _describe_server(_served: Served, _request: Any) -> dict[str, Any]:
    return server_metadata()


async def _describe_model(served: Served, request: Any) -> dict[str, Any]:
    return model_metadata(find_named(served, request.name, request.version, "name"), served.repository)


async def _configure(served: Served, request: Any) -> dict[str, Any]:
    found = find_named(served, request.name, request.version, "name")
    return {"config": configuration(found, served.repository, served.settings)}


async def _count(served: Served, request: Any) -> dict[str, Any]:
    if not request.name:
        return all_statistics(served.repository)
    return {"model_stats": [statistics(find_named(served, request.name, request.version, "name"))]}


async def _index(served: Served, request: Any) -> dict[str, Any]:
    _hold_one_repository(request)
    return {"models": await list_versions(served.repository, served.settings, ready=request.ready)}


async def _load(served: Served, request: Any) -> dict[str, Any]:
    hold_control(served.settings, request.model_name)
    _hold_one_repository(request)
    with _at("model_name"):
        await load_anew(served.loader, request.model_name, request.parameters)
    return {}


async def _unload(served: Served, request: Any) -> dict[str, Any]:
    hold_control(served.settings, request.model_name)
    _hold_one_repository(request)
    read_parameters(request.parameters, ("unload_dependents",), "parameters", ())
    with _at("model_name"):
        await served.loader.take_away(request.model_name)
    return {}


def _hold_one_repository(request: Any) -> None:
    if request.repository_name:
        raise lack("repository_name", "repository_name")


def _named(descriptor: Any, answers: dict[str, Callable[[Served, Any], Awaitable[dict[str, Any]]]]) -> dict[str, Call]:
    """The calls of a service by their paths."""
    methods = descriptor.methods_by_name
    return {
        f"/{descriptor.full_name}/{name}": Call(
            GetMessageClass(methods[name].input_type), GetMessageClass(methods[name].output_type), answer
        )
        for name, answer in answers.items()
    }


CALLS = _named(health_pb2.DESCRIPTOR.services_by_name["Health"], {"Check": _check_health}) | _named(
    DESCRIPTOR.services_by_name["GRPCInferenceService"],
    {
        "ServerLive": _live,
        "ServerReady": _ready,
        "ModelReady": _model_ready,
        "ServerMetadata": _describe_server,
        "ModelMetadata": _describe_model,
        "ModelConfig": _configure,
        "ModelStatistics": _count,
        "RepositoryIndex": _index,
        "RepositoryModelLoad": _load,
        "RepositoryModelUnload": _unload,
    },
)
