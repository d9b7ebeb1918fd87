"""What is read and written of live linking within one transaction of its file.

Everything kept is bounded, whatever is sent: the open tracks and answers of one sequence, those
of all, and the number of sequences. Where room is needed, sequences that have been idle for longest
leave; one that films is never pushed out by others.
"""

from __future__ import annotations

import sqlite3
import zlib
from dataclasses import dataclass, field

from common.errors import ClashError, FrameError, LinkDamagedError, LinkFullError
from tracks.association.state import OpenTracks
from tracks.live.state import Head, State, pack, unpack
from tracks.live.tables import FORMAT

KEPT_ANSWERS = 32
"""Answers kept of a sequence; a request repeated later than that counts as a new one."""

IDLE_SECONDS = 3600.0  # sequences without a frame for so long may leave where room is needed


@dataclass(frozen=True)
class Caps:
    """Upper bounds of what a file keeps."""

    sequences: int = 10_000
    sequence_bytes: int = 64_000_000  # open tracks and answers of one sequence
    total_bytes: int = 1_000_000_000  # of all sequences


@dataclass(frozen=True)
class Usage:
    """What a file keeps."""

    sequences: int
    bytes: int


@dataclass
class Left:
    """Names of the sequences that left to make room, or because they were idle for long."""

    closed: list[str] = field(default_factory=list)  # their open tracks and answers were removed
    removed: list[str] = field(default_factory=list)  # all of them was


class Transaction:
    """One transaction, which may read and write sequences.

    Args:
        connection: to the file.
        caps: of what it keeps.

    Attributes:
        left: the sequences that left in this transaction.
        written: bytes of the state to be saved.
    """

    def __init__(self, connection: sqlite3.Connection, caps: Caps) -> None:
        self.left = Left()
        self.written = 0
        self._execute = connection.execute
        self._caps = caps

    def answer(self, sequence: str, request_id: str, digest: bytes) -> bytes | None:
        """The answer to an earlier request; None if there was none, or long ago.

        Args:
            sequence: name of the sequence.
            request_id: of the request.
            digest: of all its contents.

        Raises:
            ClashError: the id was used for a request with another digest.
            LinkDamagedError: the stored answer is damaged.
        """
        row = self._execute(
            "SELECT CAST(digest AS BLOB), CAST(body AS BLOB), checksum FROM answers "
            "WHERE sequence = ? AND request_id = ?",
            (sequence, request_id),
        ).fetchone()
        if row is None:
            return None
        stored, body, checksum = row
        if checksum not in (None, _checksum(stored, body)):
            raise LinkDamagedError(sequence, "an answer is not what was written")
        if stored != digest:
            raise ClashError(
                f"request_id {request_id[:100]!r} of sequence {sequence[:100]!r} was answered "
                "before, to another request; give every frame an id of its own, and repeat a request "
                "unchanged"
            )
        return bytes(body)

    def state(self, sequence: str, *, idle_before: float) -> State | None:
        """The state of a sequence; None where it has no frame yet.

        Args:
            sequence: its name.
            idle_before: tracks that were last touched earlier are closed, in seconds since 1970.

        Raises:
            LinkDamagedError: it is damaged.
        """
        row = self._execute(
            "SELECT CAST(head AS BLOB), CAST(tracks AS BLOB), checksum, touched FROM sequences "
            "WHERE name = ?",
            (sequence,),
        ).fetchone()
        if row is None:
            return None
        head, tracks, checksum, touched = row
        if checksum not in (None, _checksum(head, tracks or b"")):
            raise LinkDamagedError(sequence, "it is not what was written")
        try:
            parsed = Head.model_validate_json(head)
            opened = None
            if tracks and touched >= idle_before:
                opened = unpack(tracks, count=len(parsed.last_ids))
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise LinkDamagedError(sequence, reason) from None
        (answers,) = self._execute(
            "SELECT coalesce(sum(length(body)), 0) FROM answers WHERE sequence = ?", (sequence,)
        ).fetchone()
        return State(parsed, opened, touched, len(head) + len(tracks or b"") + answers)

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

        Raises:
            FrameError: the sequence would be larger than the caps allow.
            LinkFullError: all sequences together would be, and too few of them are idle.
        """
        packed, text = pack(tracks), head.model_dump_json().encode()
        self.written = size = len(packed) + len(text) + len(body)
        if size > self._caps.sequence_bytes:
            raise FrameError(
                f"the open tracks of sequence {sequence[:100]!r} would take {size:,} bytes, and this "
                f"server keeps up to {self._caps.sequence_bytes:,} of a sequence; send fewer "
                "detections in a frame, or start the server with link options that keep less "
                "(`max_gap_frames`, `gallery_size`)"
            )
        (revision,) = self._execute(
            "INSERT INTO sequences (name, revision, touched, head, tracks, checksum) "
            "VALUES (?, 1, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET revision = revision + 1, "
            "touched = excluded.touched, head = excluded.head, tracks = excluded.tracks, "
            "checksum = excluded.checksum RETURNING revision",
            (sequence, touched, text.decode(), packed, _checksum(text, packed)),
        ).fetchone()
        self._execute(
            "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?)",
            (sequence, request_id, revision, digest, body, _checksum(digest, body)),
        )
        self._drop_answers(sequence, revision, self._caps.sequence_bytes - size + len(body))
        self._make_room(sequence, idle_before=touched - IDLE_SECONDS)

    def delete(self, sequence: str) -> bool:
        """Remove a sequence and its answers, damaged or not; False where there was none."""
        self._execute("DELETE FROM answers WHERE sequence = ?", (sequence,))
        return self._execute("DELETE FROM sequences WHERE name = ?", (sequence,)).rowcount > 0

    def close_idle(self, *, before: float) -> None:
        """Close the open tracks of sequences idle since ``before``, in seconds since 1970.

        Their frame numbers and track counts are kept, so no track id is used twice.
        """
        for name in self._idle(before):
            self._close(name)

    def usage(self) -> Usage:
        """What the file keeps now; pages that are free count as given back."""
        (pages,) = self._execute("PRAGMA page_count").fetchone()
        (free,) = self._execute("PRAGMA freelist_count").fetchone()
        (size,) = self._execute("PRAGMA page_size").fetchone()
        (sequences,) = self._execute("SELECT count(*) FROM sequences").fetchone()
        return Usage(sequences, (pages - free) * size)

    def fill(self, size: int) -> None:
        """Write ``size`` bytes, to see whether the disk takes them; ``delete("")`` removes them."""
        self.written = size
        self._execute(f"PRAGMA user_version = {FORMAT}")  # one page, where nothing else changes
        if size:
            self._execute(
                "INSERT OR REPLACE INTO answers VALUES ('', '', 0, x'', zeroblob(?), NULL)", (size,)
            )

    def _drop_answers(self, sequence: str, revision: int, room: int) -> None:
        """Remove all but the last answers, as many as are kept and fit into ``room`` bytes."""
        rows = self._execute(
            "SELECT revision, length(body) FROM answers WHERE sequence = ? ORDER BY revision DESC",
            (sequence,),
        ).fetchall()
        for number, size in rows:
            room -= size
            if room < 0 or number <= revision - KEPT_ANSWERS:
                self._execute(
                    "DELETE FROM answers WHERE sequence = ? AND revision <= ?", (sequence, number)
                )
                return

    def _make_room(self, kept: str, *, idle_before: float) -> None:
        """Let the sequences that were idle for longest leave until the caps are kept.

        Raises:
            LinkFullError: too few of them are idle.
        """
        caps, usage = self._caps, self.usage()
        if usage.bytes > caps.total_bytes:
            for name in self._idle(idle_before):
                self._close(name)
                if (usage := self.usage()).bytes <= caps.total_bytes:
                    break
        if (over := usage.sequences - caps.sequences) > 0:
            rows = self._execute(
                "SELECT name FROM sequences WHERE touched < ? AND name != ? ORDER BY touched LIMIT ?",
                (idle_before, kept, over),
            ).fetchall()
            for (name,) in rows:
                self.delete(name)
                self.left.removed.append(name)
            usage = self.usage()
        if usage.bytes > caps.total_bytes or usage.sequences > caps.sequences:
            raise LinkFullError(
                f"no room for sequence {kept[:100]!r}: this server keeps up to {caps.sequences:,} "
                f"sequences and {caps.total_bytes:,} bytes of open tracks, and none of the others has "
                f"been idle for {IDLE_SECONDS / 60:g} minutes; remove those that are over with "
                "DELETE /v1/link/{sequence}"
            )

    def _idle(self, before: float) -> list[str]:
        """Names of the sequences idle since ``before`` that are not closed, idle for longest first."""
        rows = self._execute(
            "SELECT name FROM sequences WHERE touched < ? AND tracks IS NOT NULL ORDER BY touched",
            (before,),
        ).fetchall()
        return [name for (name,) in rows]

    def _close(self, sequence: str) -> None:
        self.left.closed.append(sequence)
        self._execute("DELETE FROM answers WHERE sequence = ?", (sequence,))
        try:
            state = self.state(sequence, idle_before=float("inf"))
        except LinkDamagedError:
            self._execute("UPDATE sequences SET tracks = NULL WHERE name = ?", (sequence,))
            return
        assert state is not None
        head = state.head.model_copy(update={"last_ids": ()}).model_dump_json()
        self._execute(
            "UPDATE sequences SET tracks = NULL, head = ?, checksum = ? WHERE name = ?",
            (head, _checksum(head.encode(), b""), sequence),
        )


def _checksum(first: bytes, second: bytes) -> int:
    return zlib.crc32(second, zlib.crc32(first))
