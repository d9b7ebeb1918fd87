"""Whether a server answers, known in seconds: clients with long retries check it first."""

from __future__ import annotations

import socket


def check_port(host: str, port: int, *, seconds: float = 5.0) -> None:
    """Raise where nothing listens.

    Args:
        host: name or address.
        port: number.
        seconds: to wait at most.

    Raises:
        OSError: nothing listens, or not within ``seconds``.
    """
    socket.create_connection((host, port), timeout=seconds).close()
