"""Processes that kill themselves at a change to files, for ``tests.helpers.fork_server``."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHANGES = frozenset(("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"))


def die_at(change: int, *, in_store: bool) -> Callable[[], int]:
    """Kill this process, and its group, right before its nth change to files.

    Args:
        change: counted from 0.
        in_store: count what is stored in an object store instead.

    Returns:
        A function that says how many there were so far.
    """
    count = 0

    def count_change() -> None:
        nonlocal count
        if count == change:
            os.killpg(0, signal.SIGKILL)
        count += 1

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & 0o3
        if event in CHANGES or writes:
            count_change()

    if not in_store:
        sys.addaudithook(audit)
        return lambda: count
    from common import storage
    from index.storage import remote

    arrow, write_bytes = remote.arrow, storage.write_bytes

    class CountedClient:
        """A store's client; a kill comes before a change to it, or in the middle of a file."""

        def __init__(self, client: Any) -> None:
            self._client = client

        def __getattr__(self, name: str) -> Any:
            if name in ("open_output_stream", "delete_file", "delete_dir"):
                count_change()
            return getattr(self._client, name)

    def counted_arrow(path: Path) -> tuple[Any, str]:
        client, name = arrow(path)
        return CountedClient(client), name

    def counted_write(file: Path, data: bytes) -> None:
        count_change()
        write_bytes(file, data)

    remote.arrow, storage.write_bytes = counted_arrow, counted_write
    return lambda: count
