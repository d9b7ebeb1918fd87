"""Runs the service with uvicorn in this process.

The port is bound first, so that a busy one is a one-line error and not a traceback after the
index was opened.

On SIGTERM, ``/readyz`` first answers "not ready" while the server keeps answering for
``DRAIN_SECONDS``, so that a load balancer can switch to another; then the server accepts no new
connection, finishes the requests under way, and exits. Ctrl-C skips the waiting.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import threading
from pathlib import Path
from types import FrameType

import uvicorn

from api.app import create_app
from api.http.keys import read_keys
from api.http.logs import configure
from api.service.service import Service
from common.errors import InputError, OnepassError
from tracks.association.options import LinkOptions
from tracks.live.store import LINK_STATE

DRAIN_SECONDS = 2.0  # not ready, but answering
SHUTDOWN_SECONDS = 30  # answers under way get this long after that


class _Server(uvicorn.Server):
    """A uvicorn that drains before it stops listening."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
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


def serve(
    index: Path,
    *,
    host: str,
    port: int,
    api_key_file: Path | None = None,
    log_json: bool | None = None,
    link_state: Path = LINK_STATE,
    link_options: LinkOptions | None = None,
) -> None:
    """Serve ``index`` until SIGINT or SIGTERM, then finish the requests under way.

    Args:
        index: an index folder.
        host: address to listen on.
        port: port to listen on.
        api_key_file: file of keys for requests under /v1; None requires no key.
        log_json: log lines as JSON; None: unless stderr is a terminal.
        link_state, link_options: as for ``create_app``.

    Raises:
        InputError: the address cannot be bound, or the key file is not valid.
        OnepassError: the index could not be opened; the server has stopped.
    """
    configure(as_json=not sys.stderr.isatty() if log_json is None else log_json)
    keys = read_keys(api_key_file) if api_key_file else None
    failures: list[OnepassError] = []

    def stop(error: OnepassError) -> None:
        failures.append(error)
        server.should_exit = True

    with bind(host, port) as listener:
        app = create_app(
            index,
            api_keys=keys,
            link_state=link_state,
            link_options=link_options,
            on_failure=stop,
        )
        config = uvicorn.Config(
            app,
            ws="none",
            lifespan="on",
            access_log=False,  # api.http.observe writes one
            log_config=None,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
        server = _Server(config, app.state.service)
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
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"cannot listen on {host}:{port}: {reason}; choose another `port` (or `host`), or end "
            "what uses it"
        ) from None
