"""For who runs the service: liveness, readiness, metrics, and the API's document with vendored assets."""

from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.responses import FileResponse

from service import metrics
from service.api.document import KEYED, OPEN, Responses
from service.errors import NotFoundError, UnavailableError
from service.lifecycle import Lifecycle

router = APIRouter(tags=["operations"])

STATIC = Path(__file__).parent.parent / "static"
_MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".png": "image/png"}
_TEXT: Responses = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
_CONTENT_SECURITY_POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'"


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


@router.get("/docs", include_in_schema=False)
async def docs() -> Response:
    """Swagger UI, from this server alone."""
    return _static("docs.html")


@router.get("/static/{path:path}", include_in_schema=False)
async def static(path: str) -> Response:
    """A file of the page; only those that were there at the start exist."""
    return _static(path)


_FILES = {path.relative_to(STATIC).as_posix(): path for path in STATIC.rglob("*") if path.is_file()}


def _static(name: str) -> Response:
    path = _FILES.get(name)
    if path is None:
        raise NotFoundError("no such file", code="unknown_route", at="path")
    headers = {"Content-Security-Policy": _CONTENT_SECURITY_POLICY, "X-Content-Type-Options": "nosniff"}
    return FileResponse(path, media_type=_MEDIA_TYPES.get(path.suffix, "text/plain"), headers=headers)
