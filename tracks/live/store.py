"""The file behind live linking: SQLite, in which every frame is one transaction.

A frame's state and its answer are committed together or not at all, so a process may be killed
anywhere, and several processes of one machine may share the file: SQLite lets one write at a
time. It keeps a log next to the file (``-wal``, ``-shm``), which a network disk cannot share.
"""

from __future__ import annotations

import math
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.errors import LinkStateError
from tracks.live.tables import FORMAT, make_tables
from tracks.live.transaction import Caps, Transaction, Usage

WAIT_SECONDS = 10.0  # for another process to finish its frame, which takes milliseconds
CHECK_SECONDS = 2.0  # a write, or one that failed, answers ``check`` for so long
_LOG_BYTES = 4_000_000  # of the log that stay on the disk after a large frame
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class LinkStore:
    """The file; safe to share between threads, whose transactions run one after another.

    It is created with the first frame and opened on first use: a server that links nothing needs no
    writable disk.

    Args:
        file: its path; None refuses every write.
        caps: of what it keeps.
        wait_seconds: longest wait for other processes that write.
    """

    def __init__(
        self, file: Path | None, *, caps: Caps | None = None, wait_seconds: float = WAIT_SECONDS
    ) -> None:
        self._file = file
        self._caps = caps or Caps()
        self._wait_seconds = wait_seconds
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None  # device and inode of the connected file
        self._wrote = self._failed = -math.inf  # last writes, by the monotonic clock
        self._failure: str | None = None  # why the last one failed; None: it did not
        self._needed = 0  # bytes that it would have written

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """A transaction that is committed at the end of the block, or rolled back if it raises.

        Raises:
            LinkStateError: the file cannot be opened, read or written, or is not of this kind.
        """
        with self._lock:
            transaction = None
            try:
                with self._explained(), _exclusive(self._open()) as connection:
                    transaction = Transaction(connection, self._caps)
                    yield transaction
            except LinkStateError as error:
                if isinstance(error.__cause__, sqlite3.Error | OSError):
                    self._failure, self._failed = str(error), time.monotonic()
                    self._needed = max(self._needed, transaction.written if transaction else 0)
                raise
            self._failure, self._wrote, self._needed = None, time.monotonic(), 0

    @contextmanager
    def read(self) -> Iterator[Transaction | None]:
        """A transaction for reading only; None where there is no file yet.

        Raises:
            LinkStateError: as ``write``.
        """
        with self._lock, self._explained():
            yield Transaction(self._open(), self._caps) if self.file.exists() else None

    @property
    def exists(self) -> bool:
        """Whether a frame was linked here."""
        return self._file is not None and self._file.exists()

    def usage(self) -> Usage:
        """What the file keeps.

        Raises:
            LinkStateError: it cannot be read.
        """
        if self._file is None:
            return Usage(0, 0)
        with self.read() as transaction:
            return Usage(0, 0) if transaction is None else transaction.usage()

    def check(self) -> None:
        """Raise unless a frame can be written, one as large as the last that could not be.

        Made for probes that ask every few seconds: it writes only where nothing else does.

        Raises:
            LinkStateError: it cannot.
        """
        now = time.monotonic()
        if self._failure is None and now - self._wrote < CHECK_SECONDS:
            return
        if self._failure is not None and now - self._failed < CHECK_SECONDS:
            raise LinkStateError(self._failure)
        needed = self._needed
        with self.write() as transaction:
            transaction.fill(needed)
        if needed:
            with self.write() as transaction:
                transaction.delete("")

    def close(self) -> None:
        """Close the file; the next transaction opens it again."""
        with self._lock:
            self._close()

    @property
    def file(self) -> Path:
        """Path of the file.

        Raises:
            LinkStateError: the server keeps none.
        """
        if self._file is None:
            raise LinkStateError(
                "this server keeps no state of live linking, because its replicas may run on "
                "several machines, or its index in an object store; start it with `link_state`, "
                "a file on a disk of the one machine where it runs"
            )
        return self._file

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            reason = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else error
            # The low byte is the kind of an error, the others say more of it.
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE:
                remedy = "stop the server and remove the file to begin all sequences anew"
            else:
                remedy = "look at the disk and its permissions"
            raise LinkStateError(
                f"the state of live linking in {self.file} cannot be used: {reason}; {remedy}, or "
                "start the server with another `link_state`"
            ) from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            # Removing the file starts anew: writes to a deleted file would be lost.
            if self._opened == self._identity():
                return self._connection
            self._close()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            self.file,
            timeout=self._wait_seconds,
            isolation_level=None,  # transactions begin and end explicitly
            check_same_thread=False,
        )
        try:
            # Pages that are free go back to the disk; said before anything is in the file.
            connection.execute("PRAGMA auto_vacuum = FULL")
            self._log_ahead(connection)
            connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
            # An answered frame is on the disk, also when the power fails.
            connection.execute("PRAGMA synchronous = FULL")
            with _exclusive(connection):  # another process may do the same
                version = make_tables(connection)
            if version != FORMAT:
                raise LinkStateError(
                    f"{self.file} is no state of live linking that this version reads (format "
                    f"{version}, not {FORMAT}); start the server with another `link_state`"
                )
            _verify(connection)
            _vacuum(connection)
        except BaseException:  # also Ctrl-C: the connection must not leak
            connection.close()
            raise
        self._connection, self._opened = connection, self._identity()
        return connection

    def _log_ahead(self, connection: sqlite3.Connection) -> None:
        """Switch to write-ahead logging; SQLite itself does not wait where two switch at once."""
        deadline = time.monotonic() + self._wait_seconds
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(0.005)

    def _identity(self) -> tuple[int, int] | None:
        try:
            stat = self.file.stat()
        except FileNotFoundError:
            return None
        return stat.st_dev, stat.st_ino

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@contextmanager
def _exclusive(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """A transaction during which no other process writes, between its reads and writes either."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _verify(connection: sqlite3.Connection) -> None:
    """Raise where tables and their indexes disagree, which would hide a sequence or an answer."""
    (result,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if result != "ok":
        damage = sqlite3.DatabaseError(f"it is damaged: {' '.join(result.split())}")
        damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise damage


def _vacuum(connection: sqlite3.Connection) -> None:
    """Rewrite a file of an earlier version, so that its free pages go back to the disk too."""
    (automatic,) = connection.execute("PRAGMA auto_vacuum").fetchone()
    if not automatic:
        with suppress(sqlite3.OperationalError):  # no room, or others use it: the next time
            connection.execute("PRAGMA auto_vacuum = FULL")
            connection.execute("VACUUM")
