"""The page at ``/``: the files of ``api/page`` unchanged, with headers that restrict it.

The page shows text of an index, so no text may become code: no inline script or style, no other
host, and no text parsed as HTML (``require-trusted-types-for``). The files are read once, so a
name from a URL never reaches the disk.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = "; ".join(
    (
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
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # cache it, but revalidate
}

router = APIRouter(include_in_schema=False)


def _read() -> dict[str, bytes]:
    return {
        file.name: file.read_bytes()
        for file in files("api").joinpath("page").iterdir()
        if _suffix(file.name) in _TYPES
    }


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]


_FILES = _read()
_TAGS = {name: f'"{hashlib.sha256(data).hexdigest()[:16]}"' for name, data in _FILES.items()}


@router.get("/")
async def page(request: Request) -> Response:
    """The HTML of the page."""
    return _answer(request, "index.html")


@router.get("/page/{name}")
async def part(request: Request, name: str) -> Response:
    """A file of the page."""
    if name not in _FILES:
        raise HTTPException(404)
    return _answer(request, name)


def _answer(request: Request, name: str) -> Response:
    headers = _HEADERS | {"ETag": _TAGS[name]}
    if request.headers.get("if-none-match") == _TAGS[name]:
        return Response(status_code=304, headers=headers)
    return Response(_FILES[name], media_type=_TYPES[_suffix(name)], headers=headers)
