"""The page at ``/`` and the API's documentation: ``api/page`` unchanged, with headers that restrict it.

The page shows text of an index, so no text may become code: no inline script or style, no other
host, and no text parsed as HTML (``require-trusted-types-for``).
"""

from __future__ import annotations

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.staticfiles import StaticFiles

_POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' blob:",  # crops are fetched with the key and shown as blobs
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
)
_HEADERS = {
    "Content-Security-Policy": "; ".join(_POLICY),
    "Cache-Control": "no-cache",  # cache it, but revalidate
}
_files = StaticFiles(packages=[("api", "page")])

router = APIRouter(include_in_schema=False)


@router.get("/")
async def page(request: Request) -> Response:
    """The HTML of the page."""
    return await part(request, "index.html")


@router.get("/docs")
async def documentation(request: Request) -> Response:
    """The OpenAPI document as HTML, by scripts of this server only."""
    return await part(request, "docs.html")


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """The OpenAPI document, which is written once."""
    state = request.app.state
    if not hasattr(state, "openapi"):
        state.openapi = orjson.dumps(request.app.openapi())
    return Response(state.openapi, media_type="application/json")


@router.get("/page/{name}")
async def part(request: Request, name: str) -> Response:
    """A file of the page."""
    response = await _files.get_response(name, request.scope)
    response.headers.update(_HEADERS)
    return response
