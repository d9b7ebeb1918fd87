"""Servers to compare with, under exactly what ``onepass serve`` gives uvicorn.

_server.py bare INDEX PORT      one route, {"status": "ok"}, in place of the application
_server.py alone INDEX PORT     the application without micro-batching
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import _common  # noqa: F401  (makes 'index' the package)
from fastapi import FastAPI

import api.server


def bare(*_: Any, **__: Any) -> FastAPI:
    """What FastAPI costs by itself."""
    app = FastAPI()
    app.state.service = SimpleNamespace(draining=False)

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        return {"status": "ok"}

    return app


def main() -> None:
    kind, index, port = sys.argv[1:]
    known = {
        "bare": bare,
        "alone": functools.partial(api.server.create_app, micro_batching=False),
    }
    api.server.create_app = known[kind]  # type: ignore[assignment]
    api.server.serve(Path(index), host="127.0.0.1", port=int(port))


if __name__ == "__main__":
    main()
