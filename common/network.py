"""Whether a server answers, known in seconds: clients with long retries check it first."""

from __future__ import annotations

import socket


def check_port(host: str, port: int, *, seconds: float = 5.0) -> None:
    """Raise ``OSError`` within ``seconds`` where nothing listens."""
    socket.create_connection((host, port), timeout=seconds).close()
