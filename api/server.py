"""Runs the service with uvicorn in this process.

The port is bound first, so that a busy one is a one-line error and not a traceback after the
index was opened.

On SIGTERM, ``/readyz`` first answers "not ready" while the server keeps answering for
``DRAIN_SECONDS``, so that a load balancer can switch to another; then the server accepts no new
connection, finishes the requests under way, and exits. Ctrl-C skips the waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import signal
import socket
import threading
from types import FrameType
from typing import cast

import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.config import ServeConfig
from api.http.connections import SEND_BUFFER, Connections
from api.http.logs import configure
from api.service.service import Service
from common.errors import InputError, OnepassError

DRAIN_SECONDS = 2.0  # not ready, but answering
SHUTDOWN_SECONDS = 30  # answers under way get this long after that


class Server(uvicorn.Server):
    """A uvicorn with bounded connections, that drains before it stops listening."""

    def __init__(self, app: FastAPI) -> None:
        service: Service = app.state.service
        connections = Connections(service.limits, service.metrics)
        options = uvicorn.Config(
            app,
            http=cast(type[asyncio.Protocol], connections.protocol),  # uvicorn only calls it
            ws="none",
            lifespan="on",
            access_log=False,  # api.http.middleware writes one
            log_config=None,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
        super().__init__(options)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first SIGTERM; stop at once at a second one or at Ctrl-C."""
        if sig != signal.SIGTERM or self._service.draining:
            super().handle_exit(sig, frame)
            return
        self._service.draining = True
        timer = threading.Timer(DRAIN_SECONDS, super().handle_exit, (sig, frame))
        timer.daemon = True
        timer.start()


def serve(config: ServeConfig) -> None:
    """Serve an index in this process until SIGINT or SIGTERM; requests under way are finished.

    Raises:
        InputError: the address cannot be bound, or the key file is not valid.
        OnepassError: the index could not be opened; the server has stopped.
    """
    configure(config.log_json)
    # A process that is ended by a signal, as by a mapped file that was cut, says where it was.
    with contextlib.suppress(OSError, ValueError):  # stderr is no file, as in a notebook
        faulthandler.enable()
    failures: list[OnepassError] = []

    def stop(error: OnepassError) -> None:
        failures.append(error)
        server.should_exit = True

    with bind(config.host, config.port) as listener:
        server = Server(create_app(config, on_failure=stop))
        # uvicorn raises it again after it has shut down in order
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
    if failures:
        raise failures[0]


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        InputError: the address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # of its connections
        return listener
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"cannot listen on {host}:{port}: {reason}; choose another `port` (or `host`), or end "
            "what uses it"
        ) from None
