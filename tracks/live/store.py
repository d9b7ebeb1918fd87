"""The file behind live linking: SQLite, in which every frame is one transaction.

A frame's state and its answer are committed together or not at all, so a process may be killed
anywhere, and several processes of one machine may share the file: SQLite lets one write at a
time. It keeps a log beside the file (``-wal``, ``-shm``), which a network disk cannot share.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.errors import LinkStateError

FORMAT = 1
LINK_STATE = Path("live", "links.sqlite3")
"""Where the file stands in an index folder, if it is put nowhere else."""

KEPT_ANSWERS = 32
"""Answers of a sequence that are remembered; a request repeated later than that is a new one."""

WAIT_SECONDS = 10.0  # for another process to end its frame, which takes milliseconds

_TABLES = (
    """
    CREATE TABLE sequences (
      name TEXT PRIMARY KEY,
      revision INTEGER NOT NULL,  -- frames linked so far
      touched REAL NOT NULL,      -- when the last one came, in seconds since 1970
      head TEXT NOT NULL,         -- tracks.live.state.Head as JSON
      tracks BLOB                 -- its open tracks; NULL: closed, because nothing came for long
    )
    """,
    """
    CREATE TABLE answers (
      sequence TEXT NOT NULL,
      request_id TEXT NOT NULL,
      revision INTEGER NOT NULL,  -- of the sequence, after this request
      digest BLOB NOT NULL,       -- of what was asked
      body BLOB NOT NULL,         -- what was answered
      PRIMARY KEY (sequence, request_id)
    )
    """,
    "CREATE INDEX answers_by_age ON answers (sequence, revision)",
)


@dataclass(frozen=True)
class SequenceRow:
    """A sequence as it stands in the file; fields as the columns."""

    revision: int
    touched: float
    head: str
    tracks: bytes | None


@dataclass(frozen=True)
class StoredAnswer:
    """An answer that was given."""

    digest: bytes
    body: bytes


class Transaction:
    """One transaction, in which a sequence may be read and written."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._do = connection.execute

    def answer(self, sequence: str, request_id: str) -> StoredAnswer | None:
        """What was answered to a request, if it is remembered."""
        found = self._do(
            "SELECT digest, body FROM answers WHERE sequence = ? AND request_id = ?",
            (sequence, request_id),
        ).fetchone()
        return None if found is None else StoredAnswer(*found)

    def row(self, sequence: str) -> SequenceRow | None:
        """A sequence; None where no frame of it ever came."""
        found = self._do(
            "SELECT revision, touched, head, tracks FROM sequences WHERE name = ?", (sequence,)
        ).fetchone()
        return None if found is None else SequenceRow(*found)

    def save(self, sequence: str, row: SequenceRow, request_id: str, kept: StoredAnswer) -> None:
        """Put a sequence in place of what stood there, with the answer that made it so."""
        self._do(
            "INSERT INTO sequences (name, revision, touched, head, tracks) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (name) DO UPDATE SET revision = excluded.revision, "
            "touched = excluded.touched, head = excluded.head, tracks = excluded.tracks",
            (sequence, row.revision, row.touched, row.head, row.tracks),
        )
        self._do(
            "INSERT INTO answers VALUES (?, ?, ?, ?, ?)",
            (sequence, request_id, row.revision, kept.digest, kept.body),
        )
        self._do(
            "DELETE FROM answers WHERE sequence = ? AND revision <= ?",
            (sequence, row.revision - KEPT_ANSWERS),
        )

    def close_idle(self, *, before: float) -> int:
        """Close the open tracks of sequences last touched ``before``; how many these were.

        Their frame numbers and the count of their tracks stay, so no track id is given twice.
        """
        self._do(
            "DELETE FROM answers WHERE sequence IN "
            "(SELECT name FROM sequences WHERE touched < ? AND tracks IS NOT NULL)",
            (before,),
        )
        return self._do(
            "UPDATE sequences SET tracks = NULL WHERE touched < ? AND tracks IS NOT NULL", (before,)
        ).rowcount


class LinkStore:
    """The file; safe to share between threads, one of which has its turn at a time.

    It is made with the first frame, and opened when first asked for: a server that links nothing
    needs no disk to write to. With None for a file every turn is refused.
    """

    def __init__(self, file: Path | None, *, wait_seconds: float = WAIT_SECONDS) -> None:
        self._file = file
        self._wait_seconds = wait_seconds
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None  # which file it is a connection to

    @contextmanager
    def turn(self) -> Iterator[Transaction]:
        """Write: all that is done in the block is kept when it ends, nothing if it raises.

        Raises:
            LinkStateError: the file cannot be opened, read or written, or is somebody else's.
        """
        with self._lock, self._explained():
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")  # so that nobody writes between read and write
            try:
                yield Transaction(connection)
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    @contextmanager
    def look(self) -> Iterator[Transaction | None]:
        """Read alone; None where there is no file yet.

        Raises:
            LinkStateError: as ``turn``.
        """
        with self._lock, self._explained():
            yield Transaction(self._open()) if self.file.exists() else None

    def close(self) -> None:
        """Give the file back; the next turn opens it again."""
        with self._lock:
            self._close()

    @property
    def file(self) -> Path:
        """The file.

        Raises:
            LinkStateError: there is none.
        """
        if self._file is None:
            raise LinkStateError(
                "this server keeps no state of live linking, because its replicas may stand on "
                "several machines, or its index in an object store; start it with --link-state "
                "FILE on a disk of the one machine where it runs"
            )
        return self._file

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            said = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else error
            raise LinkStateError(
                f"the state of live linking in {self.file} cannot be used: {said}; look at the "
                "disk and its permissions, or start the server with --link-state FILE elsewhere"
            ) from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            # Who removes the file begins anew; writing on into a file without a name does not.
            if self._opened == self._identity():
                return self._connection
            self._close()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            self.file,
            timeout=self._wait_seconds,
            isolation_level=None,  # transactions begin and end where we say so
            check_same_thread=False,
        )
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # A frame that was answered is on the disk, also when the power fails.
            connection.execute("PRAGMA synchronous = FULL")
            self._make_tables(connection)
        except BaseException:
            connection.close()
            raise
        self._connection, self._opened = connection, self._identity()
        return connection

    def _make_tables(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")  # another process may be at it
        try:
            (found,) = connection.execute("PRAGMA user_version").fetchone()
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if not found and not tables:
                for statement in _TABLES:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {FORMAT}")
            elif found != FORMAT:
                raise LinkStateError(
                    f"{self.file} is no state of live linking that this version reads (format "
                    f"{found}, not {FORMAT}); start the server with --link-state FILE elsewhere"
                )
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _identity(self) -> tuple[int, int] | None:
        try:
            facts = self.file.stat()
        except FileNotFoundError:
            return None
        return facts.st_dev, facts.st_ino

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
