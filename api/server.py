"""Runs the service with uvicorn, in this one process.

The port is bound before anything else is done, so that a busy one is a one-line error and
not a traceback after the index was opened.
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import uvicorn

from api.app import create_app
from cluster.errors import InputError, OnepassError

SHUTDOWN_SECONDS = 30  # answers under way get this long once the process is told to stop


def serve(index: Path, *, host: str, port: int) -> None:
    """Serve ``index`` until SIGINT or SIGTERM, then finish the answers under way.

    Raises:
        InputError: the address cannot be bound.
        OnepassError: the index could not be opened; the server has ended because of it.
    """
    failures: list[OnepassError] = []

    def give_up(error: OnepassError) -> None:
        failures.append(error)
        server.should_exit = True

    with _bind(host, port) as listener:
        app = create_app(index, on_failure=give_up)
        server = uvicorn.Server(
            uvicorn.Config(
                app, ws="none", lifespan="on", timeout_graceful_shutdown=SHUTDOWN_SECONDS
            )
        )
        # uvicorn raises it again once it has shut down in good order
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
    if failures:
        raise failures[0]


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"cannot listen on {host}:{port}: {reason}; choose another --port (or --host), or end "
            "what holds it"
        ) from None
