"""For who runs the service: liveness, readiness, metrics."""

from fastapi import APIRouter, Request, Response

from service import metrics
from service.api.document import KEYED, OPEN, Responses
from service.errors import UnavailableError
from service.lifecycle import Lifecycle

router = APIRouter(tags=["operations"])

_TEXT: Responses = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


@router.get("/v2/health/live", operation_id="v2_live", summary="The same for the protocol's clients", responses=OPEN)
@router.get("/livez", summary="The process answers", responses=OPEN)
async def live() -> dict[str, bool]:
    """200 as long as the event loop turns."""
    return {"live": True}


@router.get("/v2/health/ready", operation_id="v2_ready", summary="The same for the protocol's clients", responses=OPEN)
@router.get("/readyz", summary="Requests are served", responses=OPEN)
async def ready(request: Request) -> dict[str, bool]:
    """200 once every model is loaded, verified and warm; 503 before that, while draining, and when a model died."""
    lifecycle: Lifecycle = request.app.state.lifecycle
    if lifecycle.state != "ready":
        raise UnavailableError(f"the server is {lifecycle.state}", code=lifecycle.state)
    return {"ready": True}


@router.get("/metrics", summary="Prometheus metrics", response_class=Response, responses=KEYED | _TEXT)
async def render_metrics() -> Response:
    """Counters and histograms in Prometheus's text format."""
    return Response(metrics.render(), headers={"Content-Type": metrics.CONTENT_TYPE})
