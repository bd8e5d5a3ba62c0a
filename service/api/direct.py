"""Routes whose requests go through the pipeline: called without FastAPI's own work, answered with the same headers."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from service.pipeline import Timings
from service.repository import Model


class DirectRoute(APIRoute):
    """Calls its endpoint with the path's parameters alone: solving dependencies costs more than door and log."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's documented hook for custom routes."""

        async def call(request: Request) -> Response:
            response: Response = await self.endpoint(request, **request.path_params)
            return response

        return call


def describe(model: Model, timings: Timings) -> dict[str, str]:
    """Headers that say who answered, and how long each stage took in milliseconds."""
    stages = {"decode": timings.decode_s, "queue": timings.queue_s, "run": timings.run_s, "encode": timings.encode_s}
    return {
        "Server-Timing": ", ".join(f"{name};dur={seconds * 1e3:.3f}" for name, seconds in stages.items()),
        "X-Model-Version": model.spec.version,
        "X-Model-SHA256": model.sha256,
    }
