"""Routes whose requests go through the pipeline: called by their path alone, answered in one piece."""

import time
from collections.abc import Iterable
from functools import partial

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

    def find(self, scope: Scope) -> Answer | None:
        """What answers a request to /v1/models/NAME/forward, …/NAME/versions/VERSION/forward and the like."""
        if scope["method"] != "POST":
            return None
        pieces: list[str] = scope["path"].split("/")
        values = pieces[3:-1:2]
        if len(pieces) not in _PIECES or not all(values):
            return None
        pieces[3:-1:2] = _PIECES[len(pieces)]
        route = self._routes.get("/".join(pieces))
        scope["path_params"] = dict(zip(("model", "version"), values, strict=False))
        return None if route is None else partial(self._answer, route)

    async def _answer(self, route: APIRoute, scope: Scope, receive: Receive) -> Reply | None:
        """The answer, which is logged and counted; None if the client has gone."""
        start_s, reply = time.perf_counter(), None
        scope["request_id"] = logs.choose_request_id(scope["fields"])
        try:
            reply = await self._door.through(scope, receive, partial(self._call, route, scope))
        except GlassblockError as error:
            reply = turn_away(scope, error)
        finally:
            status, size_bytes = (reply.status, len(reply.body)) if reply else (logs.CLIENT_GONE, 0)
            logs.note_request(
                scope, "POST", scope.get("template", "none"), status, time.perf_counter() - start_s, size_bytes
            )
        return reply

    async def _call(self, route: APIRoute, scope: Scope, body: bytes) -> Reply:
        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        scope["app"], scope["template"] = self._app, route.path
        try:
            reply: Reply = await route.endpoint(Request(scope, receive), **scope["path_params"])
        except GlassblockError as error:
            return as_reply(scope, error)
        except Exception as error:  # noqa: BLE001 - as FastAPI's last handler, for the routes that are not its own
            _log.error("bug", route=route.path, exc_info=error)
            return as_reply(scope, bug())
        return reply


def describe(model: Model, timings: Timings) -> dict[str, str]:
    """Headers that say who answered, and how long each stage took in milliseconds."""
    stages = {"decode": timings.decode_s, "queue": timings.queue_s, "run": timings.run_s, "encode": timings.encode_s}
    return {
        "Server-Timing": ", ".join(f"{name};dur={seconds * 1e3:.3f}" for name, seconds in stages.items()),
        "X-Model-Version": model.spec.version,
        "X-Model-SHA256": model.sha256,
    }
