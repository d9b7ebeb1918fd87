"""One writer at a time of a folder in an object store, where there are no locks.

The lease is an object that its holder writes anew every few seconds. Whoever finds one watches it:
one that changes is held, one that stays as it is for a stated time is of a process that died.
Nobody compares clocks: the watcher measures its own patience. Two may write theirs at once,
so each looks again after a while whose stands there; and a holder looks before every renewal, and
at the end of its work, so one who was taken for dead stops by itself.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from common.errors import FolderError, LeaseLostError
from common.storage import storage_errors

LEASE = ".lock"


@dataclass(frozen=True)
class LeaseTimeouts:
    """Seconds. A request that a store leaves unanswered delays a renewal by 15."""

    renew: float = 5.0
    watch: float = 30.0  # unchanged for so long: its holder is dead
    settle: float = 2.0  # after writing, before looking whose it is


class Lease:
    """A held lease; ``check`` before anything that only its holder may do."""

    def __init__(self, folder: Path, work: str, patience: LeaseTimeouts) -> None:
        self._file = folder / LEASE
        self._folder = folder
        self._patience = patience
        self._token = secrets.token_hex(16)
        self._holder = f"{work} on {socket.gethostname()}, process {os.getpid()}"
        self._beat = 0
        self._lost = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="lease")

    def check(self) -> None:
        """Raise if another has taken it over.

        Raises:
            LeaseLostError: one has; what this process still writes may not count.
        """
        if self._lost.is_set():
            raise LeaseLostError(
                f"{self._folder}: another command took over, because this one could not renew its "
                f"lease for {self._patience.watch:g} s; wait for that one, or give the same "
                "command again when it has ended"
            )

    def take(self, told: Callable[[float, float], None]) -> None:
        found = _read(self._file)
        began = time.monotonic()
        while found is not None and (waited := time.monotonic() - began) < self._patience.watch:
            told(waited, self._patience.watch)
            time.sleep(min(1.0, self._patience.renew / 2))
            now = _read(self._file)
            if now is not None and now != found:
                raise self._refusal(now)
            found = now
        self._write()
        time.sleep(self._patience.settle)
        if not self._is_mine():
            raise self._refusal(_read(self._file))
        self._thread.start()

    def release(self) -> None:
        self._ended.set()
        if self._thread.ident is None:
            return
        self._thread.join(self._patience.renew)
        if self._thread.is_alive():
            # The store is out of reach and keeps it; the next command then watches it for a while.
            return
        with suppress(OSError):
            if self._is_mine():
                self._file.unlink(missing_ok=True)

    def _renew(self) -> None:
        while not self._ended.wait(self._patience.renew):
            # Out of reach is not lost: whoever takes it over has to write here as well.
            with suppress(OSError):
                if not self._is_mine():
                    self._lost.set()
                    return
                self._write()

    def _write(self) -> None:
        self._beat += 1
        lease = {"token": self._token, "holder": self._holder, "beat": self._beat}
        self._file.write_bytes(json.dumps(lease).encode())

    def _is_mine(self) -> bool:
        return self._token.encode() in (_read(self._file) or b"")

    def _refusal(self, found: bytes | None) -> FolderError:
        try:
            holder = json.loads(found or b"")["holder"]
        except (ValueError, KeyError, TypeError):
            holder = "another command"
        return FolderError(
            f"{self._folder}: {holder} is at work on it; wait for it or give another folder"
        )


@contextmanager
def hold_lease(
    folder: Path,
    work: str,
    told: Callable[[float, float], None] = lambda waited, of: None,
    patience: LeaseTimeouts | None = None,
) -> Iterator[Lease]:
    """Hold the lease of a remote ``folder`` while the block runs.

    Args:
        work: what others are told is at work, as "extract".
        told: called with seconds waited, and of how many at most, while a lease that stands there
            is watched.

    Raises:
        FolderError: another command holds it.
        StorageError: the store cannot be reached.
    """
    lease = Lease(folder, work, patience or LeaseTimeouts())
    with storage_errors(folder):
        lease.take(told)
    try:
        yield lease
    finally:
        lease.release()


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
