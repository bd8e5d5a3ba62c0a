"""Routes whose requests go through the pipeline: called by their path alone, answered in one piece."""

from collections.abc import Iterable
from functools import lru_cache, partial

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute
from starlette.types import Message, Receive, Scope

from service import logs
from service.admission import Door
from service.connection import Answer
from service.errors import GlassblockError, bug
from service.pipeline import Timings
from service.refusal import as_reply, turn_away
from service.reply import Reply
from service.repository import Model

_PIECES = {5: ["{model}"], 7: ["{model}", "{version}"]}  # by the number of pieces of a path

_PATHS = 256  # that are remembered: clients ask for the same few

_log = logs.get("direct")


class Direct:
    """Beside FastAPI: calls the endpoints of busy routes itself, with the path's parameters.

    FastAPI describes these routes; its way to them, its middleware and an answer in pieces would cost as much as the
    rest of what the server does for a small request (docs/decisions/0024).

    Args:
        app: describes the routes.
        routes: all POST, of `{model}` and perhaps `versions/{version}`; their endpoints give a `Reply`.
        door: that requests go through.
    """

    def __init__(self, app: FastAPI, routes: Iterable[BaseRoute], door: Door) -> None:
        self._app = app
        self._routes = {route.path: route for route in routes if isinstance(route, APIRoute)}
        self._door = door
        self._match = lru_cache(_PATHS)(self._match)  # type: ignore[method-assign]

    def find(self, scope: Scope) -> Answer | None:
        """What answers a request to /v1/models/NAME/forward, …/NAME/versions/VERSION/forward and the like."""
        if scope["method"] != "POST":
            return None
        route, scope["path_params"] = self._match(scope["path"])
        return None if route is None else partial(self._answer, route)

    def _match(self, path: str) -> tuple[APIRoute | None, dict[str, str]]:
        pieces = path.split("/")
        values = pieces[3:-1:2]
        if len(pieces) not in _PIECES or not all(values):
            return None, {}
        pieces[3:-1:2] = _PIECES[len(pieces)]
        return self._routes.get("/".join(pieces)), dict(zip(("model", "version"), values, strict=False))

    async def _answer(self, route: APIRoute, scope: Scope, receive: Receive) -> Reply | None:
        """The answer; None if the client has gone."""
        scope["request_id"] = logs.choose_request_id(scope["fields"])
        try:
            return await self._door.through(scope, receive, partial(self._call, route, scope))
        except GlassblockError as error:
            return turn_away(scope, error)
        except Exception as error:  # noqa: BLE001 - the last handler of routes that are not FastAPI's to answer
            _log.error("a request failed", route=route.path, exc_info=error)
            return turn_away(scope, bug())

    async def _call(self, route: APIRoute, scope: Scope, body: bytes | memoryview) -> Reply:
        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        scope["app"], scope["template"] = self._app, route.path
        try:
            reply: Reply = await route.endpoint(Request(scope, receive), **scope["path_params"])
        except GlassblockError as error:
            return as_reply(scope, error)
        return reply


def describe(model: Model, timings: Timings) -> dict[str, str]:
    """Headers that say who answered, and how long each stage took in milliseconds."""
    decode_ms, queue_ms, run_ms, encode_ms = (seconds * 1e3 for seconds in timings)
    return {
        "Server-Timing": f"decode;dur={decode_ms:.3f}, queue;dur={queue_ms:.3f}, run;dur={run_ms:.3f},"
        f" encode;dur={encode_ms:.3f}",
        "X-Model-Version": model.spec.version,
        "X-Model-SHA256": model.sha256,
    }
