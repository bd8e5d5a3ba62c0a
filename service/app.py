"""Composition root: settings → models → routes; lifespan; the one error handler."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from fastapi import Request, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from service import __version__, budget, logs, metrics
from service.admission import Door
from service.api import operations, page, v1, v2, v2_repository
from service.api.direct import Direct
from service.api.document import DescribedAPI
from service.codec.inference_request import PROBES
from service.errors import DeviceLostError, GlassblockError, MethodNotAllowedError, NotFoundError, StartError, bug
from service.keys import ApiKeys, read_keys
from service.lifecycle import Lifecycle
from service.loader import Loader
from service.memory import trim
from service.places import Places
from service.queue import Load
from service.refusal import as_reply
from service.repository import Model, Repository, find_versions, load_model, read_specs
from service.settings import Settings

if TYPE_CHECKING:
    from service.api.grpc import GrpcServer

_PATHS = 256  # that are remembered: clients ask for the same few


class Application:
    """The ASGI application and what the command line needs of it.

    Args:
        settings: read once, by the caller.
        on_ready: called when every model is ready.
        on_failure: called with the reason when the models cannot be loaded or can no longer be run.

    Attributes:
        asgi: what the server serves.
        direct: answers busy routes beside it.
        door: that both lie behind.
        openapi: gives the API's document.
        lifecycle: written here and by the command line's signal handlers.
        repository: the models.
        grpc_port: where gRPC listens, once it does; None: nowhere.
    """

    def __init__(
        self,
        settings: Settings,
        on_ready: Callable[[Repository], None] = lambda _: None,
        on_failure: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._on_ready = on_ready
        self._on_failure = on_failure
        self.lifecycle = Lifecycle()
        self.repository = Repository()
        self.grpc_port: int | None = None
        self._loader = Loader(self.repository, self._load_fitting)
        api = self._api()
        api.state.places = places = Places(settings)
        metrics.IN_FLIGHT.set_function(lambda: places.taken)
        keys = read_keys(settings.api_keys_file) if settings.api_keys_file else None
        self.openapi = api.openapi
        self._grpc = None if settings.grpc_port is None else self._make_grpc(places, keys)
        self.door = Door(api, settings, self.lifecycle, places, self._load_of, keys)
        self.direct = Direct(api, [*v1.forward_router.routes, *v2.infer_router.routes], self.door)
        self.asgi: ASGIApp = logs.RequestLog(self.door)

    def _api(self) -> DescribedAPI:
        api = DescribedAPI(
            title="Glassblock",
            version=__version__,
            description="Transformer blocks you can see through.",
            lifespan=self._lifespan,
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
            telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        )
        api.state.settings, api.state.lifecycle, api.state.repository = self._settings, self.lifecycle, self.repository
        api.state.loader = self._loader
        faces = (v1.router, v1.forward_router, v2.router, v2.infer_router, v2_repository.router)
        for router in (*faces, operations.router, page.router):
            # include_router would make every route anew at the first request, and hold the event loop for 0.1 s.
            api.router.routes.extend(router.routes)
        for kind in (GlassblockError, HTTPException, Exception):
            api.add_exception_handler(kind, _answer_error)
        return api

    def _make_grpc(self, places: Places, keys: ApiKeys | None) -> "GrpcServer":
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what it would write on stderr is said in our own words
        try:
            from service.api.grpc import GrpcServer  # noqa: PLC0415 - an extra, and a start is shorter without
        except ImportError as error:
            message = f"grpc_port is set, but {error.name} is not installed: install Glassblock with its extra grpc"
            raise StartError(message) from None
        return GrpcServer(self._settings, self.lifecycle, self.repository, self._loader, places, keys)

    def _load_of(self, path: str) -> Load:
        """What waits for the model that a path names, as every face does, after /models/; of its versions the least."""
        versions = self.repository.models.get(_name_in(path))
        return min([model.batcher.load for model in versions.values()]) if versions else Load()

    @asynccontextmanager
    async def _lifespan(self, _: DescribedAPI) -> AsyncIterator[None]:
        # A daemon thread, so that a stop while loading need not wait for the load.
        load = threading.Thread(target=self._load, args=(asyncio.get_running_loop(),), name="load", daemon=True)
        try:
            if self._grpc:
                self.grpc_port = await self._grpc.start()
            load.start()
        except StartError as error:
            self._fail(str(error))
        yield
        if self._grpc:
            await self._grpc.stop()
        self.repository.stop()

    def _load(self, loop: asyncio.AbstractEventLoop) -> None:
        end = partial(self._fail, "the models could not be loaded; this is a bug of the server")
        try:
            end = partial(self._open, load_models(self._settings, self._on_death))
        except StartError as error:
            end = partial(self._fail, str(error))
        finally:  # whatever came, the process must not stay as if it were still loading
            loop.call_soon_threadsafe(end)

    def _load_fitting(self, name: str) -> list[Model]:
        """Loads every version of a model, if it fits beside those that are served: until it can, the old one is too."""
        with _as_start_error():
            new = read_specs(self._settings, name)
        budget.hold([*(model.spec for model in self.repository.all()), *new], self._settings)
        return load_models(self._settings, self._on_death, name)

    def _open(self, models: list[Model]) -> None:
        if self.lifecycle.state != "loading":
            return  # a stop came first
        for model in models:
            model.batcher.start()
            self.repository.add(model)
        self.lifecycle.state = "ready"
        self._on_ready(self.repository)

    def close(self) -> None:
        """Serves nobody new from now on; gRPC's calls under way get the time to finish that HTTP's requests get."""
        self.lifecycle.state = "closed"
        if self._grpc:
            self._grpc.stop()

    def _on_death(self) -> None:
        self._fail("a batcher died; see the log")

    def _fail(self, reason: str) -> None:
        self.lifecycle.state = "dead"
        self._on_failure(reason)


@lru_cache(_PATHS)
def _name_in(path: str) -> str:
    face, _, rest = path.partition("/models/")
    return rest.partition("/")[0].removesuffix(PROBES) if face in {"/v1", "/v2"} else ""


def load_models(settings: Settings, on_death: Callable[[], None], name: str | None = None) -> list[Model]:
    """Loads every model of the models folder, or every version of one, in order of name and version.

    Raises:
        StartError: one of them cannot be served; none is, then.
    """
    with _as_start_error():
        folders = [folder for folder in find_versions(settings.models) if name in {None, folder.parent.name}]
        models = [load_model(folder, settings, on_death) for folder in folders]
    trim()  # the files' bytes
    return models


def read_fitting(settings: Settings, say: Callable[[str], None]) -> Settings:
    """The settings under which the models fit into memory; says what was lowered for it.

    Raises:
        StartError: they do not fit, or a manifest cannot be read.
    """
    with _as_start_error():
        fitting = budget.fit(read_specs(settings), settings)
    for sentence in budget.lowered(settings, fitting):
        say(sentence)
    return fitting


@contextmanager
def _as_start_error() -> Iterator[None]:
    try:
        yield
    except OSError as error:  # a folder that may not be read
        raise StartError(f"{error.filename}: {error.strerror}") from error
    except MemoryError as error:
        raise StartError(f"out of memory while loading: {error}") from error
    except DeviceLostError as error:
        raise StartError(f"the device is lost: {error}") from error


async def _answer_error(request: Request, error: Exception) -> Response:
    reply = as_reply(request.scope, _as_known(error))
    return Response(reply.body, reply.status, reply.headers)


def _as_known(error: Exception) -> GlassblockError:
    if isinstance(error, GlassblockError):
        return error
    if isinstance(error, HTTPException) and error.status_code == NotFoundError.status:
        return NotFoundError("no such route; GET /docs for the list", code="unknown_route", at="path")
    if isinstance(error, HTTPException) and error.status_code == MethodNotAllowedError.status:
        allow = dict(error.headers or {})
        message = f"expected method {allow.get('Allow', 'of this route')}"
        return MethodNotAllowedError(message, code="method_not_allowed", at="method", headers=allow)
    return bug()
