"""Routes whose requests go through the pipeline: called by their path alone, answered with the same headers."""

from collections.abc import Awaitable, Callable, Iterable

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from service.errors import GlassblockError
from service.pipeline import Timings
from service.repository import Model

_PIECES = {5: ["{model}"], 7: ["{model}", "{version}"]}  # by the number of pieces of a path


class Shortcut:
    """In front of FastAPI: calls the endpoints of busy routes itself, with the path's parameters.

    FastAPI describes these routes, and would find and call them too, but its way there costs a sixth of what the server
    does for a small request, and its middleware, without the way, some hundredths.

    Args:
        app: describes the routes, and serves everything else.
        routes: all POST, of `{model}` and perhaps `versions/{version}`.
        answer_error: gives the answer for an error.
    """

    def __init__(
        self,
        app: FastAPI,
        routes: Iterable[BaseRoute],
        answer_error: Callable[[Request, Exception], Awaitable[Response]],
    ) -> None:
        self._app = app
        self._routes = {route.path: route for route in routes if isinstance(route, APIRoute)}
        self._answer_error = answer_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or leaves it to the app."""
        route = self._find(scope) if scope["type"] == "http" and scope["method"] == "POST" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["app"], scope["route"], request = self._app, route, Request(scope, receive)
        try:
            response = await route.endpoint(request, **scope["path_params"])
        except GlassblockError as error:
            response = await self._answer_error(request, error)
        await response(scope, receive, send)

    def _find(self, scope: Scope) -> APIRoute | None:
        """The route of a path such as /v1/models/NAME/forward or …/NAME/versions/VERSION/forward."""
        pieces: list[str] = scope["path"].split("/")
        values = pieces[3:-1:2]
        if len(pieces) not in _PIECES or not all(values):
            return None
        pieces[3:-1:2] = _PIECES[len(pieces)]
        scope["path_params"] = dict(zip(("model", "version"), values, strict=False))
        return self._routes.get("/".join(pieces))


def describe(model: Model, timings: Timings) -> dict[str, str]:
    """Headers that say who answered, and how long each stage took in milliseconds."""
    stages = {"decode": timings.decode_s, "queue": timings.queue_s, "run": timings.run_s, "encode": timings.encode_s}
    return {
        "Server-Timing": ", ".join(f"{name};dur={seconds * 1e3:.3f}" for name, seconds in stages.items()),
        "X-Model-Version": model.spec.version,
        "X-Model-SHA256": model.sha256,
    }
