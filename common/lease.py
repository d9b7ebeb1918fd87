"""One writer at a time of a folder in an object store, where there are no file locks.

``common.lock.lock_folder`` is the way to it for other packages. The lease is an object that its
holder writes anew every few seconds. A process that finds a lease watches it: one that changes
belongs to a running process, one that stays the same for a stated time to a process that died.
Clocks of two machines are never compared. Two processes may write their lease at once, so each reads
it again a moment later; and a holder reads it before every renewal, so that one that was taken for
dead stops by itself.
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
    """Seconds. A request that a store leaves unanswered delays a renewal by 15 s."""

    renew_interval: float = 5.0
    expiry: float = 30.0  # a lease that has not changed for so long belongs to a dead process
    confirm_delay: float = 2.0  # between writing a lease and reading whose it is


class Lease:
    """A held lease; call ``check`` before anything that only its holder may do."""

    def __init__(self, folder: Path, work: str, timeouts: LeaseTimeouts) -> None:
        self._file = folder / LEASE
        self._folder = folder
        self._timeouts = timeouts
        self._token = secrets.token_hex(16)
        self._holder = f"{work} on {socket.gethostname()}, process {os.getpid()}"
        self._beat = 0
        self._lost = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="lease")

    def check(self) -> None:
        """Raise if another process has taken the lease over.

        Raises:
            LeaseLostError: one has; what this process still writes may not count.
        """
        if self._lost.is_set():
            raise LeaseLostError(
                f"{self._folder}: another command took over, because this one could not renew its "
                f"lease for {self._timeouts.expiry:g} s; wait for that one, or give the same "
                "command again when it has ended"
            )

    def take(self, on_wait: Callable[[float, float], None]) -> None:
        lease = _read(self._file)
        began = time.monotonic()
        while lease is not None and (waited := time.monotonic() - began) < self._timeouts.expiry:
            on_wait(waited, self._timeouts.expiry)
            time.sleep(min(1.0, self._timeouts.renew_interval / 2))
            latest = _read(self._file)
            if latest is not None and latest != lease:
                raise self._in_use(latest)
            lease = latest
        self._write()
        time.sleep(self._timeouts.confirm_delay)
        if not self._is_mine():
            raise self._in_use(_read(self._file))
        self._thread.start()

    def release(self) -> None:
        self._ended.set()
        if self._thread.ident is None:
            return
        self._thread.join(self._timeouts.renew_interval)
        if self._thread.is_alive():
            # The store does not answer and keeps the lease; the next command waits until it expires.
            return
        with suppress(OSError):
            if self._is_mine():
                self._file.unlink(missing_ok=True)

    def _renew(self) -> None:
        while not self._ended.wait(self._timeouts.renew_interval):
            # A store that does not answer is no loss: a process that takes over must write as well.
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

    def _in_use(self, lease: bytes | None) -> FolderError:
        try:
            holder = json.loads(lease or b"")["holder"]
        except (ValueError, KeyError, TypeError):
            holder = "another command"
        return FolderError(
            f"{self._folder}: {holder} is at work on it; wait for it or give another folder"
        )


@contextmanager
def hold_lease(
    folder: Path,
    work: str,
    on_wait: Callable[[float, float], None] = lambda waited, limit: None,
    timeouts: LeaseTimeouts | None = None,
) -> Iterator[Lease]:
    """Hold the lease of a remote ``folder`` while the block runs.

    Args:
        folder: in an object store.
        work: the command, as the error of another process names it: "extract".
        on_wait: called with the seconds waited and the most there may be, while the lease of
            another process is watched.
        timeouts: how often to renew, and when a lease is given up; None: ``LeaseTimeouts()``.

    Raises:
        FolderError: another command holds it.
        StorageError: the store cannot be reached.
    """
    lease = Lease(folder, work, timeouts or LeaseTimeouts())
    with storage_errors(folder):
        lease.take(on_wait)
    try:
        yield lease
    finally:
        lease.release()


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
