"""For people who look: the page at `/`, the API's document at `/docs`, and their files, all from this server."""

import hashlib
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.responses import FileResponse

from service.errors import NotFoundError

router = APIRouter(include_in_schema=False)

STATIC = Path(__file__).parent.parent / "static"
_MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}
_POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
_DOCS_POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'"  # Swagger UI's own styles


@router.get("/")
async def page(request: Request) -> Response:
    """The playground: attention, layer by layer, of any model that is served here."""
    return _answer(request, "page.html", _POLICY)


@router.get("/docs")
async def docs(request: Request) -> Response:
    """Swagger UI."""
    return _answer(request, "docs.html", _DOCS_POLICY)


@router.get("/static/{path:path}")
async def static(request: Request, path: str) -> Response:
    """A file of the pages; only those that were there at the start exist."""
    return _answer(request, path, _POLICY)


_FILES = {path.relative_to(STATIC).as_posix(): path for path in STATIC.rglob("*") if path.is_file()}


def _answer(request: Request, name: str, policy: str) -> Response:
    """The file, or that it is as the browser has it: it asks each time, so that no page mixes two versions."""
    path = _FILES.get(name)
    if path is None:
        raise NotFoundError("no such file", code="unknown_route", at="path")
    headers = {
        "Cache-Control": "no-cache",
        "Content-Security-Policy": policy,
        "ETag": _etag(path),
        "X-Content-Type-Options": "nosniff",
    }
    if headers["ETag"] in request.headers.get("If-None-Match", ""):
        return Response(status_code=304, headers=headers)
    return FileResponse(path, media_type=_MEDIA_TYPES.get(path.suffix, "text/plain"), headers=headers)


@cache
def _etag(path: Path) -> str:
    return f'"{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}"'
