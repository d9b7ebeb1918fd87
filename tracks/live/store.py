"""The file behind live linking: SQLite, in which every frame is one transaction.

A frame's state and its answer are committed together or not at all, so a process may be killed
anywhere, and several processes of one machine may share the file: SQLite lets one write at a
time. It keeps a log next to the file (``-wal``, ``-shm``), which a network disk cannot share.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import ClashError, LinkStateError
from tracks.association.state import OpenTracks
from tracks.live.state import Head, State, pack, unpack

FORMAT = 1
KEPT_ANSWERS = 32
"""Answers kept of a sequence; a request repeated later than that counts as a new one."""

WAIT_SECONDS = 10.0  # for another process to finish its frame, which takes milliseconds

_TABLES = (
    """
    CREATE TABLE sequences (
      name TEXT PRIMARY KEY,
      revision INTEGER NOT NULL,  -- frames linked so far
      touched REAL NOT NULL,      -- when the last one came, in seconds since 1970
      head TEXT NOT NULL,         -- tracks.live.state.Head as JSON
      tracks BLOB                 -- its open tracks; NULL: closed, because it was idle for long
    )
    """,
    """
    CREATE TABLE answers (
      sequence TEXT NOT NULL,
      request_id TEXT NOT NULL,
      revision INTEGER NOT NULL,  -- of the sequence, after this request
      digest BLOB NOT NULL,       -- of the request
      body BLOB NOT NULL,         -- of the answer
      PRIMARY KEY (sequence, request_id)
    )
    """,
    "CREATE INDEX answers_by_age ON answers (sequence, revision)",
)


class Transaction:
    """One transaction, which may read and write sequences."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute = connection.execute

    def answer(self, sequence: str, request_id: str, digest: bytes) -> bytes | None:
        """The answer to an earlier request; None if there was none, or long ago.

        Args:
            sequence: name of the sequence.
            request_id: of the request.
            digest: of all its contents.

        Raises:
            ClashError: the id was used for a request with another digest.
        """
        row = self._execute(
            "SELECT digest, body FROM answers WHERE sequence = ? AND request_id = ?",
            (sequence, request_id),
        ).fetchone()
        if row is None:
            return None
        if row[0] != digest:
            raise ClashError(
                f"request_id {request_id[:100]!r} of sequence {sequence[:100]!r} was answered "
                "before, to another request; give every frame an id of its own, and repeat a request "
                "unchanged"
            )
        body: bytes = row[1]
        return body

    def state(self, sequence: str, *, idle_before: float) -> State | None:
        """The state of a sequence; None where it has no frame yet.

        Args:
            sequence: its name.
            idle_before: tracks that were last touched earlier are closed, in seconds since 1970.
        """
        row = self._execute(
            "SELECT head, tracks, touched >= ? FROM sequences WHERE name = ?",
            (idle_before, sequence),
        ).fetchone()
        if row is None:
            return None
        head, tracks, recent = row
        return State(Head.model_validate_json(head), unpack(tracks) if tracks and recent else None)

    def save(
        self,
        sequence: str,
        head: Head,
        tracks: OpenTracks,
        *,
        touched: float,
        request_id: str,
        digest: bytes,
        body: bytes,
    ) -> None:
        """Replace the state of a sequence, and store the answer to the request that led to it.

        Args:
            sequence: its name.
            head: the new state, but for the open tracks.
            tracks: the open tracks.
            touched: the time, in seconds since 1970.
            request_id: of the request.
            digest: of all its contents.
            body: of the answer.
        """
        (revision,) = self._execute(
            "INSERT INTO sequences (name, revision, touched, head, tracks) VALUES (?, 1, ?, ?, ?) "
            "ON CONFLICT (name) DO UPDATE SET revision = revision + 1, "
            "touched = excluded.touched, head = excluded.head, tracks = excluded.tracks "
            "RETURNING revision",
            (sequence, touched, head.model_dump_json(), pack(tracks)),
        ).fetchone()
        self._execute(
            "INSERT INTO answers VALUES (?, ?, ?, ?, ?)",
            (sequence, request_id, revision, digest, body),
        )
        self._execute(
            "DELETE FROM answers WHERE sequence = ? AND revision <= ?",
            (sequence, revision - KEPT_ANSWERS),
        )

    def close_idle(self, *, before: float) -> int:
        """Close the open tracks of sequences idle since ``before``, in seconds since 1970.

        Their frame numbers and track counts are kept, so no track id is used twice.

        Returns:
            The number of these sequences.
        """
        self._execute(
            "DELETE FROM answers WHERE sequence IN "
            "(SELECT name FROM sequences WHERE touched < ? AND tracks IS NOT NULL)",
            (before,),
        )
        return self._execute(
            "UPDATE sequences SET tracks = NULL WHERE touched < ? AND tracks IS NOT NULL", (before,)
        ).rowcount


class LinkStore:
    """The file; safe to share between threads, whose transactions run one after another.

    It is created with the first frame and opened on first use: a server that links nothing needs no
    writable disk.

    Args:
        file: its path; None refuses every write.
        wait_seconds: longest wait for other processes that write.
    """

    def __init__(self, file: Path | None, *, wait_seconds: float = WAIT_SECONDS) -> None:
        self._file = file
        self._wait_seconds = wait_seconds
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None  # device and inode of the connected file

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """A transaction that is committed at the end of the block, or rolled back if it raises.

        Raises:
            LinkStateError: the file cannot be opened, read or written, or is not of this kind.
        """
        with self._lock, self._explained(), _exclusive(self._open()) as connection:
            yield Transaction(connection)

    @contextmanager
    def read(self) -> Iterator[Transaction | None]:
        """A transaction for reading only; None where there is no file yet.

        Raises:
            LinkStateError: as ``write``.
        """
        with self._lock, self._explained():
            yield Transaction(self._open()) if self.file.exists() else None

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
            raise LinkStateError(
                f"the state of live linking in {self.file} cannot be used: {reason}; look at the "
                "disk and its permissions, or start the server with another `link_state`"
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
            self._log_ahead(connection)
            # An answered frame is on the disk, also when the power fails.
            connection.execute("PRAGMA synchronous = FULL")
            with _exclusive(connection):  # another process may do the same
                self._make_tables(connection)
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

    def _make_tables(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not version and not tables:
            for statement in (*_TABLES, f"PRAGMA user_version = {FORMAT}"):
                connection.execute(statement)
        elif version != FORMAT:
            raise LinkStateError(
                f"{self.file} is no state of live linking that this version reads (format "
                f"{version}, not {FORMAT}); start the server with another `link_state`"
            )

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
